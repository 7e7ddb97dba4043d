"""Reports of studies with fabricated trainings in a real tracking store."""

import errno
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.report.__main__ import main
from orchestrator.report.study_report import StudyReport, write_documents
from orchestrator.report.tables.table import main_table
from orchestrator.study.load import load_study
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.mark.slow
def test_failed_and_missing_trials_are_listed_first(tmp_path: Path, small_streets: Path) -> None:
    fates = {"b, seed 0": "FAILED", "b, seed 1": "missing", "a, seed 2": "KILLED"}
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1, 2]\n", fates=fates)
    storage = tmp_path / "storage"
    report = report_of(path).read()
    assert report.notes.unfinished == (
        "failed: b, seed 0: loss nan in epoch 12, step 3",
        "interrupted: a, seed 2, epoch 1 of 3",
        "missing: b, seed 1",
    )
    assert report.markdown().index("failed: b") < report.markdown().index("| variant |")
    assert [len(row.miou) for row in report.rows] == [2, 1]
    # Seed 2 of one row and seed 0 of the other are missing, so no pair is left.
    assert report.rows[1].difference is None
    assert main([str(path), "--storage", str(storage)]) == 1
    page = (storage / "reports" / "plain" / "report.html").read_text()
    assert page.index("3 of 6 trials have no score") < page.index("<table>")
    assert "<svg" in page
    assert "#ffffff" not in page  # the charts support dark mode
    row_without_score = replace(report.rows[1], miou={}, difference=None)
    (score_column,) = [
        c for c in main_table(report.study, [row_without_score], []).columns if c.name == "mIoU %"
    ]
    assert score_column.values == ("1 failed, 1 missing",)


@pytest.mark.slow
def test_other_code_causes_a_warning_and_other_data_or_protocol_is_not_compared(
    tmp_path: Path, small_streets: Path
) -> None:
    other = tmp_path / "other"
    prepare_streets(other, train=14, val=4, size=(32, 64))
    path = fabricate_study(
        tmp_path,
        small_streets,
        PLAIN
        + f"  data: {{set: {{data: {{dataset: {other}}}}}}}\n"
        + "  flip: {set: {evaluation: {flip: true}}}\n",
        code=lambda trial: "older" if trial.variant == "b" else trial.code,
        workers=lambda trial: 2 if trial.variant == "flip" else 1,
    )
    report = report_of(path).read()
    by_name = {row.variant: row for row in report.rows}
    assert by_name["b"].difference is not None
    assert by_name["data"].difference is None
    assert by_name["flip"].difference is None
    warnings = "\n".join(report.notes.warnings)
    assert (
        "‡ data cannot be compared with a (trained on different versions of the data set)"
        in warnings
    )
    assert "‡ flip cannot be compared with a (scored under different protocols)" in warnings
    assert "Rows are scored under different protocols" in warnings
    assert "Rows were trained with different code versions" in warnings
    assert "Trials were trained by different numbers of workers (1, 2)." in warnings
    assert "Trained with another version of the code than the one installed now: b." in warnings
    assert "| b\u00a0\\* |" in report.markdown()
    assert "| ‡ |" in report.markdown()


GRID = """\
study: grid
compare_to: a
base:
  data: {dataset: DATASET, crop: [64, 64]}
  training: {epochs: 3, precision: fp32}
grid: {model.channels: [8, 16]}
seeds: [0, 1, 2]
report: {published_setting: {data.dataset: cityscapes}}
variants:
  a: {set: {model: {backbone: dfnet1}}, reference: {miou: 70, source: Table 9}}
  b: {set: {model: {backbone: dfnet1, flows: []}}, reference: {miou: 71}}
  c: {set: {model: {backbone: dfnet1, flows: [detail]}}, compare_to: b}
"""


@pytest.mark.slow
def test_only_hides_rows_and_changes_no_number(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, GRID)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    whole = StudyReport(load_study(path), store).read()
    part = StudyReport(load_study(path, only=["b, 8, seed 0", "a, 8, *"]), store).read()
    assert [(row.variant, row.grid_cell) for row in part.rows] == [("a", ("8",)), ("b", ("8",))]
    shown = part.rows[1].difference
    (same,) = [
        row.difference for row in whole.rows if (row.variant, row.grid_cell) == ("b", ("8",))
    ]
    assert shown is not None
    assert shown == same
    assert shown.seeds == (0, 1, 2)
    # Two rows in two columns, and their means over the columns.
    assert shown.comparisons == 6
    assert "the 6 comparisons of this study" in "\n".join(part.notes.footnotes)
    # The seeds of one row began one after the other, but those of the study did not.
    assert "Seeds were added" not in "\n".join((*whole.notes.warnings, *part.notes.warnings))


@pytest.mark.slow
def test_rows_have_their_own_base_and_a_mean_over_the_grid(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(tmp_path, small_streets, GRID)
    report = report_of(path).read()
    by_place = {(row.variant, row.grid_cell): row for row in report.rows}
    bases = "minus the row it is compared to (b for c; a for the others), in points"
    for text in (report.markdown(), report.latex()):
        assert bases in " ".join(text.split())
    for cell in (("8",), ("16",)):
        row, other = by_place["c", cell], by_place["b", cell]
        assert row.difference is not None
        assert row.difference.compared_to == "b"
        expected = statistics.fmean(row.miou.values()) - statistics.fmean(other.miou.values())
        assert row.difference.mean == pytest.approx(expected)
    overall = {each.variant: each for each in report.overall}
    assert overall.keys() == {"b", "c"}
    means = [row.difference.mean for row in report.rows if row.variant == "c" and row.difference]
    assert overall["c"].difference.mean == pytest.approx(statistics.fmean(means))
    assert overall["c"].interaction_p is not None
    text = report.markdown()
    assert "## Differences over all values of channels" in text
    assert "| compared to |" in text
    main = report.tables[-1][1]
    (names,) = [column for column in main.columns if column.key == "compared_to"]
    assert not names.numeric
    # Published values of Cityscapes are shown apart and not compared.
    assert "published % (cityscapes)" in text
    assert "published diff." not in text
    assert "another setting than here" in text


def test_run_deleted_in_mlflow_is_missing(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    study_report = report_of(path)
    assert study_report.read().complete
    run = study_report.read().rows[1].results[0].run
    assert run is not None
    MlflowClient(tracking_uri(tmp_path / "storage")).delete_run(run.run_id)
    assert study_report.read().notes.unfinished == ("missing: b",)


def test_search_shows_scores_without_significance(tmp_path: Path, small_streets: Path) -> None:
    text = PLAIN.replace("study: plain", "study: plain\nkind: search").replace(
        "compare_to: a\n", ""
    )
    path = fabricate_study(tmp_path, small_streets, text)
    report = report_of(path).read()
    assert all(row.miou and row.difference is None for row in report.rows)
    assert any(note.startswith("This is a search") for note in report.notes.footnotes)
    assert "adjusted" not in report.markdown()


@pytest.mark.slow
def test_report_is_logged_to_the_study_and_counts_are_read_once(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    study_report = report_of(path)
    documents = study_report.documents(study_report.read())

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:  # a study of somebody else
        patch.setattr(study_report.store, "log_artifact", refuse)
        assert "artifacts cannot be written" in study_report.keep(documents)
    assert study_report.keep(documents) == ""
    client = MlflowClient(tracking_uri(tmp_path / "storage"))
    experiment = client.get_experiment_by_name("plain")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`orchestrator.kind` = 'study'")
    artifacts = {
        Path(entry.path).name for entry in client.list_artifacts(parent.info.run_id, "report")
    }
    assert artifacts == {"table.md", "table.csv", "table.tex", "report.html", "figures"}
    # Counts are read once, so the interval remains after the files are deleted.
    for counts in (tmp_path / "storage" / "artifacts").rglob("counts.arrow"):
        counts.unlink()
    (difference,) = [row.difference for row in study_report.read().rows if row.difference]
    assert difference.image_interval is not None
    fresh = [row.difference for row in report_of(path).read().rows if row.difference]
    assert [each.image_interval for each in fresh] == [None]


def test_files_that_cannot_all_be_written_leave_none(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "table.md").write_text("old")
    (folder / "figures").write_text("no folder")
    documents = {"table.md": "new", "table.csv": "new", "figures/miou.pdf": b"new"}
    with pytest.raises(OSError, match="figures"):
        write_documents(folder, documents)
    assert {file.name for file in folder.iterdir()} == {"table.md", "figures"}
    assert (folder / "table.md").read_text() == "old"

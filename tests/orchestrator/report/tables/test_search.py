"""Reports of searches that sample, with fabricated trainings in a real tracking store."""

import csv
import io
import statistics
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from orchestrator.report.__main__ import main
from orchestrator.report.rows.row import row_names
from orchestrator.report.tables.search import tuned_rows
from orchestrator.study.load import load_study
from orchestrator.study.search_result import FILE
from orchestrator.tracking.open_store import tracking_uri
from tests.support.fabricated_studies import fabricate_study, report_of, write_study

pytestmark = pytest.mark.usefixtures("own_store")
SEARCH = """\
study: tune
kind: search
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants: {strong: {label: strong baseline, set: {model: {flows: []}}}, full: {}}
sample:
  training.learning_rate: {log: [1e-3, 1]}
  training.optimizer: {choice: [sgd, {name: adamw, arguments: {eps: 1e-6}}]}
samples: 5
seeds: [0, 1]
"""
TABLE = """\
study: tuned
compare_to: strong
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants: {strong: {label: strong baseline, set: {model: {flows: []}}}, full: {}}
seeds: [0, 7, 8]
from_search: report/found.yaml
"""


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, small_streets: Path) -> Path:
    """A search of which one sample of row `strong` has failed with one seed."""
    directory = tmp_path_factory.mktemp("search")
    fates = {"strong, sample 2, seed 1": "FAILED"}
    return fabricate_study(directory, small_streets, SEARCH, fates=fates)


def recorded(path: Path) -> dict[tuple[str, int], list[float]]:
    """Return the mIoU of each sample's seeds from the tracking store alone."""
    client = MlflowClient(tracking_uri(path.parent / "storage"))
    experiment = client.get_experiment_by_name("tune")
    assert experiment is not None
    scores: dict[tuple[str, int], list[float]] = {}
    for run in client.search_runs([experiment.experiment_id], "tags.`orchestrator.kind` = 'trial'"):
        tags = run.data.tags
        if run.info.status == "FINISHED":
            key = tags["orchestrator.variant"], int(tags["orchestrator.sample"])
            scores.setdefault(key, []).append(100 * run.data.metrics["val/miou"])
    return scores


def test_the_best_sample_of_each_row_is_taken_to_a_table(search: Path, small_streets: Path) -> None:
    scores = {key: values for key, values in recorded(search).items() if len(values) == 2}
    assert len(scores) == 9  # all but the one of which a seed failed
    out = search.parent / "report"
    assert main([str(search), "--storage", str(search.parent / "storage"), "--out", str(out)]) == 1
    table = load_study(write_study(search.parent, small_streets, TABLE))
    result = table.config.search_result
    assert result is not None
    assert (result.search, result.samples, result.split, result.seeds) == ("tune", 5, "val", (0, 1))
    assert result.base == {
        "data.dataset": str(small_streets),
        "data.crop": [64, 64],
        "model.backbone": "dfnet1",
        "model.channels": 8,
        "training.epochs": 3,
        "training.precision": "fp32",
    }
    assert {row.variant: row.set for row in result.rows} == {
        "strong": {"model.flows": []},
        "full": {},
    }
    trials = {trial.name: trial for trial in load_study(_again(search, small_streets)).trials}
    for row in result.rows:
        means = {
            n: statistics.fmean(v) for (variant, n), v in scores.items() if variant == row.variant
        }
        assert row.sample == max(means, key=lambda n: means[n])
        assert row.score == pytest.approx(means[row.sample], abs=1e-4)
        assert row.tried == 5
        chosen = trials[f"{row.variant}, sample {row.sample}, seed 0"].experiment.training
        for trial in table.trials:
            if trial.variant == row.variant:
                assert trial.experiment.training == chosen


def _again(search: Path, dataset: Path) -> Path:
    path = search.parent / "again.yaml"
    path.write_text(SEARCH.replace("DATASET", str(dataset)))
    return path


@pytest.fixture
def text(search: Path, small_streets: Path) -> str:
    return report_of(_again(search, small_streets)).read().markdown()


def test_the_report_of_a_search(search: Path, text: str) -> None:
    best, everything = text.split("## All samples")
    assert "## Best of 5 samples" in best
    lines = [line for line in best.splitlines() if line.startswith("| strong baseline")]
    assert len(lines) == 1
    assert "| 4 of 5 |" in lines[0]
    assert everything.count("| strong baseline") == 5
    assert "failed: strong, sample 2, seed 1" in best.replace("**", "")
    assert "all rows have the same samples, drawn at random" in text
    assert "learning\\_rate log [0.001, 1]" in text or "learning_rate log [0.001, 1]" in text
    assert "stopped early" not in text
    assert "difference" not in best
    documents = report_of(search.parent / "again.yaml")
    files = documents.documents(documents.read())
    assert {FILE, "figures/samples.pdf"} <= files.keys()
    page = str(files["report.html"])
    assert "<h2>Samples</h2>" in page
    lines_of_csv = list(csv.DictReader(io.StringIO(str(files["table.csv"]))))
    numbers = [(line["variant"], line["sample"]) for line in lines_of_csv]
    assert numbers == [(row, str(n)) for row in ("strong", "full") for n in range(5)]
    assert float(lines_of_csv[0]["training.learning_rate"]) > 0
    latex = str(files["table.tex"])
    assert "tab:tune-best" in latex


def test_a_search_shows_no_differences(search: Path, small_streets: Path) -> None:
    path = search.parent / "compared.yaml"
    path.write_text(_again(search, small_streets).read_text() + "compare_to: strong\n")
    document = report_of(path)
    report = document.read()
    files = document.documents(report)
    assert "figures/classes.pdf" not in files
    page = str(files["report.html"])
    assert "IoU by class" in page
    for words in ("differences to it in points", "Student's t", "gains and loses", "largest gain"):
        assert words not in page


def test_warnings_name_the_samples(search: Path, small_streets: Path) -> None:
    rows = report_of(_again(search, small_streets)).read().rows
    assert row_names(rows[1:3], rows) == "strong baseline (sample 1, sample 2)"
    assert row_names(rows[:6], rows) == "strong baseline, full (sample 0)"


def test_a_table_says_where_its_values_come_from(
    search: Path, small_streets: Path, tmp_path: Path
) -> None:
    (search.parent / "report").mkdir(exist_ok=True)
    document = report_of(_again(search, small_streets))
    found = document.documents(document.read())[FILE]
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / FILE).write_text(str(found))
    path = fabricate_study(tmp_path, small_streets, TABLE)
    notes = report_of(path).read().notes
    assert any("best of 5 samples of search 'tune' (random;" in note for note in notes.footnotes)
    used = [line for line in notes.warnings if "used by search 'tune'" in line]
    assert len(used) == 1
    assert used[0].startswith("Seed 0 of this table was used")
    path.write_text(path.read_text().replace("[0, 7, 8]", "[7, 8]"))
    assert not any("used by search" in line for line in report_of(path).read().notes.warnings)
    path.write_text(
        path.read_text().replace("variants: {", "variants: {other: {set: {model: {ppm: false}}}, ")
    )
    warnings = "\n".join(report_of(path).read().notes.warnings)
    assert "Search 'tune' has no values for other" in warnings
    assert "had other settings" not in warnings


def test_a_table_says_how_its_rows_were_matched(
    search: Path, small_streets: Path, tmp_path: Path
) -> None:
    document = report_of(_again(search, small_streets))
    found = str(document.documents(document.read())[FILE])
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / FILE).write_text(found)
    exchanged = TABLE.replace("full", "new").replace("strong", "full").replace("new", "strong")
    exchanged = exchanged.replace("epochs: 3", "epochs: 4").replace("[64, 64]", "[32, 32]")
    path = fabricate_study(tmp_path, small_streets, exchanged)
    report = report_of(path).read()
    notes = report.notes
    assert "Other settings in search 'tune': `training.epochs` is 3 there and 4 here." in (
        notes.footnotes
    )
    renamed = "Rows that had another name in search 'tune': full was strong, strong was full."
    assert renamed in notes.footnotes
    crops = "`data.crop` is [64, 64] there and [32, 32] here"
    assert f"Search 'tune' had other settings than this table: {crops}." in notes.warnings
    best = {row["variant"]: row["values"] for row in yaml.safe_load(found)["rows"]}
    for row in report.rows:
        before = "strong" if row.variant == "full" else "full"
        rate = row.results[0].trial.experiment.training.learning_rate
        assert rate == best[before]["training.learning_rate"]

    content = yaml.safe_load(found)
    rows = [{k: v for k, v in row.items() if k != "set"} for row in content["rows"]]
    old = {k: v for k, v in content.items() if k != "base"} | {"rows": rows}
    (tmp_path / "report" / FILE).write_text(yaml.safe_dump(old))
    notes = report_of(path).read().notes
    assert any("matched by name alone (full, strong)" in line for line in notes.warnings)
    assert renamed not in notes.footnotes


def test_samples_with_the_same_values_count_their_hours_once(
    small_streets: Path, tmp_path: Path
) -> None:
    text = SEARCH[: SEARCH.index("  training.learning_rate:")]
    text += "  training.optimizer: {choice: [sgd, adamw]}\nsamples: 5\nseeds: [0, 1]\n"
    path = fabricate_study(tmp_path, small_streets, text)
    read = report_of(path).read()
    for row in tuned_rows(load_study(path), read.rows):
        runs = {r.run.run_id: r.run for sample in row.samples for r in sample.results if r.run}
        assert len(runs) == 2 * 2 < 5 * 2
        assert row.hours == pytest.approx(sum(run.hours or 0.0 for run in runs.values()))


def test_a_row_that_was_another_in_each_cell_of_the_grid_names_all(
    search: Path, small_streets: Path, tmp_path: Path
) -> None:
    document = report_of(_again(search, small_streets))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / FILE).write_text(str(document.documents(document.read())[FILE]))
    content = yaml.safe_load(TABLE)
    del content["compare_to"]
    content["variants"] = {"net": {}}
    content["grid"] = {"model.flows": [[], ["detail", "semantic"]]}
    path = fabricate_study(tmp_path, small_streets, yaml.safe_dump(content))
    notes = report_of(path).read().notes.footnotes
    assert "Rows that had another name in search 'tune': net was strong and full." in notes

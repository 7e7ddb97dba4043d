"""Reports of studies with fabricated trainings in a real tracking store."""

import base64
import csv
import errno
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from orchestrator.report.__main__ import main
from orchestrator.report.charts import GAIN, LOSS
from orchestrator.report.study_report import StudyReport, write_documents
from orchestrator.report.table import main_table
from orchestrator.study.load import load_study
from orchestrator.study.profile_costs import profile_costs
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import (
    PLAIN,
    fabricate,
    fabricate_study,
    report_of,
    write_study,
)
from tests.support.own_metric import WRONG

SNAPSHOTS = Path(__file__).parent / "snapshots"
pytestmark = pytest.mark.usefixtures("own_store")
STUDY = """\
study: snapshot
description: "Two rows & <b>their</b> figures."
compare_to: strong
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
grid: {model.channels: [8, 16]}
seeds: [0, 1]
variants:
  strong:
    label: strong_baseline & co
    set: {model: {flows: []}}
    reference: {miou: 77.3, source: "Table 1(a), 50 %"}
  full:
    label: FENet <b>
    reference: {miou: 80.1, source: "Table 1(a), 50 %"}
published:
  - {label: GFFNet, miou: 81.2, parameters_m: 70.5, gflops: 300, source: Table 3(a)}
"""


@pytest.fixture(scope="module")
def snapshot(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Path:
    """Return the file of a finished study; its storage is in the same directory."""
    directory = tmp_path_factory.mktemp("snapshot")
    make_storage(directory)
    return fabricate_study(directory, small_streets, STUDY)


@pytest.fixture(scope="module")
def documents(snapshot: Path) -> dict[str, str]:
    """Return the documents that the command writes, by file name."""
    out = snapshot.parent / "out"
    storage = str(snapshot.parent / "storage")
    assert main([str(snapshot), "--storage", storage, "--out", str(out)]) == 0
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table.md", "table.tex"])
def test_documents_match_the_snapshots(name: str, documents: dict[str, str]) -> None:
    """`UPDATE_SNAPSHOTS=1 pytest` rewrites the snapshots; review them before committing."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        (SNAPSHOTS / name).write_text(documents[name])
    assert documents[name] == (SNAPSHOTS / name).read_text()


def test_csv_values_match_the_tracking_store(snapshot: Path, documents: dict[str, str]) -> None:
    lines = list(csv.DictReader(io.StringIO(documents["table.csv"])))
    assert [(line["kind"], line["label"], line["model.channels"]) for line in lines] == [
        ("trained", "strong_baseline & co", "8"),
        ("trained", "strong_baseline & co", "16"),
        ("trained", "FENet <b>", "8"),
        ("trained", "FENet <b>", "16"),
        ("published", "GFFNet", ""),
    ]
    client = MlflowClient(tracking_uri(snapshot.parent / "storage"))
    for line in lines[:4]:
        runs = [client.get_run(run_id).data for run_id in line["runs"].split()]
        values = [100 * run.metrics["val/miou"] for run in runs]
        assert float(line["miou_mean"]) == pytest.approx(statistics.fmean(values), abs=1e-9)
        assert float(line["miou_sd"]) == pytest.approx(statistics.stdev(values), abs=1e-9)
        assert [float(line[f"miou_seed_{seed}"]) for seed in (0, 1)] == values
        assert float(line["parameters_m"]) == runs[0].metrics["model/parameters_m"]
    full, strong = lines[2], lines[0]
    difference = float(full["miou_mean"]) - float(strong["miou_mean"])
    assert float(full["difference"]) == pytest.approx(difference)
    assert float(full["interval_low"]) < difference < float(full["interval_high"])
    assert (full["compared_to"], full["difference_method"]) == ("strong", "own spread")
    assert float(full["published_difference"]) == pytest.approx(2.8)
    assert strong["difference"] == ""
    # Two seeds of two rows cannot be pooled, so nothing is tested.
    assert not {"p", "p_holm", "image_interval_low"} & full.keys()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX on this machine")
def test_latex_compiles(documents: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"{documents['table.tex']}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-2000:]


def test_latex_rows_have_a_cell_for_each_column(documents: dict[str, str]) -> None:
    text = documents["table.tex"]
    for shape, table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 2
        for row in rows:
            wide = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            assert len(re.findall(r"(?<!\\)&", row)) + 1 + sum(wide) - len(wide) == len(shape)
    plain = text.replace(r"\\", "")  # line breaks; a brace may follow
    assert plain.count("{") - plain.count(r"\{") == plain.count("}") - plain.count(r"\}")
    assert "strong\\_baseline \\& co" in text
    assert "50 \\%" in text


def test_latex_tables_have_labels_intervals_and_only_notes_on_their_columns(
    documents: dict[str, str],
) -> None:
    grid, main = documents["table.tex"].split(r"\end{table}")[:2]
    assert r"\label{tab:snapshot-grid}" in grid
    assert r"\label{tab:snapshot}" in main
    assert "% Columns left out here (table.csv has them): best epoch %, images/s, hours" in main
    assert "left out" not in grid
    grid, main = (re.sub("(?m)^%.*", "", table) for table in (grid, main))
    for table in (grid, main):
        assert re.search(r"\$\+\d\.\d\d\$ \{\\scriptsize \{\[\}\$[+-]", table)
        for absent in ("images/s", "hours", "best epoch", "(best)", "best:"):
            assert absent not in table
    assert "GFLOPs" in main
    assert "GFLOPs" not in grid
    assert r"\multicolumn{3}{c}{8}" in grid


class Page(HTMLParser):
    """The resources, links, tags and text of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            if tag == "a" and name == "href":
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


def test_page_is_self_contained_and_matches_the_table(
    documents: dict[str, str],
) -> None:
    text = documents["report.html"]
    page = Page(text)
    assert page.loaded == []
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    assert not re.findall(r"url\((?!#)|@import", text)
    assert "aachen_000005" in page.words
    assert "bonn_000009" in page.words
    for words in ("FENet <b>", "GFFNet", "IoU by class", "vegetation", "Learning"):
        assert words in page.words
    # For both grid cells: differences, accuracy, classes and two curves.
    assert page.tags.count("figure") == 10
    # Two lines in the table for each of eight trials.
    assert page.tags.count("polyline") == 16
    assert len(page.links) == 8
    assert all(
        re.fullmatch(
            r"http://127.0.0.1:5000/#/experiments/\d+/runs/\w+\?workflowType=machine_learning", link
        )
        for link in page.links
    )


@pytest.mark.slow
def test_command_needs_only_the_tracking_store(snapshot: Path, tmp_path: Path) -> None:
    """No data set, checkpoint or Ray is needed; a copy of the tracking store is enough."""
    shutil.copy(snapshot.parent / "storage" / "mlflow.db", tmp_path / "mlflow.db")
    text = re.sub(r"dataset: [^,]+", "dataset: /nowhere", snapshot.read_text())
    (tmp_path / "study.yaml").write_text(text)
    program = (
        "import sys; from orchestrator.report.__main__ import main; "
        "code = main(sys.argv[1:]); assert 'ray' not in sys.modules; exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "study.yaml"), "--storage", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert (tmp_path / "reports" / "snapshot" / "report.html").exists()


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


@pytest.mark.slow
def test_one_seed_has_no_test_in_any_format(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN + "report: {expected_difference: 0.8}\n")
    study_report = report_of(path)
    report = study_report.read()
    (difference,) = [row.difference for row in report.rows if row.difference]
    assert difference.method == "images only"
    assert difference.interval is difference.p is difference.p_adjusted is None
    assert difference.image_interval is not None
    documents = study_report.documents(report)
    for name, text in documents.items():
        if not isinstance(text, str):
            continue
        assert "Holm" not in text, name
        assert "adjusted" not in text, name
        assert "95\u00a0% CI" not in text, name
    for table in (report.markdown(), report.latex()):
        for word in ("p, adjusted", "CI", "textbf", "p value"):
            assert word not in table
        assert not re.search(r"\[\+?-?\d", table)
    page = str(documents["report.html"]).partition("</head>")[2]  # without the style sheet
    assert "Hollow point: one seed" in page
    for word in ("p, adjusted", "95&nbsp;%", "p&nbsp;&lt;", GAIN, LOSS):
        assert word not in page
    (line,) = [line for line in csv.DictReader(io.StringIO(report.csv())) if line["variant"] == "b"]
    assert line["difference"]
    assert not {"p", "p_holm", "interval_low"} & line.keys()
    assert float(line["image_interval_low"]) == difference.image_interval[0]
    (warning,) = report.notes.warnings
    assert warning.startswith("One seed cannot test a difference. ")


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


@pytest.mark.slow
def test_rows_have_their_own_base_and_a_mean_over_the_grid(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(tmp_path, small_streets, GRID)
    report = report_of(path).read()
    by_place = {(row.variant, row.grid_cell): row for row in report.rows}
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


@pytest.mark.slow
def test_report_columns_select_metrics_of_the_runs(tmp_path: Path, small_streets: Path) -> None:
    columns = "report: {columns: [pixel_accuracy, miou, iou/pole, memory_gib, iou/polle]}\n"
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]\n" + columns)
    report = report_of(path).read()
    header, _, first, _ = report.markdown().splitlines()[2:6]
    names = ["variant", "pixel accuracy %", "mIoU %", "IoU pole %", "memory\\_gib"]
    assert [cell.strip() for cell in header.strip("|").split("|")] == names
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    runs = [result.run for result in report.rows[0].results]
    for cell, metric in ((cells[1], "val/pixel_accuracy"), (cells[3], "val/iou/pole")):
        mean = statistics.fmean(100 * run.metrics[metric] for run in runs if run is not None)
        assert cell.split(" ± ")[0] == f"{mean:.1f}"
    assert cells[4:] == ["9.7"]
    (warning,) = [line for line in report.notes.warnings if "polle" in line]
    assert "left out" in warning


def test_other_metrics_have_differences_with_intervals(tmp_path: Path, small_streets: Path) -> None:
    text = PLAIN.replace(
        "  training:", "  evaluation: {metrics: [boundary_iou, calibration_error]}\n  training:"
    )
    text += """seeds: [0, 1, 2]
report: {columns: [miou, difference, dice, difference/dice, boundary_iou, difference/boundary_iou,
                   calibration_error, difference/calibration_error]}
"""
    path = write_study(tmp_path, small_streets, text)
    trials = fabricate(load_study(path), tmp_path / "storage")
    report = report_of(path).read()
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    (line,) = [line for line in csv.DictReader(io.StringIO(report.csv())) if line["variant"] == "b"]
    by_variant: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    for row in report.rows:
        for result in row.results:
            assert result.run is not None
            by_variant[row.variant].append(store.trial_run(result.run.run_id).metrics)
    assert len(by_variant["b"]) == len(trials) // 2
    for key in ("dice", "boundary_iou", "calibration_error"):
        values = [100 * metrics[f"val/{key}"] for metrics in by_variant["b"]]
        assert float(line[f"{key}_mean"]) == pytest.approx(statistics.fmean(values))
        low, mean, high = (float(line[f"difference/{key}{end}"]) for end in ("_low", "", "_high"))
        others = [100 * metrics[f"val/{key}"] for metrics in by_variant["a"]]
        assert mean == pytest.approx(statistics.fmean(values) - statistics.fmean(others))
        assert low < mean < high
    header = report.markdown().split("| variant |")[1].splitlines()[0]
    assert "difference in Dice [95\u00a0% CI]" in header
    assert "boundary IoU % |" in header
    assert "Lower is better: calibration error." in report.markdown()
    assert "so they have no p" in report.markdown()


def test_groups_of_classes_are_columns(tmp_path: Path, small_streets: Path) -> None:
    options = """
report:
  class_groups: {thin: [pole, fence]}
  columns: [miou, iou/thin, difference/iou/thin, iou/pole, iou/fence, difference/iou/pole]
"""
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]" + options)
    for line in csv.DictReader(io.StringIO(report_of(path).read().csv())):
        mean = (float(line["iou/pole_mean"]) + float(line["iou/fence_mean"])) / 2
        assert float(line["iou/thin_mean"]) == pytest.approx(mean)
    low, difference, high = (float(line[f"difference/iou/thin{e}"]) for e in ("_low", "", "_high"))
    assert low < difference < high
    assert line["difference/iou/pole_low"]


def test_names_of_classes_may_have_spaces(tmp_path: Path, small_streets: Path) -> None:
    """MLflow records `traffic-sign`."""
    columns = "report: {columns: [miou, iou/traffic sign, difference/iou/traffic sign]}\n"
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]\n" + columns)
    lines = list(csv.DictReader(io.StringIO(report_of(path).read().csv())))
    first, second = (float(line["iou/traffic sign_mean"]) for line in lines)
    difference = float(lines[1]["difference/iou/traffic sign"])
    assert difference == pytest.approx(second - first)


@pytest.mark.parametrize("more", ["class_groups: {thin: [pole, fense]}, ", ""])
def test_class_that_was_not_scored_is_one_error(
    tmp_path: Path, small_streets: Path, more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "iou/thin" if more else "difference/iou/fense"
    text = f"{PLAIN}report: {{{more}columns: [miou, {name}]}}\n"
    path = fabricate_study(tmp_path, small_streets, text)
    assert main([str(path), "--storage", str(tmp_path / "storage")]) == 2
    output = capsys.readouterr().out
    assert "the scored images have no class 'fense'; did you mean `fence`?" in output


def test_interval_needs_the_metric_that_was_measured(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has changed what the metric sums up."""
    name = "own_metric_that_changes"
    (tmp_path / f"{name}.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    text = PLAIN.replace("  training:", f"  evaluation: {{metrics: ['{name}:Wrong']}}\n  training:")
    text += "seeds: [0, 1]\nreport: {columns: [miou, Wrong, difference/Wrong]}\n"
    path = fabricate_study(tmp_path, small_streets, text)
    before = list(csv.DictReader(io.StringIO(report_of(path).read().csv())))[1]
    assert before["difference/Wrong_low"]
    monkeypatch.delitem(sys.modules, name)
    changed = WRONG.replace("stack([", "stack([valid.sum().double(), ").replace("1]", "2]")
    (tmp_path / f"{name}.py").write_text(changed.replace("0]", "1]"))
    after = list(csv.DictReader(io.StringIO(report_of(path).read().csv())))[1]
    assert after["Wrong_mean"] == before["Wrong_mean"]
    assert not after["difference/Wrong_low"]


def test_page_has_no_number_of_epochs_for_a_training_of_steps(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    study_report = report_of(path)
    report = study_report.read()
    assert "<td>3/3</td>" in str(study_report.documents(report)["report.html"])
    rows = []
    for row in report.rows:
        (result,) = row.results
        experiment = result.trial.experiment
        training = replace(experiment.training, epochs=None, steps=30)
        trial = replace(result.trial, experiment=replace(experiment, training=training))
        rows.append(replace(row, results=(replace(result, trial=trial),)))
    page = str(study_report.documents(replace(report, rows=rows))["report.html"])
    assert "<td>3</td>" in page
    assert "None" not in page


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


@pytest.mark.slow
def test_profile_report_compares_with_published_values(tmp_path: Path) -> None:
    study = Path(__file__).parents[3] / "studies" / "table-2.yaml"
    study = load_study(study)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    report = StudyReport(study, store, costs=profile_costs(study)).read()
    assert report.complete
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    compared = [line for line in lines if line["published_parameters_m"]]
    assert len(compared) >= 4
    for line in compared:
        published = float(line["published_parameters_m"])
        assert float(line["parameters_m"]) == pytest.approx(published, rel=0.005)
    assert "| difference |" in report.markdown()
    assert "mIoU" not in report.markdown()


def test_profile_of_small_networks(tmp_path: Path) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text("""\
study: costs
kind: profile
profile: {classes: 3, size: [32, 32]}
grid: {model.channels: [8, 16]}
base: {model: {backbone: dfnet1}}
variants:
  a: {reference: {parameters_m: 8.1, gflops: 0.02}}
published:
  - {label: other, gflops: 0.034, when: {model.channels: [8, 16]}}
""")
    study = load_study(path)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), None)
    report = StudyReport(study, store, costs=profile_costs(study)).read()
    (_, table), *_ = report.tables
    first = [column.name for column in table.columns].index("GFLOPs")
    ours, theirs = table.columns[first : first + 2]
    assert all(0.005 < float(text) < 0.1 for text in ours.values[:2])
    assert theirs.values == ("0.02", "0.02", "0.034")
    lines = report.records()
    assert [line["kind"] for line in lines] == ["profile", "profile", "published"]
    assert not any(line[name] for line in lines for name in ("split", "protocol", "unfinished"))
    assert lines[2]["model.channels"] == "8, 16"


@pytest.mark.slow
def test_comparison_figure_is_embedded_in_the_page(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    client = MlflowClient(tracking_uri(tmp_path / "storage"))
    experiment = client.get_experiment_by_name("plain")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`orchestrator.kind` = 'study'")
    Image.new("RGB", (3000, 400), "teal").save(tmp_path / "comparison.png")
    client.log_artifact(parent.info.run_id, str(tmp_path / "comparison.png"), "figures")
    study_report = report_of(path)
    page = Page(str(study_report.documents(study_report.read())["report.html"]))
    assert "Where the models differ most" in page.words
    (source,) = page.loaded
    encoded = source.removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.size == (1600, 213)
        red, green, _ = image.getpixel((800, 100))
        assert red < 20 < 110 < green


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "nowhere"], "no tracking store at"),
        (["--only", "nothing*"], "matches no trial"),
    ],
)
def test_bad_input_is_reported(
    arguments: list[str], message: str, snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(snapshot.parent / "storage")]
    assert main([str(snapshot), *storage, *arguments]) == 2
    assert message in capsys.readouterr().out


@pytest.mark.slow
def test_report_of_a_storage_in_a_bucket_is_below_the_home_directory(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory gets no folder `s3:`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(snapshot.parent / "storage"))
    assert main([str(snapshot), "--storage", "s3://bucket/x"]) == 0
    assert not (tmp_path / "s3:").exists()
    (page,) = tmp_path.rglob("report.html")
    assert page.parts[-4:-1] == ("s3-bucket-x", "reports", "snapshot")


def test_out_that_is_a_file_is_reported_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert main([str(tmp_path / "study.yaml"), "--out", str(out)]) == 2
    assert f"--out {out} is a file; choose a directory" in capsys.readouterr().out
    assert out.read_text() == "mine"


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


@pytest.mark.slow
def test_storage_without_a_place_for_the_report_is_an_error_before_it_is_computed(
    tmp_path: Path, small_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    (tmp_path / "storage" / "reports").write_text("not a directory")
    command = [str(path), "--storage", str(tmp_path / "storage")]
    assert main(command) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("choose a directory for the report with --out")
    assert main([*command, "--out", str(tmp_path / "out")]) in (0, 1)
    assert (tmp_path / "out" / "report.html").is_file()

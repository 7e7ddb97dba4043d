"""The documents of a report: snapshots, CSV, LaTeX and the HTML page."""

import base64
import csv
import io
import os
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from orchestrator.report.__main__ import main
from orchestrator.report.charts.drawing import GAIN, LOSS
from orchestrator.tracking.open_store import tracking_uri
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of
from tests.support.latex import compile_latex, needs_latex

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


@needs_latex
def test_latex_compiles(documents: dict[str, str], tmp_path: Path) -> None:
    compile_latex(tmp_path, documents["table.tex"], "booktabs,graphicx")


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
    assert not {"p", "p_holm", "interval_low", "comparisons"} & line.keys()
    assert float(line["image_interval_low"]) == difference.image_interval[0]
    (warning,) = report.notes.warnings
    assert warning.startswith("One seed cannot test a difference. ")


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
    assert "Images where the mIoU of the models differs most" in page.words
    (source,) = page.loaded
    encoded = source.removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.size == (1600, 213)
        red, green, _ = image.getpixel((800, 100))
        assert red < 20 < 110 < green

"""The caveats of a report: failed trials, older code versions, and rows scored on other splits."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator.report.breakdown import heat_map, image_list
from orchestrator.report.study_report import Report
from orchestrator.study.load import load_study
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from tests.support.fabricated_studies import FEW, PLAIN, fabricate, report_of, written

pytestmark = pytest.mark.usefixtures("own_store")

STUDY = PLAIN + (
    "  split: {label: 'other_split <b>', set: {data: {validation_split: train}}}\n"
    "seeds: [0, 1, 2]\n"
)


def report(tmp_path: Path, dataset: Path, statuses: dict[str, str]) -> Report:
    path = written(tmp_path, dataset, STUDY)
    fabricate(
        load_study(path),
        tmp_path / "storage",
        lambda trial: statuses.get(trial.name, "FINISHED"),
        FEW,
        lambda trial: "older" if trial.name == "a, seed 0" else trial.code,
    )
    return report_of(path).read()


def test_notes_describe_what_is_compared(tmp_path: Path, small_streets: Path) -> None:
    result = report(tmp_path, small_streets, {"b, seed 1": "FAILED"})
    notes = "\n".join([*result.notes.warnings, *result.notes.footnotes])
    text = result.markdown()
    # One of three seeds has failed, so the means in the table are over other seeds.
    assert (
        "over the shared seeds (0, 2) only, so it is not the difference of the means in the table: "
        "b." in notes
    )
    # The other row has the older code version, which also affects this row's difference.
    assert "The difference pairs trainings with different code versions or precisions" in notes
    assert "so it is not due to the rows alone: b." in notes
    (line,) = [line for line in text.splitlines() if line.startswith("| b |")]
    assert "]\u00a0† |" in line
    assert "Scored, at least in part, on training images" in notes
    assert "(scored on train, trained on train): other_split <b>." in notes
    # Markdown escapes all markup in labels.
    assert "**\\* Trained with a different code version" in text
    assert "other\\_split \\<b\\>." in text
    assert "other_split" not in text.replace("other\\_split", "")
    lines = {line["variant"]: line for line in csv.DictReader(io.StringIO(result.csv()))}
    assert [lines[name]["split"] for name in ("a", "b", "split")] == ["val", "val", "train"]
    assert lines["b"]["protocol"] == "whole"


def test_figures_use_comparable_runs_only(tmp_path: Path, small_streets: Path) -> None:
    result = report(tmp_path, small_streets, {"b, seed 1": "FAILED"})
    heat = heat_map(result.study, result.rows, ())
    assert heat is not None
    assert [label for label, _ in heat.lines] == ["a", "b"]
    base, row = ({r.trial.experiment.seed: r for r in row.results} for row in result.rows[:2])
    differences = [
        100 * (ours.iou[0] - theirs.iou[0])
        for seed in (0, 2)
        if (ours := row[seed].counts) and (theirs := base[seed].counts)
    ]
    assert heat.lines[1][1][0][0] == f"{sum(differences) / 2:+.1f}"
    images = image_list(result.study, result.rows, ())
    assert images is not None
    assert (images.label, images.base) == ("b", "a")


def test_bitwise_equal_trainings_are_reported(tmp_path: Path, small_streets: Path) -> None:
    result = report(tmp_path, small_streets, {})
    assert "exactly equal" not in "\n".join(result.notes.warnings)
    runs = {r.trial.name: r.run for row in result.rows for r in row.results}
    client = MlflowClient(f"sqlite:///{tmp_path / 'storage' / 'mlflow.db'}")
    theirs, ours = runs["a, seed 1"], runs["b, seed 2"]
    assert theirs is not None
    assert ours is not None
    for metric in ("train/loss", "val/miou"):
        client.log_metric(ours.run_id, metric, theirs.metrics[metric], step=3)
        warnings = "\n".join(report_of(tmp_path / "study.yaml").read().notes.warnings)
        is_listed = "exactly equal loss and mIoU: a, seed 1; b, seed 2." in warnings
        assert is_listed == (metric == "val/miou")


def test_warnings_of_the_data_are_reported(tmp_path: Path) -> None:
    """Both splits read one folder, and class `car` occurs in no label."""
    source = tmp_path / "source"
    rng = np.random.default_rng(0)
    for folder, shape, high in (("images", (16, 16, 3), 256), ("labels", (16, 16), 2)):
        (source / folder).mkdir(parents=True)
        pixels = rng.integers(0, high, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(source / folder / "a.png")
    (source / "dataset.yaml").write_text(
        "classes: {ground: [1, 2, 3], tree: [4, 5, 6], car: [7, 8, 9]}\nsplits:\n"
        "  train: {images: images, labels: labels}\n  val: {images: images, labels: labels}\n"
    )
    prepare(Folder(source), tmp_path / "set")
    warnings = report(tmp_path, tmp_path / "set", {}).notes.warnings
    shared = [line for line in warnings if line.startswith("Data: val shares 1 image of 1 with tr")]
    assert len(shared) == 1
    assert shared[0].endswith(": a (a, b).")
    # The row `split` is scored on the training images.
    assert "Data: train: 1 of 3 classes occurs in no label: car (all rows)." in warnings
    assert "Data: val: 1 of 3 classes occurs in no label: car (a, b)." in warnings


def test_single_shared_seed_is_reported(tmp_path: Path, small_streets: Path) -> None:
    result = report(tmp_path, small_streets, {"b, seed 1": "FAILED", "a, seed 2": "missing"})
    assert result.notes.unfinished[0].startswith("failed: b, seed 1")
    notes = "\n".join(result.notes.footnotes)
    assert "One seed: the interval does not include the variation between seeds." in notes

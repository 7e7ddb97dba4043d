"""A study as a strict reviewer reads it: a failure, an old version of the code, another split."""

import csv
import io
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.report.breakdown import heat_map, image_list
from orchestrator.report.study_report import Report
from orchestrator.study.load import load_study
from tests.support.fabricated_studies import FEW, PLAIN, fabricate, report_of, written

pytestmark = pytest.mark.usefixtures("own_store")

STUDY = PLAIN + (
    "  split: {label: 'other_split <b>', set: {data: {validation_split: train}}}\n"
    "seeds: [0, 1, 2]\n"
)


def report(tmp_path: Path, dataset: Path, fates: dict[str, str]) -> Report:
    path = written(tmp_path, dataset, STUDY)
    fabricate(
        load_study(path),
        tmp_path / "storage",
        lambda trial: fates.get(trial.name, "FINISHED"),
        FEW,
        lambda trial: "older" if trial.name == "a, seed 0" else trial.code,
    )
    return report_of(path).read()


def test_what_is_compared_with_what_is_told(tmp_path: Path, small_streets: Path) -> None:
    found = report(tmp_path, small_streets, {"b, seed 1": "FAILED"})
    said = "\n".join([*found.notes.warnings, *found.notes.footnotes])
    text = found.markdown()
    # One of three seeds has failed: the means in the table are over others.
    assert (
        "over the shared seeds (0, 2) only, so it is not the difference of the means in the table: "
        "b." in said
    )
    # The old version of the code is in the other row, and in this row's difference.
    assert "The difference pairs trainings with different code versions or precisions" in said
    assert "so it is not due to the rows alone: b." in said
    (line,) = [line for line in text.splitlines() if line.startswith("| b |")]
    assert "]\u00a0† |" in line
    assert "Scored, at least in part, on training images" in said
    assert "(scored on train, trained on train): other_split <b>." in said
    # Markdown takes none of it for markup.
    assert "**\\* Trained with a different code version" in text
    assert "other\\_split \\<b\\>." in text
    assert "other_split" not in text.replace("other\\_split", "")
    lines = {line["variant"]: line for line in csv.DictReader(io.StringIO(found.csv()))}
    assert [lines[name]["split"] for name in ("a", "b", "split")] == ["val", "val", "train"]
    assert lines["b"]["protocol"] == "whole"


def test_pictures_compare_what_may_be_compared(tmp_path: Path, small_streets: Path) -> None:
    found = report(tmp_path, small_streets, {"b, seed 1": "FAILED"})
    heat = heat_map(found.study, found.rows, ())
    assert heat is not None
    assert [label for label, _ in heat.lines] == ["a", "b"]
    base, row = ({r.trial.experiment.seed: r for r in row.results} for row in found.rows[:2])
    gained = [
        100 * (ours.iou[0] - theirs.iou[0])
        for seed in (0, 2)
        if (ours := row[seed].counts) and (theirs := base[seed].counts)
    ]
    assert heat.lines[1][1][0][0] == f"{sum(gained) / 2:+.1f}"
    images = image_list(found.study, found.rows, ())
    assert images is not None
    assert (images.label, images.base) == ("b", "a")


def test_trainings_that_are_equal_to_the_last_bit_are_told(
    tmp_path: Path, small_streets: Path
) -> None:
    found = report(tmp_path, small_streets, {})
    assert "exactly equal" not in "\n".join(found.notes.warnings)
    runs = {r.trial.name: r.run for row in found.rows for r in row.results}
    client = MlflowClient(f"sqlite:///{tmp_path / 'storage' / 'mlflow.db'}")
    theirs, ours = runs["a, seed 1"], runs["b, seed 2"]
    assert theirs is not None
    assert ours is not None
    for metric in ("train/loss", "val/miou"):
        client.log_metric(ours.run_id, metric, theirs.metrics[metric], step=3)
        warned = "\n".join(report_of(tmp_path / "study.yaml").read().notes.warnings)
        told = "exactly equal loss and mIoU: a, seed 1; b, seed 2." in warned
        assert told == (metric == "val/miou")


def test_a_single_shared_seed_is_told(tmp_path: Path, small_streets: Path) -> None:
    found = report(tmp_path, small_streets, {"b, seed 1": "FAILED", "a, seed 2": "missing"})
    assert found.notes.unfinished[0].startswith("failed: b, seed 1")
    said = "\n".join(found.notes.footnotes)
    assert "One seed: the interval does not include the variation between seeds." in said

"""Protocols and submissions: what is missing of them, and a study that has both."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cells import Cell, resolve_cells
from orchestrator.evaluations import is_current, settings
from orchestrator.packing import check_submission, missing_packages
from orchestrator.protocols import missing_scores
from orchestrator.study import Plan
from orchestrator.study_file import load_study
from pipelines.dataset import DatasetError
from pipelines.inference import InferenceConfig
from pipelines.submission import SubmissionError, pack

STUDY = """\
study: after
base:
  data: {dataset: DATASET, crop: [32, 32], train_split: train+val}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 1, batch: 3, learning_rate: 0.01, precision: fp32}
variants:
  small: {entered: {miou: 12.5, source: a test server, when: {data.validation_split: null}}}
grid: {data.validation_split: [null, val]}
protocols:
  flip: {flip: true}
  windows: {scales: [1, 1.5], window: [24, 24]}
submission: {benchmark: cityscapes, split: test, protocol: windows}
resources: {node_cache: null}
"""


@pytest.fixture
def plan(tmp_path: Path, cityscapes: Path) -> Plan:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(cityscapes)))
    return load_study(file)


@pytest.fixture
def cells(plan: Plan, tmp_path: Path) -> list[Cell]:
    return resolve_cells(plan.trials, "cpu", tmp_path)


UNVALIDATED, VALIDATED = "small, None", "small, val"


def wanted(plan: Plan, cells: Sequence[Cell], known: dict[str, dict[str, str]]) -> list[str]:
    """The protocols missing of a run that both cells share, with `known` recorded of it."""
    run_ids = {UNVALIDATED: "run", VALIDATED: "run"}
    return [entry.protocol for entry in missing_scores(plan, cells, run_ids, lambda _: known)]


def test_a_protocol_is_missing_until_it_is_recorded_as_asked(plan: Plan, cells: list[Cell]) -> None:
    fingerprint = cells[0].dataset.manifest.fingerprint
    recorded = {
        name: {"protocol": settings(config), "data": fingerprint, "split": "val", "code": "any"}
        for name, config in plan.study.protocols.items()
    }
    assert wanted(plan, cells, {}) == ["flip", "windows"]
    assert wanted(plan, cells, {"flip": recorded["flip"]}) == ["windows"]
    assert wanted(plan, cells, recorded) == []
    for key, value in (("protocol", "{}"), ("data", "0" * 64), ("split", "train")):
        changed = {**recorded, "flip": {**recorded["flip"], key: value}}
        assert wanted(plan, cells, changed) == ["flip"]
    # Unfinished trials, and those that validate on nothing, are not scored.
    assert not list(missing_scores(plan, cells, {}, lambda _: {}))
    assert not list(missing_scores(plan, cells, {UNVALIDATED: "run"}, lambda _: {}))


def test_settings_tell_protocols_apart() -> None:
    one, other = InferenceConfig(window=(24, 24)), InferenceConfig(window=(24, 24), stride=(8, 8))
    assert settings(one) != settings(other)
    tags = {"protocol": settings(one, 3), "data": "x", "split": "val"}
    assert is_current(tags, one, 3, "x", "val")
    assert not is_current(tags, one, 0, "x", "val")


def test_a_package_is_missing_until_it_is_recorded(plan: Plan, cells: list[Cell]) -> None:
    run_ids = {UNVALIDATED: "one", VALIDATED: "two"}
    missing = list(missing_packages(plan, cells, run_ids, lambda _: {}))
    assert [entry.run_id for entry in missing] == ["one", "two"]
    tags = {
        "protocol": settings(plan.study.protocols["windows"]),
        "data": cells[0].dataset.manifest.fingerprint,
        "split": "test",
    }
    known = {"submission-cityscapes": tags}
    assert not list(missing_packages(plan, cells, run_ids, lambda _: known))


def test_a_submission_that_no_server_takes_is_refused_before_training(
    plan: Plan, cells: list[Cell], small_streets: Path, tmp_path: Path
) -> None:
    check_submission(plan, cells)
    submission = plan.study.submission
    assert submission is not None
    absent = replace(plan, study=replace(plan.study, submission=replace(submission, split="all")))
    with pytest.raises(DatasetError, match="no samples in split 'all'; it has train"):
        check_submission(absent, cells)
    file = tmp_path / "streets.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("split: test", "split: val")
    file.write_text(text)
    streets = load_study(file)
    with pytest.raises(SubmissionError, match="cityscapes wants 19 classes"):
        check_submission(streets, resolve_cells(streets.trials, "cpu", tmp_path))


def test_a_package_is_the_same_each_time(tmp_path: Path) -> None:
    files = {"b_000000_000019": b"second", "a_000000_000019": b"first"}
    for name in ("one", "two"):
        pack(tmp_path / "deep" / f"{name}.zip", files)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("deep/*")}
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "deep" / "one.zip") as archive:
        assert archive.namelist() == ["a_000000_000019.png", "b_000000_000019.png"]
        assert archive.read("a_000000_000019.png") == b"first"

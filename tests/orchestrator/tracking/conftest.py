"""Fixtures: a study with one trial, and its run in a separate tracking store."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from tests.support.study_files import load

STUDY = """\
study: tracking test
description: What a **reader** sees first.
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
variants:
  full: {}
"""


@pytest.fixture
def study(tmp_path: Path, small_streets: Path) -> Study:
    return load(tmp_path, STUDY.replace("DATASET", str(small_streets)))


@pytest.fixture
def trial(study: Study, tmp_path: Path) -> ResolvedTrial:
    return resolve_trials(study.trials, "cpu", tmp_path)[0]


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture
def store(uri: str, tmp_path: Path) -> TrackingStore:
    return TrackingStore(uri, tmp_path / "artifacts")


@pytest.fixture
def study_run(store: TrackingStore, study: Study) -> Iterator[StudyRun]:
    study_run = StudyRun.open(store, study)
    yield study_run
    study_run.close("FINISHED")

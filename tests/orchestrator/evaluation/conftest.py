"""Fixtures: a study with protocols and a submission, and its resolved trials."""

from pathlib import Path

import pytest

from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from tests.support.study_files import load

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
def study(tmp_path: Path, cityscapes: Path) -> Study:
    return load(tmp_path, STUDY.replace("DATASET", str(cityscapes)))


@pytest.fixture
def trials(study: Study, tmp_path: Path) -> list[ResolvedTrial]:
    return resolve_trials(study.trials, "cpu", tmp_path)

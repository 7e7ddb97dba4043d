"""Only a trial's own checkpoint is recorded in the tracking store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.models import log_models
from orchestrator.tracking.store import TrackingStore
from pipelines.network.checkpoint import CheckpointError
from pipelines.network.file_names import STATE_FILE
from pipelines.training.lineage import lineage
from tests.support.finished_run import STUDY


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, small_streets: Path) -> ResolvedTrial:
    directory = tmp_path_factory.mktemp("study")
    file = directory / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    (resolved,) = resolve_trials(load_study(file).trials, "cpu", directory)
    return resolved


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 4}, r"seed: 4 \(recorded\), 0 \(now\)"),
        ({"data": "0" * 64}, r"data.dataset: 0{64} \(recorded\), \w{64} \(now\)"),
        ({"init": "abc"}, r"training.init: abc \(recorded\), None \(now\)"),
    ],
)
def test_checkpoint_of_another_experiment_is_rejected(
    trial: ResolvedTrial,
    tmp_path: Path,
    empty_store: Path,
    changed: dict[str, Any],
    difference: str,
) -> None:
    experiment = replace(trial.worker_experiment, seed=changed.get("seed", 0))
    data = changed.get("data", trial.dataset.manifest.fingerprint)
    trial_lineage = lineage(experiment, data, {"init": changed.get("init")})
    (tmp_path / STATE_FILE).write_text(json.dumps({"experiment": trial_lineage}))
    store = TrackingStore(f"sqlite:///{empty_store}", None)
    with pytest.raises(CheckpointError, match=f"belongs to another experiment: {difference}$"):
        log_models(store, "no run", trial, (), tmp_path, None, {"epoch": 1})

"""Trained models whose user code is not importable: predicting needs the network's alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator import evaluate, predict
from orchestrator.evaluation.trained_model import load_model, store_for_model
from orchestrator.study.yaml_source import StudyError
from orchestrator.tracking.store import TrackingStore
from pipelines.config import dump_yaml, load_yaml
from tests.support.finished_run import FinishedRun

#: Parts that only a training uses, and what errors call them.
PARTS = {
    ("data", "augmentation", "transforms"): [{"name": "absent:Haze", "arguments": {"most": 1}}],
    ("training", "optimizer"): {"name": "absent:Optimizer", "arguments": {"beta": 0.9}},
    ("training", "schedule"): {"name": "absent:Schedule", "arguments": {}},
    ("training", "loss", "terms"): ["absent:Loss"],
    ("evaluation", "metrics"): ["absent:Metric"],
}
NAMES = ("transform absent:Haze", "optimizer absent:Optimizer", "schedule absent:Schedule")
NAMES += ("loss absent:Loss", "metric absent:Metric")


def with_parts(run: FinishedRun, directory: Path, parts: dict[tuple[str, ...], Any]) -> Path:
    """Copy the run's model directory with other settings of the experiment."""
    shutil.copytree(run.directory, directory)
    experiment = load_yaml((directory / "experiment.yaml").read_text())
    for (*parents, key), value in parts.items():
        inner = experiment
        for parent in parents:
            inner = inner[parent]
        inner[key] = value
    (directory / "experiment.yaml").write_text(dump_yaml(experiment))
    return directory


def test_predicting_imports_no_part_of_the_training(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)).save(image)
    model = with_parts(finished_run, tmp_path / "model", PARTS)
    labels = []
    for name, directory in (("own", model), ("plain", finished_run.directory)):
        out = tmp_path / name
        assert predict.main([str(directory), str(image), "--out", str(out)]) == 0
        labels.append((out / "image.png").read_bytes())
    assert labels[0] == labels[1]
    data = ["--dataset", str(finished_run.dataset)]
    assert evaluate.main([str(model), *data]) == 0
    assert evaluate.main([str(model), *data, "--metric", "absent:Metric"]) == 2
    assert "metric absent:Metric: cannot import absent" in capsys.readouterr().out


def test_network_that_cannot_be_imported_is_an_error(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    own = {"network": "absent:Network", "arguments": {}}
    model = with_parts(finished_run, tmp_path / "network", {("model",): own})
    with pytest.raises(StudyError, match="network absent:Network: cannot import absent"):
        load_model(str(model), None)


def test_scores_of_a_run_need_all_code_of_its_training(
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are recorded under its version, so nothing is scored in vain."""
    model = with_parts(finished_run, tmp_path / "model", PARTS)
    monkeypatch.setattr(TrackingStore, "download", lambda store, name, directory: model)
    name, storage = f"runs:/{finished_run.run_id}/last", str(finished_run.storage)
    store = store_for_model(name, finished_run.storage)
    assert load_model(name, store).experiment.class_names
    data = ["--dataset", str(finished_run.dataset), "--storage", storage]
    assert evaluate.main([name, *data]) == 2
    printed = capsys.readouterr().out
    for part in NAMES:
        assert f"{part}: cannot import absent" in printed

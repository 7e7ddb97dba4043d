"""Concurrent trials train independently."""

from pathlib import Path

import pytest
import torch

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from pipelines.data.dataset import open_dataset
from pipelines.training.loop import Training, TrainingReport
from tests.support.sweep_command import STUDY, runs, sweep


@pytest.mark.slow
def test_concurrent_trials_equal_the_same_trials_trained_one_by_one(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    """Train four trials at a time, then each of them in this process without Ray."""
    file = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("CACHE", str(tmp_path / "cache"))
    text = text.replace("epochs: 3", "epochs: 1").replace("workers: 2", "workers: 1")
    file.write_text(text + "seeds: [0, 1]\n")
    # --only also skips the figures.
    done = sweep(file, "--no-preflight", "--only", "strong*", "--only", "full*")
    assert done.returncode == 0, done.stdout
    assert "4 trials at a time" in done.stdout
    _, trials, _ = runs(file)

    study = load_study(file)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker with half a core also uses one
    try:
        for trial in resolve_trials(study.trials, "cpu", tmp_path):
            if trial.name not in trials:
                continue
            reports: list[TrainingReport] = []
            training = Training(
                trial.worker_experiment, open_dataset(trial.location), torch.device("cpu")
            )
            training.run(reports.append, None, lambda: False)
            expected = reports[-1].metrics
            assert expected is not None
            recorded = trials[trial.name].data.metrics
            for name in ("train/loss", "val/miou", "val/pixel_accuracy"):
                assert recorded[name] == expected[name], (trial.name, name)
    finally:
        torch.set_num_threads(threads)
    assert len({trial.data.metrics["train/loss"] for trial in trials.values()}) == 4

"""A study with metrics of the user's own, whose trials train at the same time."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.statistics_file import read_statistics
from pipelines.training.loop import Training, TrainingReport
from tests.support.own_metric import WRONG
from tests.support.sweep_command import runs, sweep

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OWN = f"""{WRONG}
class Confidence(Metric):
    def statistics(self, prediction, labels, probabilities):
        confidence = probabilities.amax(dim=0)[labels != 255].double()
        return torch.stack([confidence.sum(), (labels != 255).sum().double()])

    def score(self, sums):
        return sums[..., 0] / sums[..., 1]
"""
STUDY = """\
study: tiny
compare_to: none
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 1, batch: 6, learning_rate: 0.02}
  evaluation: {batch: 5}  # all images: each task that scores a batch starts a process
variants:
  none: {set: {model: {flows: []}, evaluation: &own {metrics: [HALF]}}}
  full: {set: {model: {supervision: [3, 4]}, evaluation: *own}}
  plain: {}
  other: {set: {model: {flows: [detail]}}}
seeds: [0, 1]
protocols: {whole: {metrics: ["own_sweep_metrics:Confidence"]}}
report: {protocol: whole, columns: [miou, half, difference/half, Confidence, pixel_accuracy]}
resources: {workers: 1, cpus_per_worker: 0.5, node_cache: CACHE}
"""
TRAINED = ("none*", "full*", "plain, seed 0")
HALF = '{name: "own_sweep_metrics:Wrong", arguments: {factor: 0.5}, key: half}'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_streets: Path) -> Iterator[Path]:
    """Yield the path of a study file, five trials of which were trained, four at a time."""
    directory = tmp_path_factory.mktemp("study")
    (directory / "own_sweep_metrics.py").write_text(OWN)
    study = directory / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("HALF", HALF)
    study.write_text(text.replace("CACHE", str(directory / "cache")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(directory), str(ROOT))))
        patch.syspath_prepend(str(directory))  # for the tests
        # --only also skips the figures.
        done = sweep(study, "--no-preflight", *(f"--only={name}" for name in TRAINED))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 trials at a time" in done.stdout
        yield study


def test_concurrent_trials_equal_the_same_trials_trained_one_by_one(trained: Path) -> None:
    """Train each of the trials in this process without Ray."""
    _, recorded_runs, _ = runs(trained)
    assert len(recorded_runs) == 5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker with half a core also uses one
    try:
        for trial in resolve_trials(load_study(trained).trials, "cpu", trained.parent):
            if trial.name not in recorded_runs:
                continue
            reports: list[TrainingReport] = []
            training = Training(
                trial.worker_experiment, open_dataset(trial.location), torch.device("cpu")
            )
            training.run(reports.append, None, lambda: False)
            expected = reports[-1].metrics
            assert expected is not None
            recorded = recorded_runs[trial.name].data.metrics
            for name in ("train/loss", "val/miou", "val/pixel_accuracy", "val/half"):
                assert recorded.get(name) == expected.get(name), (trial.name, name)
    finally:
        torch.set_num_threads(threads)
    losses = {run.data.metrics["train/loss"] for run in recorded_runs.values()}
    assert len(losses) == 5


def test_own_metrics_of_training_and_protocol_reach_the_table(trained: Path) -> None:
    (parent,), trials, client = runs(trained)
    table = Path(client.download_artifacts(parent.info.run_id, "report/table.csv")).read_text()
    lines = {line["variant"]: line for line in csv.DictReader(table.splitlines())}
    for variant in ("none", "full"):
        own = [run for name, run in trials.items() if name.startswith(variant)]
        for run in own:
            metrics = run.data.metrics
            # Both are functions of the same pixels.
            assert metrics["val/half"] == pytest.approx((1 - metrics["val/pixel_accuracy"]) / 2)
            assert metrics["eval/whole/half"] == pytest.approx(metrics["val/half"])
            assert 0.1 < metrics["eval/whole/Confidence"] <= 1
            assert "val/Confidence" not in metrics
            folder = Path(client.download_artifacts(run.info.run_id, ""))
            for file, keys in (
                ("statistics.arrow", ["half"]),
                ("eval/whole/statistics.arrow", ["half", "Confidence"]),
            ):
                statistics = read_statistics(folder / file)
                assert list(statistics.values) == keys
                wrong, pixels = statistics.values["half"].sum(axis=0)
                assert wrong / pixels == pytest.approx(metrics["val/half"])
        for column, metric in (("half", "val/half"), ("Confidence", "eval/whole/Confidence")):
            expected = 100 * sum(run.data.metrics[metric] for run in own) / len(own)
            assert float(lines[variant][f"{column}_mean"]) == pytest.approx(expected)
    expected = float(lines["full"]["half_mean"]) - float(lines["none"]["half_mean"])
    assert float(lines["full"]["difference/half"]) == pytest.approx(expected, abs=1e-6)

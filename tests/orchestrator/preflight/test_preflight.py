"""A preflight run in one worker without Ray: its failures and the fixes that messages suggest."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from orchestrator.planning.forecast import Forecaster
from orchestrator.planning.preflight_choice import distinct, is_worthwhile
from orchestrator.preflight.preflight import PreflightError, raise_failures
from orchestrator.preflight.run import PreflightResult
from orchestrator.preflight.worker import smoke_test
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.resources import Resources
from orchestrator.training.diagnosis import diagnose
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.config import InferenceConfig

BATCH = 4
STUDY = """\
study: preflight
base:
  data: {dataset: DATASET, crop: [32, 48]}
  training: {epochs: 3000, batch: 4, precision: fp32, learning_rate: 0.1}
variants:
"""


class Sound(nn.Module):
    """One convolution. Its subclasses fail as a trial would: only on a full training batch."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.convolution(images)
        return self.fail(logits) if self.training and len(images) == BATCH else logits

    def fail(self, logits: Tensor) -> Tensor:
        return logits


class TooLarge(Sound):
    def fail(self, logits: Tensor) -> Tensor:
        torch.empty(10**15)
        return logits


class TooLargeOnADevice(Sound):
    def fail(self, logits: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmuch more")


class TooLargeWhenScored(Sound):
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] > 48:
            torch.empty(10**15)
        return super().forward(images)


class Misshapen(Sound):
    def fail(self, logits: Tensor) -> Tensor:
        return logits.reshape(BATCH, 7, -1)


class NotFinite(Sound):
    def fail(self, logits: Tensor) -> Tensor:
        return logits * float("nan")


FAILING = {
    "TooLarge": ("out of memory in training", "training.accumulation: 2"),
    "TooLargeOnADevice": (
        "out of memory in training: OutOfMemoryError",
        "resources.workers: 2",
    ),
    "TooLargeWhenScored": ("out of memory in validation", "a sliding window, such as"),
    "Misshapen": ("error in training: RuntimeError: shape", "traceback in the log file"),
    "NotFinite": ("non-finite loss in training", "training.learning_rate: 0.05"),
}


def trials_of(directory: Path, dataset: Path, variants: str) -> list[ResolvedTrial]:
    path = directory / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(dataset)) + variants)
    return resolve_trials(load_study(path).trials, "cpu", directory)


def preflight(
    trial: ResolvedTrial, directory: Path, *protocols: InferenceConfig
) -> PreflightResult:
    """The result that the workers of a preflight run return."""
    name = trial.name
    try:
        dataset, device = open_dataset(trial.location), torch.device("cpu")
        return PreflightResult(
            name,
            smoke_test(trial.worker_experiment, dataset, device, None, directory / name, protocols),
        )
    except Exception as error:
        failure = diagnose(error)
        return PreflightResult(name, None, 0, "", failure.cause, failure.message, failure.stage)


@pytest.mark.slow
def test_every_failure_is_listed_with_its_trial_and_possible_fixes(
    tmp_path: Path, small_streets: Path
) -> None:
    rows = [f"  {n}: {{set: {{model: {{network: '{__name__}:{n}'}}}}}}\n" for n in FAILING]
    trials = trials_of(tmp_path, small_streets, "".join(rows))
    with pytest.raises(PreflightError) as caught:
        raise_failures([preflight(c, tmp_path) for c in trials], trials, Resources(), "cpu")
    lines = str(caught.value).splitlines()
    assert lines[-1].startswith("Nothing was trained.")
    for index, (name, (problem, fix)) in enumerate(FAILING.items()):
        assert lines[2 * index].startswith(f"{name}: {problem}")
        assert fix in lines[2 * index + 1]


@pytest.mark.slow
def test_damaged_images_are_detected(tmp_path: Path, small_streets: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(small_streets, copy)
    (shard,) = copy.glob("train-*.parquet")
    content = bytearray(shard.read_bytes())
    for position in range(len(content) // 4, len(content) // 2):
        content[position] ^= 0x5A
    shard.write_bytes(content)
    trials = trials_of(tmp_path, copy, "  one: {}\n")
    with pytest.raises(PreflightError) as caught:
        raise_failures([preflight(trials[0], tmp_path)], trials, Resources(), "cpu")
    assert str(caught.value).startswith("one: data in ")
    assert f"orchestrator prepare inspect {copy}" in str(caught.value)


@pytest.mark.slow
def test_working_experiment_returns_its_timings(tmp_path: Path, small_streets: Path) -> None:
    network = f"{{network: '{__name__}:Sound'}}"
    (trial,) = trials_of(tmp_path, small_streets, f"  sound: {{set: {{model: {network}}}}}\n")
    result = preflight(trial, tmp_path, InferenceConfig(flip=True))
    raise_failures([result], [trial], Resources(), "cpu")
    assert result.timings is not None
    assert 0 < result.timings.step < result.timings.whole
    assert result.timings.validation is not None


def test_one_preflight_run_covers_all_seeds_and_schedules(
    tmp_path: Path, small_streets: Path
) -> None:
    variants = "  a: {}\n  b: {set: {training: {epochs: 2, momentum: 0.5}}}\nseeds: [0, 1, 2]\n"
    trials = trials_of(tmp_path, small_streets, variants)
    assert [trial.name for trial in distinct(trials, {})] == ["a, seed 0"]
    forecaster = Forecaster.of(trials, Resources(), [], "cpu", "device")
    assert is_worthwhile(trials, distinct(trials, {}), forecaster)
    short = [trial for trial in trials if trial.variant == "b"]
    assert not is_worthwhile(short, distinct(short, {}), forecaster)

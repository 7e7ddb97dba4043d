"""The part of a preflight run that executes in a worker: a miniature training run.

It does everything that a trial does, once: a few steps, saving and restoring a checkpoint, and one
batch of each validation. An error that a trial would hit after hours occurs here within a minute.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.planning.preflight_choice import STEPS
from pipelines.data.dataset import PreparedDataset, Samples
from pipelines.data.image_format import Pixels
from pipelines.data.loading import EvaluationBatches
from pipelines.data.node_cache import NodeCache
from pipelines.device_memory import peak_memory_gib
from pipelines.evaluation.config import EvaluationConfig, InferenceConfig
from pipelines.training.experiment import Experiment

# The command needs this module, too, but not the libraries of a training, which take seconds.
if TYPE_CHECKING:
    from pipelines.training.loop import Training, TrainingReport

_WARM_UP = 2  # untimed steps, in which buffers are allocated and algorithms chosen
_NEVER = 10**9  # epochs


@dataclass(frozen=True)
class PreflightTimings:
    """Times and memory of a preflight run.

    step: seconds per optimizer step.
    validation: seconds per megapixel of images, over all workers; None without validation split.
    preparing: seconds before the first step.
    whole: seconds of the whole run.
    memory_gib: see `peak_memory_gib`; the maximum over the workers.
    """

    step: float
    validation: float | None
    preparing: float
    whole: float
    memory_gib: float


def smoke_test(
    experiment: Experiment,
    dataset: PreparedDataset,
    device: torch.device,
    cache: NodeCache | None,
    directory: Path,
    protocols: Sequence[InferenceConfig] = (),
) -> PreflightTimings:
    """Run a miniature training on this worker of the group and leave a checkpoint in `directory`.

    protocols: evaluation protocols of the study besides the experiment's own.

    Raises the errors of the training, with the stage as a note.
    """
    begun = time.perf_counter()
    from pipelines.training.loop import Training

    endless = replace(  # no epoch ends within a few steps
        experiment,
        training=replace(experiment.training, epochs=_NEVER, steps=None),
        evaluation=replace(experiment.evaluation, every=_NEVER),
    )
    with _stage("preparing"):
        training = Training(endless, dataset, device, cache=cache)
    prepared = time.perf_counter()
    with _stage("training"):
        step = _train(training, directory)
    if training.group.rank == 0:
        with _stage("restoring the checkpoint"):
            training.restore(directory)
    validation = None
    if experiment.data.validation_split is not None:
        split = training.samples(experiment.data.validation_split)
        with _stage("validation"):
            validation = _score(training, split, experiment.evaluation, times=2)
        for protocol in protocols:
            config = EvaluationConfig(**asdict(protocol), batch=experiment.evaluation.batch)
            with _stage(f"protocol {protocol.protocol}"):
                _score(training, split, config, times=1)
    return PreflightTimings(
        step=step,
        validation=validation,
        preparing=prepared - begun,
        whole=time.perf_counter() - begun,
        memory_gib=training.group.maximum(peak_memory_gib(device)),
    )


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    """Add the name of the stage as a note to exceptions raised within this context."""
    try:
        yield
    except Exception as error:
        error.add_note(name)
        raise


def _train(training: "Training", directory: Path) -> float:
    """Take a few steps and save a checkpoint. Return the seconds per step."""
    moments: list[float] = []

    def after_step(report: "TrainingReport") -> None:
        moments.append(time.perf_counter())
        if len(moments) == STEPS:
            if training.group.rank == 0:
                report.snapshot().write(directory)
            raise _StepsDone

    with contextlib.suppress(_StepsDone):
        training.run(after_step, report_steps=1)
    return float(statistics.median(np.diff(moments)[_WARM_UP - 1 :].tolist()))


class _StepsDone(Exception):  # noqa: N818 - ends the training loop, not an error
    """All steps of the preflight run have been taken."""


def _score(training: "Training", split: Samples, config: EvaluationConfig, times: int) -> float:
    """Score one batch of the largest images on each worker. Return the seconds per megapixel of the
    last of `times` repetitions."""
    from pipelines.evaluation.evaluate import evaluate

    largest = _LargestSamples(split, config.batch * training.group.size)
    pixels = float((largest.heights * largest.widths).sum())
    seconds = 0.0
    for _ in range(times):
        batches = EvaluationBatches(
            largest, batch=config.batch, rank=training.group.rank, world=training.group.size
        )
        started = time.perf_counter()
        evaluate(training.scored_model, batches, len(training.classes), training.numerics, config)
        seconds = time.perf_counter() - started
    return seconds / (pixels / 1e6)


class _LargestSamples:
    """The `count` largest samples of a split; implements `pipelines.data.dataset.Samples`."""

    def __init__(self, split: Samples, count: int) -> None:
        self._split = split
        self._indices = np.argsort(-split.heights * split.widths, kind="stable")[:count]
        self.identifiers = [split.identifiers[index] for index in self._indices]
        self.groups = [split.groups[index] for index in self._indices]
        self.heights = split.heights[self._indices]
        self.widths = split.widths[self._indices]
        self.image_format = split.image_format

    @property
    def centroids(self) -> NDArray[np.int64]:
        return self._split.centroids

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> tuple[Pixels, NDArray[np.uint8]]:
        return self._split.read(int(self._indices[index]))

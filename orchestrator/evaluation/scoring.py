"""Applies a trained model on a Ray cluster: the images are divided into chunks, one for a task."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import ray
import torch
from rich.progress import Progress

from orchestrator.cluster import connect
from orchestrator.cluster.nodes import connected_nodes, nodes_at_full_size
from orchestrator.cluster.refusals import refusals_shown
from orchestrator.console import warn
from orchestrator.evaluation.trained_model import TrainedModel, to_device
from orchestrator.scheduling.policy import Node
from orchestrator.study.resources import Resources
from orchestrator.study.user_code import (
    modules_of_network,
    network_has_user_code,
    runtime_environment,
)
from pipelines.data.dataset import Split, open_dataset
from pipelines.data.image_io import encode_png
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.config import EvaluationConfig, InferenceConfig
from pipelines.evaluation.inference import predict_image
from pipelines.submission import SUBMISSIONS

if TYPE_CHECKING:
    from pipelines.evaluation.scores import ScoreState

# Chunks per CPU or GPU: more than one, so that slower devices can take fewer of them.
_CHUNKS = 4
_POLL_SECONDS = 1.0

# Returns why the evaluation must stop now, given whether no machine is up; empty to continue.
StopReason = Callable[[bool], str]


class EvaluationEndedError(Exception):
    """The evaluation was ended before it had its result; the message says why."""


@dataclass(frozen=True)
class DatasetRef:
    """Samples of a prepared data set that a task on another node can open.

    location: as the cluster's nodes reach it. fingerprint: of the data set that must be there.
    """

    location: str
    fingerprint: str
    split: str

    def open(self) -> Split:
        """Open the split. Raises DatasetError if the data set is missing or another one."""
        return open_dataset(self.location, self.fingerprint).split(self.split)


def count_on_cluster(
    address: str, model: TrainedModel, dataset: DatasetRef, config: EvaluationConfig, bar: Progress
) -> "ScoreState":
    """Run `count` on the cluster at `address`, and print on the bar's console why machines are
    refused. Raises UnreachableError if none answers, and whatever the tasks raise, such as
    DatasetError."""
    own = modules_of_network(model.experiment, [*model.imports, *config.metric_class_names])
    modules = {module.__name__: module for module in own}
    connect.connect(address, runtime_environment(modules))
    try:
        with refusals_shown("the evaluation", partial(warn, bar.console)):
            return count(model, dataset, config, bar, lambda waits: "")
    finally:
        connect.disconnect()


def count(
    model: TrainedModel,
    dataset: DatasetRef,
    config: EvaluationConfig,
    bar: Progress,
    stop_reason: StopReason,
) -> "ScoreState":
    """Count pixels on the connected cluster, with the same result as in one process. Raises
    EvaluationEndedError, and whatever the tasks raise, such as DatasetError."""
    batches = len(EvaluationBatches(dataset.open(), config.batch))
    total: ScoreState | None = None
    for state in _in_chunks(_count, model, (dataset, config), batches, bar, "scored", stop_reason):
        if total is None:
            total = state
        else:
            total.merge_state(state)
    assert total is not None, "there is at least one chunk"
    return total


def predict_files(
    model: TrainedModel,
    dataset: DatasetRef,
    config: InferenceConfig,
    benchmark: str,
    bar: Progress,
    stop_reason: StopReason,
) -> dict[str, bytes]:
    """Predict all images on the connected cluster; return PNGs in the benchmark's encoding, by
    sample identifier. Raises EvaluationEndedError, and whatever the tasks raise."""
    images = len(dataset.open())
    work = dataset, config, benchmark
    files: dict[str, bytes] = {}
    for part in _in_chunks(_predict, model, work, images, bar, "predicted", stop_reason):
        files |= part
    return files


def run_on_device(
    task: Any,
    model: TrainedModel,
    arguments: tuple[Any, ...],
    threads: int,
    stop_reason: StopReason,
) -> Any:
    """Run `task` with a model and `arguments` on the connected cluster, alone on its GPU or on
    `threads` CPUs. Raises EvaluationEndedError, and whatever the task raises."""
    gpu = any(node.get("GPU") for node in _machines())
    once = network_has_user_code(model.experiment, model.imports)
    remote_task = _remote_task(task, gpu, once, 1 if gpu else threads)
    reference = remote_task.remote(ray.put(model), *arguments)
    try:
        _wait([reference], stop_reason)
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except BaseException:  # only then: Ray aborts this process if a task that ends is canceled
        ray.cancel(reference)
        raise


def _in_chunks(
    task: Any,
    model: TrainedModel,
    arguments: tuple[Any, ...],
    parts: int,
    bar: Progress,
    verb: str,
    stop_reason: StopReason,
) -> Iterator[Any]:
    """Run `task` on all chunks; yield the results as they arrive. parts: the maximum number of
    chunks."""
    nodes = _machines()
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    devices = gpus or sum(int(node.get("CPU", 0)) for node in nodes)
    chunks = max(1, min(parts, _CHUNKS * devices))
    own = [name for each in arguments for name in getattr(each, "metric_class_names", ())]
    once = network_has_user_code(model.experiment, [*model.imports, *own])
    remote_task = _remote_task(task, bool(gpus), once)
    model_ref = ray.put(model)
    pending = [remote_task.remote(model_ref, *arguments, chunk, chunks) for chunk in range(chunks)]
    bar_task = bar.add_task(f"chunks {verb}, {devices} at a time", total=chunks)
    try:
        while pending:
            ready, pending = _wait(pending, stop_reason)
            yield ray.get(ready)
            bar.advance(bar_task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:  # also after a lost worker, and if the caller stops early
        for reference in pending:
            ray.cancel(reference)
        bar.remove_task(bar_task)


def _wait(pending: Sequence[Any], stop_reason: StopReason) -> tuple[Any, list[Any]]:
    """Wait for a task; return its reference and those of the others. Raises EvaluationEndedError
    if `stop_reason` returns a reason."""
    while True:
        if reason := stop_reason(not _has_devices(connected_nodes())):
            raise EvaluationEndedError(reason)
        ready, others = ray.wait(pending, timeout=_POLL_SECONDS)
        if ready:
            return ready[0], others


@cache  # Ray warns about a function that is made remote again and again
def _remote_task(task: Any, on_gpu: bool, once: bool, cpus: int = 1) -> Any:
    """Return a Ray task. once: end its process after it, because user code may change it."""
    options = {"num_cpus": cpus, "num_gpus": int(on_gpu)} | ({"max_calls": 1} if once else {})
    return ray.remote(**options)(task)


def _machines() -> list[Node]:
    """Return the resources of the connected nodes, or of one that the autoscaler can start if they
    have no CPU or GPU."""
    connected = connected_nodes()
    if _has_devices(connected):
        return connected
    to_come = nodes_at_full_size(Resources())
    return [max(to_come, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))]


def _has_devices(nodes: Sequence[Node]) -> bool:
    return any(node.get("GPU") or node.get("CPU") for node in nodes)


def _count(
    model: TrainedModel, dataset: DatasetRef, config: EvaluationConfig, chunk: int, chunks: int
) -> "ScoreState":
    torch.set_num_threads(1)
    batches = EvaluationBatches(dataset.open(), config.batch, rank=chunk, world=chunks)
    from pipelines.evaluation.evaluate import count_pixels  # takes seconds, for torchmetrics

    state = count_pixels(
        model.network,
        batches,
        len(model.class_names),
        to_device(model),
        config,
        image_format=model.image_format,
    )
    return state.cpu()


def _predict(
    model: TrainedModel,
    dataset: DatasetRef,
    config: InferenceConfig,
    benchmark: str,
    chunk: int,
    chunks: int,
) -> dict[str, bytes]:
    torch.set_num_threads(1)
    samples, numerics = dataset.open(), to_device(model)
    files = {}
    for index in range(chunk, len(samples), chunks):
        image = torch.tensor(samples.read(index)[0])
        classes = predict_image(model.network, image, numerics, config, model.image_format).numpy()
        files[samples.identifiers[index]] = encode_png(SUBMISSIONS[benchmark].encode(classes))
    return files

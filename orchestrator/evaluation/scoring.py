"""Applying a trained model on a Ray cluster: the images in shares, each the work of one task."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from rich.progress import Progress

from orchestrator.cluster import connect
from orchestrator.cluster.nodes import connected_nodes, nodes_at_full_size
from orchestrator.evaluation.trained_model import TrainedModel, place
from orchestrator.scheduling.policy import Node
from orchestrator.study.resources import Resources
from orchestrator.study.user_code import modules_of, runtime_environment
from pipelines.data.dataset import open_dataset
from pipelines.data.image_io import encode_png
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.evaluate import EvaluationConfig, count_pixels, predict_image
from pipelines.evaluation.inference import InferenceConfig
from pipelines.evaluation.scores import ScoreState
from pipelines.submission import SUBMISSIONS

# Shares for each processor or GPU, so that the slower ones get fewer.
_SHARES = 4


def count_on_cluster(
    address: str,
    model: TrainedModel,
    location: str,
    fingerprint: str,
    split: str,
    config: EvaluationConfig,
    imports: Sequence[str],
    bar: Progress,
) -> ScoreState:
    """`count` on the cluster at `address`. Raises UnreachableError where none answers there, and
    what the tasks raise, such as DatasetError."""
    modules = {module.__name__: module for module in modules_of(model.experiment, imports)}
    connect.connect(address, runtime_environment(modules))
    try:
        return count(model, location, fingerprint, split, config, imports, bar)
    finally:
        connect.disconnect()


def count(
    model: TrainedModel,
    location: str,
    fingerprint: str,
    split: str,
    config: EvaluationConfig,
    imports: Sequence[str],
    bar: Progress,
) -> ScoreState:
    """What one process would count, on the connected cluster. location: of the data set, as the
    cluster's nodes reach it; fingerprint: of the one that must be there. Raises what the tasks
    raise, such as DatasetError."""
    batches = len(EvaluationBatches(open_dataset(location, fingerprint).split(split), config.batch))
    total: ScoreState | None = None
    work = (location, fingerprint, split, config, tuple(imports))
    for counted in _in_shares(_count, model, work, batches, bar, "scored"):
        if total is None:
            total = counted
        else:
            total.merge_state(counted)
    assert total is not None, "there is a share"
    return total


def predict_files(
    model: TrainedModel,
    location: str,
    fingerprint: str,
    split: str,
    config: InferenceConfig,
    benchmark: str,
    imports: Sequence[str],
    bar: Progress,
) -> dict[str, bytes]:
    """PNGs in a benchmark's form of all images of a split, by identifier, on the connected
    cluster."""
    images = len(open_dataset(location, fingerprint).split(split))
    work = (location, fingerprint, split, config, benchmark, tuple(imports))
    files: dict[str, bytes] = {}
    for part in _in_shares(_predict, model, work, images, bar, "predicted"):
        files |= part
    return files


def _in_shares(
    task: Any, model: TrainedModel, work: tuple[Any, ...], parts: int, bar: Progress, done: str
) -> Iterator[Any]:
    """What the tasks on all shares of `work` return, as they come in."""
    nodes = _machines()
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    places = gpus or sum(int(node.get("CPU", 0)) for node in nodes)
    shares = max(1, min(parts, _SHARES * places))
    placed = task.options(num_cpus=1, num_gpus=1 if gpus else 0)
    shared = ray.put(model)
    waiting = [placed.remote(shared, *work, share, shares) for share in range(shares)]
    shown = bar.add_task(f"shares {done}, {places} at a time", total=shares)
    try:
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield ray.get(ready[0])
            bar.advance(shown)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:  # also where a worker was lost, or nobody wants the rest
        for reference in waiting:
            ray.cancel(reference)
        bar.remove_task(shown)


def _machines() -> list[Node]:
    """What the connected nodes offer; one that may come, where they have nothing to compute on."""
    there = connected_nodes()
    if any(node.get("GPU") or node.get("CPU") for node in there):
        return there
    to_come = nodes_at_full_size(Resources())
    return [max(to_come, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))]


@ray.remote
def _count(
    model: TrainedModel,
    location: str,
    fingerprint: str,
    split: str,
    config: EvaluationConfig,
    imports: tuple[str, ...],
    share: int,
    shares: int,
) -> ScoreState:
    _prepare(imports)
    batches = EvaluationBatches(
        open_dataset(location, fingerprint).split(split), config.batch, rank=share, world=shares
    )
    state = count_pixels(model.network, batches, len(model.class_names), place(model), config)
    return state.cpu()


@ray.remote
def _predict(
    model: TrainedModel,
    location: str,
    fingerprint: str,
    split: str,
    config: InferenceConfig,
    benchmark: str,
    imports: tuple[str, ...],
    share: int,
    shares: int,
) -> dict[str, bytes]:
    _prepare(imports)
    samples, numerics = open_dataset(location, fingerprint).split(split), place(model)
    files = {}
    for index in range(share, len(samples), shares):
        image = torch.tensor(samples.read(index)[0])
        classes = predict_image(model.network, image, numerics, config).numpy()
        files[samples.identifiers[index]] = encode_png(SUBMISSIONS[benchmark].encode(classes))
    return files


def _prepare(imports: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for module in imports:
        importlib.import_module(module)

"""Scoring on a Ray cluster: the images in shares, each counted by a task, the counts added up."""

import importlib
from collections.abc import Sequence

import ray
import torch
from rich.progress import Progress

from orchestrator import fleet
from orchestrator.extensions import modules_of, runtime_environment
from orchestrator.inference_command import InputError, place
from orchestrator.trained_model import TrainedModel
from pipelines.dataset import open_dataset
from pipelines.evaluation import EvaluationConfig, count_pixels
from pipelines.loading import EvaluationBatches
from pipelines.scores import ScoreState

# Shares for each processor or GPU, so that the slower ones get fewer.
_SHARES = 4


def count_on_cluster(
    address: str,
    model: TrainedModel,
    location: str,
    split: str,
    config: EvaluationConfig,
    imports: Sequence[str],
    bar: Progress,
) -> ScoreState:
    """What one process would count. location: of the data set, as the cluster's nodes reach it.

    Raises InputError where no cluster answers at `address`, and what the tasks raise, such as
    DatasetError.
    """
    modules = {module.__name__: module for module in modules_of(model.experiment, imports)}
    try:
        fleet.connect(address, runtime_environment(modules))
    except ConnectionError as error:
        raise InputError(f"--address {address}: no Ray cluster answers ({error})") from None
    try:
        nodes = fleet.connected_nodes()
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        places = gpus or sum(int(node.get("CPU", 0)) for node in nodes)
        batches = len(EvaluationBatches(open_dataset(location).split(split), config.batch))
        shares = max(1, min(batches, _SHARES * places))
        task = _count.options(num_cpus=1, num_gpus=1 if gpus else 0)
        shared = ray.put(model)
        waiting = [
            task.remote(shared, location, split, config, tuple(imports), share, shares)
            for share in range(shares)
        ]
        shown = bar.add_task(f"shares scored, {places} at a time", total=shares)
        total: ScoreState | None = None
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                counted: ScoreState = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            if total is None:
                total = counted
            else:
                total.merge_state(counted)
            bar.advance(shown)
        assert total is not None, "there is a share"
        return total
    finally:
        fleet.disconnect()


@ray.remote
def _count(
    model: TrainedModel,
    location: str,
    split: str,
    config: EvaluationConfig,
    imports: tuple[str, ...],
    share: int,
    shares: int,
) -> ScoreState:
    torch.set_num_threads(1)
    for module in imports:
        importlib.import_module(module)
    batches = EvaluationBatches(
        open_dataset(location).split(split), config.batch, rank=share, world=shares
    )
    state = count_pixels(model.network, batches, len(model.class_names), place(model), config)
    return state.cpu()

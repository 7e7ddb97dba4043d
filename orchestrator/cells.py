"""The cells of a study before anything runs: their data, their cost, and what the ledger knows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from models import count_multiply_adds, count_parameters
from models.cost import on_meta
from orchestrator.identity import trial_identity
from orchestrator.study import Trial
from pipelines.dataset import PreparedDataset, open_dataset
from pipelines.precision import resolve_precision
from pipelines.prepare import ensure_streets

EMBEDDED = "streets"


@dataclass(frozen=True)
class ModelCost:
    """parameters in millions, without auxiliary heads; multiply-adds / 1e9 at `size`, which is
    (height, width) of the training crop."""

    parameters_m: float
    gflops: float
    size: tuple[int, int]


@dataclass(frozen=True)
class Cell:
    """One trial with everything that decides it resolved: precision, data, identity, cost."""

    trial: Trial
    identity: str
    dataset: PreparedDataset
    location: str
    cost: ModelCost

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        experiment = self.trial.experiment
        images = self.dataset.manifest.counts[experiment.data.train_split]
        return experiment.training.epochs * -(-images // experiment.training.batch)


def resolve_cells(
    trials: Sequence[Trial], device: Literal["cpu", "cuda"], datasets_directory: Path
) -> list[Cell]:
    """Open every data set and profile every model that `trials` name.

    The embedded data set is made in `datasets_directory` if it is not there yet.

    Raises DatasetError where a data set or one of its splits is missing.
    """
    opened: dict[str, tuple[str, PreparedDataset]] = {}
    costs: dict[tuple[object, ...], ModelCost] = {}
    cells = []
    for trial in trials:
        data = trial.experiment.data
        if data.dataset not in opened:
            location = data.dataset
            if location == EMBEDDED:
                location = str(ensure_streets(datasets_directory / EMBEDDED))
            opened[data.dataset] = location, open_dataset(location)
        location, dataset = opened[data.dataset]
        for split in (data.train_split, data.validation_split):
            dataset.split(split)
        training = replace(
            trial.experiment.training,
            precision=resolve_precision(trial.experiment.training.precision, device),
        )
        resolved = replace(trial, experiment=replace(trial.experiment, training=training))
        classes = len(dataset.manifest.classes)
        key = (trial.experiment.model, classes, data.crop)
        if key not in costs:
            costs[key] = _cost(trial, classes)
        identity = trial_identity(resolved.experiment, dataset.manifest.fingerprint)
        cells.append(Cell(resolved, identity, dataset, location, costs[key]))
    return cells


def _cost(trial: Trial, classes: int) -> ModelCost:
    model, crop = trial.experiment.model, trial.experiment.data.crop
    return ModelCost(
        parameters_m=count_parameters(on_meta(model, classes)) / 1e6,
        gflops=count_multiply_adds(model, classes, *crop) / 1e9,
        size=crop,
    )

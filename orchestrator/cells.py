"""The cells of a study before anything runs: their data, their cost, and what the ledger knows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from models import PretrainedReport, count_multiply_adds, count_parameters
from models.cost import on_meta
from orchestrator.extensions import modules_of
from orchestrator.identity import code_version, trial_identity
from orchestrator.study import Trial
from pipelines.backbone_weights import load_backbone_weights
from pipelines.dataset import PreparedDataset, open_dataset
from pipelines.experiment import Experiment
from pipelines.initial_weights import load_initial_weights
from pipelines.network import (
    NetworkConfig,
    build_network,
    check_network,
)
from pipelines.precision import resolve_precision
from pipelines.prepare import ensure_streets
from pipelines.weights import weights_digest, weights_in

EMBEDDED = "streets"
_TRIED = 256  # pixels of a side on which a network of the user's own is tried


@dataclass(frozen=True)
class ModelCost:
    """parameters in millions, without auxiliary heads; multiply-adds / 1e9 at `size`, which is
    (height, width) of the training crop; values_m: all values, in millions, that a file of the
    weights holds, where the network was built."""

    parameters_m: float
    gflops: float
    size: tuple[int, int]
    values_m: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One trial with everything that decides it resolved: precision, data, weights, code.

    pretrained: what of published weights its backbone starts from. init: the file of weights that
    the whole network starts from, as the workers find it. digests: of these two, where it has them.
    """

    trial: Trial
    identity: str
    code: str
    dataset: PreparedDataset
    location: str
    cost: ModelCost
    pretrained: PretrainedReport | None
    init: str | None = None
    digests: tuple[str | None, str | None] = (None, None)

    @property
    def experiment(self) -> Experiment:
        """As the workers get it: the weights to start from are a file."""
        experiment = self.trial.experiment
        return replace(experiment, training=replace(experiment.training, init=self.init))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        experiment = self.trial.experiment
        images = len(self.dataset.split(experiment.data.train_split))
        return experiment.training.epochs * -(-images // experiment.training.batch)


def resolve_cells(
    trials: Sequence[Trial],
    device: Literal["cpu", "cuda"],
    datasets_directory: str | Path,
    imports: Sequence[str] = (),
    find_weights: Callable[[str], str] = weights_in,
) -> list[Cell]:
    """Open every data set, and build every network, that `trials` name.

    The embedded data set is made in `datasets_directory`, a path or URI, if it is not there yet.
    imports: the study's modules, which count for the code version. find_weights: the file that a
    `training.init` names.

    Raises DatasetError where a data set or one of its splits is missing, NetworkError where a
    network of the user's own cannot be run, WeightsError or PretrainedError where published weights
    cannot be loaded.
    """
    opened: dict[str, tuple[str, PreparedDataset]] = {}
    examined: dict[str, tuple[ModelCost, PretrainedReport | None]] = {}
    found: dict[str, str] = {}
    # Once for all trials, which may be a thousand.
    digest_of = cache(weights_digest)
    version_of = cache(lambda *modules: code_version(modules))
    cells = []
    for trial in trials:
        data = trial.experiment.data
        if data.dataset not in opened:
            location = _absolute(data.dataset)
            if data.dataset == EMBEDDED:
                location = ensure_streets(datasets_directory)
            opened[data.dataset] = location, open_dataset(location)
        location, dataset = opened[data.dataset]
        for split in (data.train_split, data.validation_split):
            if split is not None:
                dataset.split(split)
        classes = len(dataset.manifest.classes)
        training = trial.experiment.training
        if training.init is not None and training.init not in found:
            found[training.init] = find_weights(training.init)
        init = training.init and found[training.init]
        weights = (training.backbone_weights, init, training.init_skip)
        key = repr((trial.experiment.model, weights, classes, data.crop))
        if key not in examined:
            examined[key] = _examine(trial.experiment, classes, init)
        cost, pretrained = examined[key]
        digests = (
            training.backbone_weights and digest_of(training.backbone_weights),
            init and digest_of(init),
        )
        training = replace(
            training,
            precision=resolve_precision(training.precision, device),
            backbone_weights=training.backbone_weights and _absolute(training.backbone_weights),
        )
        experiment = replace(trial.experiment, training=training)
        cells.append(
            Cell(
                trial=replace(trial, experiment=experiment),
                identity=trial_identity(experiment, dataset.manifest.fingerprint, *digests),
                code=version_of(*modules_of(experiment, imports)),
                dataset=dataset,
                location=location,
                cost=cost,
                pretrained=pretrained,
                init=init,
                digests=digests,
            )
        )
    return cells


def _absolute(uri: str) -> str:
    """A local path from the root on, because workers have another working directory."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def _examine(
    experiment: Experiment, classes: int, init: str | None
) -> tuple[ModelCost, PretrainedReport | None]:
    """What a network costs, and what of published weights it can load, having tried both, and the
    weights in the file `init` too."""
    config, (height, width) = experiment.model, experiment.data.crop
    if isinstance(config, NetworkConfig):
        check_network(config, classes, (min(height, _TRIED), min(width, _TRIED)))
        model = on_meta(build_network(config, classes, seed=0), classes)
    else:
        model = on_meta(config, classes)
    weights = experiment.training.backbone_weights
    pretrained = None
    if weights is not None:
        pretrained = load_backbone_weights(build_network(config, classes, seed=0), weights)
    if init is not None:
        skip = experiment.training.init_skip
        load_initial_weights(build_network(config, classes, seed=0), init, skip)
    cost = ModelCost(
        parameters_m=count_parameters(model) / 1e6,
        values_m=sum(value.numel() for value in model.state_dict().values()) / 1e6,
        gflops=count_multiply_adds(model, classes, height, width) / 1e9,
        size=(height, width),
    )
    return cost, pretrained

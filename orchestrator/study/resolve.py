"""The trials of a study before anything runs: their data, their cost, and what the ledger knows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Literal

from models import PretrainedReport, count_multiply_adds, count_parameters
from models.cost import on_meta
from orchestrator.study.identity import code_version, trial_identity
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import modules_of
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.errors import UserError
from pipelines.network.build import NetworkConfig, build_network, check_network
from pipelines.network.init_weights import load_backbone_weights, load_initial_weights
from pipelines.network.precision import resolve_precision
from pipelines.network.weights import locate_weights, weights_digest
from pipelines.preparation.embedded import dataset_location
from pipelines.submission import SUBMISSIONS
from pipelines.training.experiment import Experiment

_TRIED = 256  # pixels of a side on which a network of the user's own is tried


@dataclass(frozen=True, kw_only=True)
class ResolvedTrial(Trial):
    """A trial with everything that decides it resolved: precision, data, weights, code.

    pretrained: what of published weights its backbone starts from. init: the file of weights that
    the whole network starts from, as the workers find it. digests: of these two, where it has them.
    """

    identity: str
    code: str
    dataset: PreparedDataset
    location: str
    cost: ModelCost
    pretrained: PretrainedReport | None
    init: str | None = None
    digests: tuple[str | None, str | None] = (None, None)

    @property
    def worker_experiment(self) -> Experiment:
        """The experiment as the workers get it: `training.init` is a file that they can read."""
        training = replace(self.experiment.training, init=self.init)
        return replace(self.experiment, training=training)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        images = len(self.dataset.split(self.experiment.data.train_split))
        return self.experiment.training.epochs * -(-images // self.experiment.training.batch)


def resolve_trials(
    trials: Sequence[Trial],
    device: Literal["cpu", "cuda"],
    datasets_directory: str | Path,
    imports: Sequence[str] = (),
    find_weights: Callable[[str], str] = locate_weights,
) -> list[ResolvedTrial]:
    """Open every data set, and build every network, that `trials` name.

    The embedded data set is made in `datasets_directory`, a path or URI, if it is not there yet.
    imports: the study's modules, which count for the code version. find_weights: the file that a
    `training.init` names.

    Raises DatasetError where a data set or one of its splits is missing, NetworkError where a
    network of the user's own cannot be run, WeightsError where published weights
    cannot be loaded; the message has a line for each kind of trial that something is wrong with.
    """
    resolver = _Resolver(device, datasets_directory, imports, find_weights)
    resolved = []
    wrong: dict[str, Exception] = {}
    for trial in trials:
        data, training = trial.experiment.data, trial.experiment.training
        # What is wrong with a trial is wrong with all others of its kind, and tried once.
        kind = repr((trial.experiment.model, data, training.init, training.backbone_weights))
        if kind in wrong:
            continue
        try:
            resolved.append(resolver.resolve(trial))
        except UserError as error:
            wrong[kind] = type(error)(f"{trial.name}: {error}")
    if wrong:
        raise type(next(iter(wrong.values())))("\n".join(map(str, wrong.values())))
    return resolved


class _Resolver:
    """What trials have in common is opened, built and read once, because they may be a thousand."""

    def __init__(
        self,
        device: Literal["cpu", "cuda"],
        datasets_directory: str | Path,
        imports: Sequence[str],
        find_weights: Callable[[str], str],
    ) -> None:
        self._device = device
        self._datasets_directory = datasets_directory
        self._imports = imports
        self._open = cache(self._opened)
        self._find_weights = cache(find_weights)
        self._digest = cache(weights_digest)
        self._code = cache(lambda *modules: code_version(modules))
        self._examined: dict[str, tuple[ModelCost, PretrainedReport | None]] = {}

    def resolve(self, trial: Trial) -> ResolvedTrial:
        """See `resolve_trials`."""
        data, training = trial.experiment.data, trial.experiment.training
        location, dataset = self._open(data.dataset)
        for split in (data.train_split, data.validation_split):
            if split is not None:
                dataset.split(split)
        classes = len(dataset.manifest.classes)
        init = training.init and self._find_weights(training.init)
        weights = (training.backbone_weights, init, training.init_skip)
        key = repr((trial.experiment.model, weights, classes, data.crop))
        if key not in self._examined:
            self._examined[key] = _examine(trial.experiment, classes, init)
        cost, pretrained = self._examined[key]
        digests = (
            training.backbone_weights and self._digest(training.backbone_weights),
            init and self._digest(init),
        )
        training = replace(
            training,
            precision=resolve_precision(training.precision, self._device),
            backbone_weights=training.backbone_weights and absolute(training.backbone_weights),
        )
        experiment = replace(trial.experiment, training=training)
        given = {entry.name: getattr(trial, entry.name) for entry in fields(trial)}
        return ResolvedTrial(
            **given | {"experiment": experiment},
            identity=trial_identity(experiment, dataset.manifest.fingerprint, *digests),
            code=self._code(*modules_of(experiment, self._imports)),
            dataset=dataset,
            location=location,
            cost=cost,
            pretrained=pretrained,
            init=init,
            digests=digests,
        )

    def _opened(self, name: str) -> tuple[str, PreparedDataset]:
        location = absolute(dataset_location(name, self._datasets_directory))
        return location, open_dataset(location)


def absolute(uri: str) -> str:
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


def check_submission(study: Study, trials: Sequence[ResolvedTrial]) -> None:
    """Raises DatasetError where a data set lacks the split, SubmissionError where its pictures or
    classes are not the benchmark's; before anything is trained."""
    wanted = study.config.submission
    if wanted is None:
        return
    benchmark = SUBMISSIONS[wanted.benchmark]
    for location in dict.fromkeys(trial.location for trial in trials):
        dataset = next(trial.dataset for trial in trials if trial.location == location)
        benchmark.check_classes([entry.name for entry in dataset.manifest.classes])
        benchmark.check_names([PurePath(n) for n in dataset.split(wanted.split).identifiers])

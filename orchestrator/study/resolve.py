"""Resolves trials before anything runs: data set, precision, weights, model cost, code version."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Literal

from models import PretrainedReport, count_parameters
from orchestrator.study.identity import code_version, trial_identity
from orchestrator.study.metric_checks import objectives
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.resolved import ResolvedTrial, absolute, absolute_weights
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import modules_of
from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.facts import check_scorable, check_trainable
from pipelines.data.image_format import ImageFormat
from pipelines.data.manifest import DatasetError, name_problem
from pipelines.errors import UserError
from pipelines.evaluation.config import metric_configs
from pipelines.evaluation.image_size import check_evaluation
from pipelines.evaluation.measuring import MetricError, build_metrics
from pipelines.network.build import build_network, check_network
from pipelines.network.cost import multiply_adds, network_on_meta
from pipelines.network.init_weights import load_backbone_weights, load_initial_weights
from pipelines.network.precision import check_precision, has_native_bfloat16, resolve_precision
from pipelines.network.weight_files import locate_weights, weights_digest
from pipelines.preparation.embedded import dataset_location
from pipelines.submission import SUBMISSIONS
from pipelines.training.experiment import Experiment
from pipelines.training.losses import build_loss
from pipelines.training.optimization import check_optimization
from pipelines.wording import first_names, suggestion


def resolve_trials(
    trials: Sequence[Trial],
    device: Literal["cpu", "cuda"],
    datasets_directory: str | Path,
    imports: Sequence[str] = (),
    find_weights: Callable[[str], str] = locate_weights,
    native_bfloat16: bool | None = None,
) -> list[ResolvedTrial]:
    """Open every data set and build every network of `trials`.

    datasets_directory: path or URI where the embedded data set is created if it does not exist.
    imports: the study's modules, which are part of the code version.
    find_weights: returns the weights file that a `training.init` names.
    native_bfloat16: whether every device that the trials may get computes bf16 natively; by
        default, this machine's device decides.

    Raises DatasetError if a data set or one of its splits is missing or has no labels, NetworkError
    if a custom network cannot be run, WeightsError if weights cannot be loaded,
    PrecisionError if a GPU would only emulate the precision, TransformError or MetricError if a
    transform or a metric cannot be applied. The message has one line for each reason, with the
    first trial that it concerns and the number of others.
    """
    if native_bfloat16 is None:
        native_bfloat16 = has_native_bfloat16(device)
    resolver = _Resolver(device, datasets_directory, imports, find_weights, native_bfloat16)
    resolved = []
    errors: dict[str, UserError] = {}
    concerned: dict[str, list[str]] = {}  # names of the trials, by the text of their error
    for trial in trials:
        data, training = trial.experiment.data, trial.experiment.training
        # Trials that agree in all of these fail for the same reason; report it once.
        weights = (training.init, training.backbone_weights)
        own = (training.optimizer, training.schedule, training.loss, trial.experiment.evaluation)
        key = repr((trial.experiment.model, data, weights, training.precision, own))
        data_key = repr((data.dataset, data.trained_on, data.validation_split))
        known = errors.get(data_key) or errors.get(key)
        if known is None:
            try:
                resolved.append(resolver.resolve(trial))
                continue
            except UserError as error:
                known = error
                # Of the data, whatever the model and the weights.
                errors[data_key if isinstance(error, DatasetError) else key] = error
        concerned.setdefault(str(known), []).append(trial.name)
    if errors:
        lines = [f"{first_names(names, 1)}: {text}" for text, names in concerned.items()]
        raise type(next(iter(errors.values())))("\n".join(lines))
    return resolved


class _Resolver:
    """Resolves trials and caches what they share, because a study may have a thousand of them."""

    def __init__(
        self,
        device: Literal["cpu", "cuda"],
        datasets_directory: str | Path,
        imports: Sequence[str],
        find_weights: Callable[[str], str],
        native_bfloat16: bool,
    ) -> None:
        self._device = device
        self._native_bfloat16 = native_bfloat16
        self._datasets_directory = datasets_directory
        self._imports = imports
        self._open = cache(self._opened)
        self._check_data = cache(self._checked)
        self._find_weights = cache(find_weights)
        self._digest = cache(lambda uri: weights_digest(locate_weights(uri)))
        self._code = cache(lambda modules, libraries: code_version(modules, libraries))
        self._models: dict[str, tuple[ModelCost, PretrainedReport | None]] = {}
        self._checked_transforms: set[str] = set()
        self._checked_evaluations: set[str] = set()

    def resolve(self, trial: Trial) -> ResolvedTrial:
        """See `resolve_trials`."""
        data, training = trial.experiment.data, trial.experiment.training
        check_precision(training.precision, self._device, self._native_bfloat16)
        location, dataset = self._open(data.dataset)
        self._check_data(data.dataset, data.trained_on, data.validation_split)
        classes, images = len(dataset.manifest.classes), dataset.manifest.images
        init = training.init and self._find_weights(training.init)
        weights = (training.backbone_weights, init, training.init_skip)
        own = (training.optimizer, training.schedule, training.loss, trial.experiment.evaluation)
        key = repr((trial.experiment.model, weights, classes, images.channels, data.crop, own))
        if key not in self._models:
            self._models[key] = _examine_model(trial.experiment, classes, images.channels, init)
        cost, pretrained = self._models[key]
        self._check_transforms(data, images)
        self._check_evaluation(trial.experiment, dataset)
        digests = (
            training.backbone_weights and self._digest(training.backbone_weights),
            init and self._digest(init),
        )
        training = replace(
            training,
            precision=resolve_precision(training.precision, self._native_bfloat16),
            backbone_weights=training.backbone_weights
            and absolute_weights(training.backbone_weights),
        )
        experiment = replace(trial.experiment, training=training)
        values = {entry.name: getattr(trial, entry.name) for entry in fields(trial)}
        return ResolvedTrial(
            **values | {"experiment": experiment},
            identity=trial_identity(experiment, dataset.manifest.fingerprint, *digests),
            code=self._code(tuple(modules_of(experiment, self._imports)), experiment.libraries),
            dataset=dataset,
            location=location,
            cost=cost,
            pretrained=pretrained,
            init=init,
            digests=digests,
        )

    def _checked(self, name: str, train: str, validation: str | None) -> None:
        """Check that a training can show anything, and that scores by class can be recorded."""
        location, dataset = self._open(name)
        check_trainable(dataset, train, validation)
        problem = name_problem([entry.name for entry in dataset.manifest.classes])
        if problem is not None:
            raise DatasetError(f"{location}: classes: {problem}, and prepare the data set again")

    def _check_transforms(self, data: DataConfig, images: ImageFormat) -> None:
        """Apply the transforms of the training once. Raises TransformError."""
        key = repr((data.augmentation.transforms, data.crop, images))
        if not data.augmentation.transforms or key in self._checked_transforms:
            return
        from pipelines.data.transforms import check_transforms  # kornia takes seconds

        check_transforms(data.augmentation, data.crop, images)
        self._checked_transforms.add(key)

    def _check_evaluation(self, experiment: Experiment, dataset: PreparedDataset) -> None:
        """Check that the network takes the images of the validation. Raises NetworkError."""
        split = experiment.data.validation_split
        key = repr((experiment.model, experiment.data.dataset, split, experiment.evaluation))
        if split is None or key in self._checked_evaluations:
            return
        classes = len(dataset.manifest.classes)
        check_evaluation(experiment.model, classes, experiment.evaluation, dataset.split(split))
        self._checked_evaluations.add(key)

    def _opened(self, name: str) -> tuple[str, PreparedDataset]:
        location = absolute(dataset_location(name, self._datasets_directory))
        return location, open_dataset(location)


def _examine_model(
    experiment: Experiment, classes: int, channels: int, init: str | None
) -> tuple[ModelCost, PretrainedReport | None]:
    """Build the network, load its initial weights, check its loss, optimizer and metrics, and
    return its cost and which published weights its backbone loads.

    channels: of the images.
    """
    config, (height, width) = experiment.model, experiment.data.crop
    check_network(config, classes, (height, width), channels)
    model = network_on_meta(config, classes, channels)
    check_optimization(model, experiment.training)
    build_loss(experiment.training.loss, [1 / classes] * classes)
    build_metrics(experiment.evaluation.metric_configs, classes)
    weights = experiment.training.backbone_weights
    pretrained = None
    if weights is not None:
        network = build_network(config, classes, 0, channels)
        pretrained = load_backbone_weights(network, weights)
    if init is not None:
        skip = experiment.training.init_skip
        load_initial_weights(build_network(config, classes, 0, channels), init, skip)
    by_part = multiply_adds(model, config, classes, (height, width), channels)
    cost = ModelCost(
        parameters_m=count_parameters(model) / 1e6,
        values_m=sum(value.numel() for value in model.state_dict().values()) / 1e6,
        gflops=sum(by_part.values()) / 1e9,
        size=(height, width),
    )
    return cost, pretrained


def check_protocols(study: Study, trials: Sequence[ResolvedTrial]) -> None:
    """Check before training that the data sets have the splits that the protocols name, with
    labels, and that the protocols' metrics work. Raises DatasetError or MetricError if not."""
    for name, protocol in study.config.protocols.items():
        for classes in {len(trial.dataset.manifest.classes) for trial in trials}:
            try:
                build_metrics(metric_configs(protocol.metrics), classes)
            except MetricError as error:
                raise MetricError(f"protocol {name!r}: {error}") from None
    splits = {name: each.split for name, each in study.config.protocols.items() if each.split}
    datasets = {trial.location: trial.dataset for trial in trials}
    for name, split in splits.items():
        for dataset in datasets.values():
            advice = (
                f"change `protocols.{name}.split`, or use `submission` for a test set without "
                "labels"
            )
            try:
                check_scorable(dataset, split, advice)
            except DatasetError as error:
                raise DatasetError(f"protocol {name!r}: {error}") from None


def check_class_names(study: Study, trials: Sequence[ResolvedTrial]) -> None:
    """Check that the data sets have the classes that `report.class_groups`, the columns of
    differences and the metrics of a search name. Raises DatasetError if not."""
    report = study.config.report
    groups = [(f"report.class_groups.{name}", each) for name, each in report.class_groups.items()]
    compared = [name.removeprefix("iou/") for name in report.differences if name[:4] == "iou/"]
    groups += [("report.columns", (each,)) for each in compared if each not in report.class_groups]
    for key, metric in objectives(study.config).items():
        _, _, ranked = metric.partition("/")
        groups += [(f"{key}.metric", (ranked,))] if ranked else []
    datasets = {trial.location: trial.dataset for trial in trials}
    for location, dataset in datasets.items():
        classes = [entry.name for entry in dataset.manifest.classes]
        for key, names in groups:
            for name in names:
                if name not in classes:
                    raise DatasetError(
                        f"{key} has {name!r}, which is no class of {location}; "
                        f"{suggestion(name, classes)}"
                    )
        for name in report.class_groups:
            if name in classes:
                raise DatasetError(
                    f"report.class_groups.{name} has the name of a class of {location}; use another"
                )


def check_submission(study: Study, trials: Sequence[ResolvedTrial]) -> None:
    """Check before training that the data sets fit the submission's benchmark.

    Raises DatasetError if a data set lacks the split, SubmissionError if its image names or classes
    are not the benchmark's.
    """
    submission = study.config.submission
    if submission is None:
        return
    benchmark = SUBMISSIONS[submission.benchmark]
    for location in dict.fromkeys(trial.location for trial in trials):
        dataset = next(trial.dataset for trial in trials if trial.location == location)
        benchmark.check_classes([entry.name for entry in dataset.manifest.classes])
        benchmark.check_names([PurePath(n) for n in dataset.split(submission.split).identifiers])

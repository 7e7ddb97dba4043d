"""The experiment: all settings that decide a training's result, as a tree of frozen dataclasses.

Other settings, such as the number of workers, are in `orchestrator.study.resources`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from models import FENetConfig
from models.hugging_face.configuration import is_saved, read_saved
from models.registry import LIBRARIES, is_class_name, library_and_name
from pipelines.config import ConfigurationError, configure, flattened, load_yaml
from pipelines.data.config import DataConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.network.config import ModelConfig, NetworkConfig
from pipelines.training.config import TrainingConfig

#: Settings of an experiment that affect its speed but not its result.
WITHOUT_EFFECT = ("evaluation.batch",)

#: Possible values of `seed`.
SEEDS = range(2**63)


@dataclass(frozen=True)
class Experiment:
    """All settings that decide the result of one training.

    Equal experiments with the same data and code give the same weights for any number of workers.
    `seed` determines the initial parameters, the order of the samples and every augmentation.

    A saved model of `transformers` (`hf:FOLDER` or `hf:OWNER/NAME`) is replaced by its type, its
    configuration as arguments, and its weights as `training.backbone_weights`, unless that or
    `training.init` is set. So a trained model does not need the folder, and two folders with the
    same content are the same trial.

    Raises:
        ValueError: the seed is not valid, or a saved model cannot be read.
    """

    __pydantic_config__ = {"extra": "forbid"}

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=FENetConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed not in SEEDS:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, received {self.seed}")
        if is_saved(_model_name(self.model)):
            self._read_saved_model()

    def _read_saved_model(self) -> None:
        model, training = self.model, self.training
        if isinstance(model, NetworkConfig):
            saved = read_saved(model.network, model.arguments)
            model = replace(model, network=saved.name, arguments=saved.arguments)
        else:
            saved = read_saved(model.backbone, model.backbone_arguments)
            model = replace(model, backbone=saved.name, backbone_arguments=saved.arguments)
        object.__setattr__(self, "model", model)
        if training.init is None and training.backbone_weights is None:
            training = replace(training, backbone_weights=saved.weights)
            object.__setattr__(self, "training", training)

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages that only the model's name requires, such as `transformers` for `hf:...`."""
        split = library_and_name(_model_name(self.model))
        return () if split is None else (LIBRARIES[split[0]],)

    @property
    def class_names(self) -> list[str]:
        """The classes that the experiment names as `package.module:Class`."""
        training = self.training
        names = [training.optimizer_config.name, training.schedule_config.name]
        names += [term.name for term in training.loss.term_configs]
        names += [transform.name for transform in self.data.augmentation.transform_configs]
        names += self.evaluation.metric_class_names
        return [*filter(is_class_name, names), *self.network_class_names]

    @property
    def network_class_names(self) -> list[str]:
        """Those of `class_names` that are parts of the network."""
        model = self.model
        parts = [_model_name(model)]
        parts += [] if isinstance(model, NetworkConfig) else model.flows
        return [name for name in parts if is_class_name(name)]

    def as_dict(self) -> dict[str, Any]:
        """Return the experiment as nested dictionaries, including defaults."""
        return asdict(self)

    def as_json(self) -> dict[str, Any]:
        """Return `as_dict` in JSON types: lists instead of tuples."""
        return dict(json.loads(json.dumps(self.as_dict())))


def _model_name(model: ModelConfig) -> str:
    return model.network if isinstance(model, NetworkConfig) else model.backbone


def experiment_differences(
    recorded: Mapping[str, Any],
    current: Mapping[str, Any],
    labels: tuple[str, str] = ("recorded", "now"),
) -> list[str]:
    """Describe the settings that differ, as `KEY: VALUE (recorded), VALUE (now)`.

    Both experiments are in JSON types. A setting missing in `recorded` counts as its default: older
    code did not have it. Settings in `WITHOUT_EFFECT` are ignored. labels: names of the two
    experiments in the descriptions.
    """
    old, new = dict(flattened(recorded)), dict(flattened(current))
    defaults = dict(flattened(Experiment().as_json()))
    old = {key: defaults[key] for key in new if key in defaults} | old
    return [
        f"{key}: {old.get(key, 'nothing')} ({labels[0]}), {new.get(key, 'nothing')} ({labels[1]})"
        for key in dict.fromkeys((*old, *new))
        if key not in WITHOUT_EFFECT and not (key in old and key in new and old[key] == new[key])
    ]


def read_experiment(path: str | Path, dataset: str | None = None) -> Experiment:
    """Read an experiment from a YAML file; `dataset` replaces the data set of the file.

    Raises:
        ConfigurationError: the file cannot be read, or a key or value is not valid.
    """
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    try:
        if isinstance(values, dict):
            data = values.setdefault("data", {}) if dataset is not None else None
            if isinstance(data, dict):
                data["dataset"] = dataset
        return configure(Experiment, values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error

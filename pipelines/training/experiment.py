"""What decides a result: one frozen tree of settings for data, model, training and evaluation.

What does not decide it (how many workers, on which device) is `orchestrator.study.resources`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models import FENetConfig
from pipelines.config import ConfigurationError, CoreLoader, configure
from pipelines.data.config import DataConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.network.build import ModelConfig
from pipelines.training.optimization import TrainingConfig

#: Settings of an experiment that change how fast its result is there, and not the result.
WITHOUT_EFFECT = ("evaluation.batch",)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the outcome of one training.

    Two equal experiments on the same data and code give the same weights, whatever the number of
    workers. `seed` keys the initial parameters, the order of the samples and every augmentation.
    """

    __pydantic_config__ = {"extra": "forbid"}

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=FENetConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The experiment as nested plain values, every default written out."""
        return asdict(self)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON and YAML have it: lists for tuples."""
        return dict(json.loads(json.dumps(self.as_dict())))


def differences(recorded: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """`KEY: VALUE there, VALUE here` for every setting that is not what was recorded.

    Both as JSON has them. What was not recorded is taken for the default, which is what an older
    version did that did not know it. What is `WITHOUT_EFFECT` does not count.
    """
    there, here = dict(_settings(recorded)), dict(_settings(own))
    defaults = dict(_settings(Experiment().as_json()))
    there = {key: defaults[key] for key in here if key in defaults} | there
    return [
        f"{key}: {there.get(key, 'nothing')} there, {here.get(key, 'nothing')} here"
        for key in dict.fromkeys((*there, *here))
        if key not in WITHOUT_EFFECT
        and not (key in there and key in here and there[key] == here[key])
    ]


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_experiment(path: str | Path, dataset: str | None = None) -> Experiment:
    """The experiment of a YAML file, on `dataset` instead of the file's own if one is given.

    Raises:
        ConfigurationError: the file cannot be read, or holds what an experiment does not take.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), CoreLoader) or {}
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    try:
        if dataset is not None and isinstance(values, dict):
            data = values.setdefault("data", {})
            if isinstance(data, dict):
                data["dataset"] = dataset
        return configure(Experiment, values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error

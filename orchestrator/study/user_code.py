"""User code of a study: the classes it names, and modules that register backbones or kinds of FEM.

It is imported by the command, shipped to the workers, and included in the code version.
"""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from models import LossTermConfig
from models.registry import ClassConfig
from models.user_code import describe
from orchestrator.study.evaluation_options import ProtocolConfig
from orchestrator.study.import_closure import (
    INSTALLED_DIRECTORIES,
    PROJECT_PACKAGES,
    source_files,
)
from orchestrator.study.validation import check_arguments
from orchestrator.study.yaml_source import Keys, Problem, Source, StudyError
from pipelines.data.config import TransformConfig
from pipelines.evaluation.config import MetricConfig, metric_configs
from pipelines.network.config import NetworkConfig
from pipelines.training.config import OptimizerConfig, TrainingConfig
from pipelines.training.experiment import Experiment

_VERSIONED = (*PROJECT_PACKAGES, "torch", "kornia")


def import_modules(names: Sequence[str], source: Source) -> None:
    """Import the modules under `imports`. Raises StudyError with the location of each failure."""
    problems = []
    for index, name in enumerate(names):
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a script may exit when it is imported
            message = (
                f"cannot import {name} ({describe(error)}); put it into the working directory or "
                "install it"
            )
            problems.append(Problem(source.location(("imports", index)), message))
    if problems:
        raise StudyError(problems)


def check_network_config(config: NetworkConfig, source: Source) -> None:
    """Import the network's class and check the arguments against its constructor's annotations.

    source: the tree of `model`. Raises StudyError.
    """
    from pipelines.network.build import NetworkError, network_class  # a network needs torch

    try:
        network = network_class(config)
    except NetworkError as error:
        raise StudyError([Problem(source.location(("network",)), str(error))]) from None
    arguments = source.subtree(("arguments",)) if "arguments" in source.value else None
    if arguments is not None:
        check_arguments(network, arguments)


def check_training_classes(experiment: Experiment, source: Source) -> None:
    """Import the classes of the optimizer, the schedule, the loss, the transforms and the metrics,
    and check their arguments, if the study names a class of its own or sets arguments.

    source: the tree of the experiment. Raises StudyError.
    """
    config = experiment.training
    parts: dict[Keys, ClassConfig] = {
        ("training", "optimizer"): config.optimizer_config,
        ("training", "schedule"): config.schedule_config,
    }
    for index, term in enumerate(config.loss.term_configs):
        parts["training", "loss", "terms", index] = term
    for index, transform in enumerate(experiment.data.augmentation.transform_configs):
        parts["data", "augmentation", "transforms", index] = transform
    for index, metric in enumerate(metric_configs(experiment.evaluation.metrics)):
        parts["evaluation", "metrics", index] = metric
    _check_parts(parts, source, config)


def check_protocol_metrics(protocols: Mapping[str, ProtocolConfig], source: Source) -> None:
    """Import the classes of the protocols' metrics, and check their arguments. Raises StudyError.

    source: the tree of the study.
    """
    parts: dict[Keys, ClassConfig] = {
        ("protocols", name, "metrics", index): metric
        for name, protocol in protocols.items()
        for index, metric in enumerate(metric_configs(protocol.metrics))
    }
    _check_parts(parts, source, TrainingConfig())


def _check_parts(
    parts: Mapping[Keys, ClassConfig], source: Source, training: TrainingConfig
) -> None:
    """Check the parts with a class or arguments of the user's own. Raises StudyError."""
    problems = []
    for keys, each in parts.items():
        if not each.arguments and ":" not in each.name:
            continue
        try:
            cls = _part_class(each, training)
            if each.arguments:
                check_arguments(cls, source.subtree((*keys, "arguments")))
        except StudyError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(Problem(source.location(keys), str(error)))
    if problems:
        raise StudyError(problems)


def _part_class(part: ClassConfig, training: TrainingConfig) -> type[Any]:
    """Import the class of a part. Raises ValueError."""
    # torch and kornia take seconds, so they are imported where they are needed only.
    if isinstance(part, LossTermConfig):
        from models.loss import loss_class

        return loss_class(part)
    if isinstance(part, TransformConfig):
        from pipelines.data.transforms import transform_class

        return transform_class(part)
    if isinstance(part, MetricConfig):
        from pipelines.evaluation.measuring import metric_class

        return metric_class(part)
    from pipelines.training.optimization import optimizer_class, schedule_class

    if isinstance(part, OptimizerConfig):
        return optimizer_class(training)
    return schedule_class(training)


def modules_of(experiment: Experiment, imports: Sequence[str]) -> list[ModuleType]:
    """Return the top-level packages or modules of user code that an experiment's training needs:
    those it names, and the user code that these import."""
    return modules_named([*imports, *experiment.class_names])


def modules_by_name(
    experiments: Iterable[Experiment], imports: Sequence[str]
) -> dict[str, ModuleType]:
    """Return the user code of several experiments, as `modules_of`, by its name."""
    return {
        module.__name__: module
        for experiment in experiments
        for module in modules_of(experiment, imports)
    }


def modules_of_network(experiment: Experiment, imports: Sequence[str]) -> list[ModuleType]:
    """Return the user code, as `modules_of`, that applying the trained network needs."""
    return modules_named([*imports, *experiment.network_class_names])


def has_user_code(experiment: Experiment, imports: Sequence[str]) -> bool:
    """Whether an experiment's training imports user code."""
    return bool(_packages([*imports, *experiment.class_names]))


def network_has_user_code(experiment: Experiment, imports: Sequence[str]) -> bool:
    """Whether applying a trained network imports user code."""
    return bool(_packages([*imports, *experiment.network_class_names]))


def modules_named(names: Sequence[str]) -> list[ModuleType]:
    """Return the top-level packages or modules of user code among modules and classes, and the user
    code that these import."""
    return list(_with_imported(_packages(names)))


def _packages(names: Sequence[str]) -> tuple[str, ...]:
    """Return the top-level names of modules and classes, except those of this project, torch and
    kornia, which have known versions."""
    packages = dict.fromkeys(name.partition(":")[0].split(".")[0] for name in names)
    return tuple(name for name in packages if name not in _VERSIONED)


@cache  # most trials of a study use the same modules
def _with_imported(names: tuple[str, ...]) -> tuple[ModuleType, ...]:
    modules: dict[str, ModuleType] = {}
    queue = list(names)
    while queue:
        name = queue.pop(0)
        if name in modules:
            continue
        modules[name] = importlib.import_module(name)
        if not is_installed(modules[name]):
            queue += sorted(filter(_is_user_code, _imported_by(modules[name])))
    return tuple(modules.values())


def is_installed(module: ModuleType) -> bool:
    """Whether a module is an installed package rather than user code."""
    return not INSTALLED_DIRECTORIES.isdisjoint(source_files(module)[0].parts)


def _imported_by(module: ModuleType) -> set[str]:
    """Return the top-level names that the sources of a package or module import."""
    names: set[str] = set()
    for file in source_files(module):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names


def _is_user_code(name: str) -> bool:
    """Whether a top-level module is user code: not of the standard library, this project or an
    installed package. Does not import it."""
    if name in PROJECT_PACKAGES or name in sys.stdlib_module_names:
        return False
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    paths = [spec.origin] if spec.origin else [*(spec.submodule_search_locations or ())]
    return bool(paths) and INSTALLED_DIRECTORIES.isdisjoint(Path(paths[0]).parts)


def runtime_environment(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Return the Ray runtime environment that ships `modules`, by name, to the workers; empty if
    there are none."""
    paths = [
        str(next(iter(module.__path__)) if hasattr(module, "__path__") else inspect.getfile(module))
        for module in modules.values()
    ]
    return {"py_modules": paths} if paths else {}

"""The user's own code in a study: networks, and modules that register backbones or kinds of FEM.

It is imported where the command runs, sent to the workers, and counts for the code version.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.source import Problem, Source, StudyError
from orchestrator.validation import check_arguments
from pipelines.experiment import Experiment
from pipelines.network import NetworkConfig, NetworkError, network_class


def import_modules(names: Sequence[str], source: Source) -> None:
    """Import what a study lists under `imports`. Raises StudyError, placed at what failed."""
    problems = []
    for index, name in enumerate(names):
        try:
            importlib.import_module(name)
        except Exception as error:
            message = (
                f"cannot import {name} ({type(error).__name__}: {error}); "
                "it must lie in the working directory or be installed"
            )
            problems.append(Problem(source.place(("imports", index)), message))
    if problems:
        raise StudyError(problems)


def check_network_config(config: NetworkConfig, source: Source) -> None:
    """Import the network's class and hold the arguments against its constructor's annotations.

    source: the tree of the `model`. Raises StudyError.
    """
    try:
        found = network_class(config)
    except NetworkError as error:
        raise StudyError([Problem(source.place(("network",)), str(error))]) from None
    arguments = source.subtree(("arguments",)) if "arguments" in source.value else None
    if arguments is not None:
        check_arguments(found, arguments)


def modules_of(experiment: Experiment, imports: Sequence[str]) -> list[ModuleType]:
    """The top-level packages or modules of the user's own code that an experiment needs."""
    names = [*imports]
    if isinstance(experiment.model, NetworkConfig):
        names.append(experiment.model.network.partition(":")[0])
    return [importlib.import_module(name) for name in dict.fromkeys(n.split(".")[0] for n in names)]


def source_files(module: ModuleType) -> list[Path]:
    """The Python sources of a package, or of a single module."""
    if hasattr(module, "__path__"):
        return sorted(Path(next(iter(module.__path__))).rglob("*.py"))
    return [Path(inspect.getfile(module))]


def runtime_environment(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Ray's description of what to send to the workers; empty where there is nothing to send.

    modules: packages or modules, by name.
    """
    paths = [
        str(next(iter(module.__path__)) if hasattr(module, "__path__") else inspect.getfile(module))
        for module in modules.values()
    ]
    return {"py_modules": paths} if paths else {}

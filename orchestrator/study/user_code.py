"""The user's own code in a study: networks, and modules that register backbones or kinds of FEM.

It is imported where the command runs, sent to the workers, and counts for the code version.
"""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.study.import_closure import source_files
from orchestrator.study.validation import check_arguments
from orchestrator.study.yaml_source import Problem, Source, StudyError
from pipelines.network.build import NetworkConfig, NetworkError, network_class
from pipelines.training.experiment import Experiment

_PROJECT = ("models", "orchestrator", "pipelines")
# Folders that packages are installed into.
_INSTALLED = {"site-packages", "dist-packages"}


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
    """The top-level packages or modules of the user's own code that an experiment needs: those that
    it names, and those of the user's own that these import."""
    names = [*imports]
    if isinstance(experiment.model, NetworkConfig):
        names.append(experiment.model.network.partition(":")[0])
    return list(_with_imported(tuple(dict.fromkeys(name.split(".")[0] for name in names))))


@cache  # the trials of a study need the same
def _with_imported(names: tuple[str, ...]) -> tuple[ModuleType, ...]:
    found: dict[str, ModuleType] = {}
    queue = list(names)
    while queue:
        name = queue.pop(0)
        if name in found:
            continue
        found[name] = importlib.import_module(name)
        if not is_installed(found[name]):
            queue += sorted(filter(_is_own, _imported_by(found[name])))
    return tuple(found.values())


def is_installed(module: ModuleType) -> bool:
    """Whether a module is one of the installed packages, and not the user's own."""
    return not _INSTALLED.isdisjoint(source_files(module)[0].parts)


def _imported_by(module: ModuleType) -> set[str]:
    """The top-level names of what the sources of a package or module import."""
    names: set[str] = set()
    for file in source_files(module):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names


def _is_own(name: str) -> bool:
    """Whether a top-level name is of the user's own code; neither Python's nor this project's nor a
    library's, which is not imported to find out."""
    if name in _PROJECT or name in sys.stdlib_module_names:
        return False
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else [*(spec.submodule_search_locations or ())]
    return bool(places) and _INSTALLED.isdisjoint(Path(places[0]).parts)


def runtime_environment(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Ray's description of what to send to the workers; empty where there is nothing to send.

    modules: packages or modules, by name.
    """
    paths = [
        str(next(iter(module.__path__)) if hasattr(module, "__path__") else inspect.getfile(module))
        for module in modules.values()
    ]
    return {"py_modules": paths} if paths else {}

"""The sources and libraries that a model needs on a machine where this project is not installed.

The sources are the import closure of `pipelines.serving` and the user's own modules. The required
libraries are read from the imports of these sources, and pinned to the installed versions.
"""

import io
import json
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

import models
import pipelines
from orchestrator.study.import_closure import import_closure, named_sources
from orchestrator.study.user_code import is_installed, modules_of_network
from orchestrator.tracking.pyfunc_loader import IMPORTS
from pipelines.training.experiment import Experiment

_ENTRY = "pipelines.serving"


@dataclass(frozen=True)
class Package:
    """sources: a zip archive of Python files. requirements: as pip takes them."""

    sources: bytes
    requirements: tuple[str, ...]


def package(experiment: Experiment, imports: Sequence[str]) -> Package:
    """Return what the experiment's network needs. imports: the modules that the study imports."""
    own = modules_of_network(experiment, imports)
    return _package(tuple(own), tuple(imports), experiment.libraries)


@cache  # the trials of a study share one package
def _package(
    own: tuple[ModuleType, ...], imports: tuple[str, ...], required: tuple[str, ...]
) -> Package:
    files = named_sources(models) | named_sources(pipelines)
    roots, libraries = [_ENTRY], set(required)
    for module in own:
        if is_installed(module):
            libraries.add(module.__name__)
        else:
            # Every file of it, because it may import parts of itself dynamically.
            files |= named_sources(module)
            roots += named_sources(module)
    needed, imported = import_closure(roots, files)
    return Package(_archive(needed, imports), _requirements(imported | libraries))


def _archive(needed: Mapping[str, Path], imports: Sequence[str]) -> bytes:
    """Return the sources as a zip archive; equal sources give equal bytes."""
    content = {IMPORTS: json.dumps(list(imports)).encode()}
    for name, file in needed.items():
        path = name.replace(".", "/")
        content[f"{path}/__init__.py" if file.name == "__init__.py" else f"{path}.py"] = (
            file.read_bytes()
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(content):
            archive.writestr(zipfile.ZipInfo(path), content[path], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _requirements(names: Iterable[str]) -> tuple[str, ...]:
    """Return the installed distributions that provide the top-level `names`, pinned."""
    providers = packages_distributions()
    distributions = {
        distribution
        for name in set(names) - set(sys.stdlib_module_names)
        for distribution in providers.get(name, ())
    }
    # A build for one device (2.13.0+cpu) is pinned as its release (2.13.0).
    return tuple(sorted(f"{name}=={version(name).split('+')[0]}" for name in distributions))

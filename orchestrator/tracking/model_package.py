"""What a model needs to run where this project is not installed: sources, and libraries.

The sources are those that `pipelines.serving` imports, directly or not, and the user's own modules.
Which libraries they need is read from their imports; each is asked for at the version at hand.
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
from orchestrator.study.user_code import is_installed, modules_of
from orchestrator.tracking.pyfunc_loader import IMPORTS
from pipelines.training.experiment import Experiment

_ENTRY = "pipelines.serving"


@dataclass(frozen=True)
class Package:
    """sources: a zip archive of Python files. requirements: as pip takes them."""

    sources: bytes
    requirements: tuple[str, ...]


def package(experiment: Experiment, imports: Sequence[str]) -> Package:
    """What the experiment's network needs. imports: the study's modules that it is made with."""
    own = modules_of(experiment, imports)
    return _package(tuple(module for module in own), tuple(imports))


@cache  # the trials of a study need the same
def _package(own: tuple[ModuleType, ...], imports: tuple[str, ...]) -> Package:
    files = named_sources(models) | named_sources(pipelines)
    wanted, libraries = [_ENTRY], set()
    for module in own:
        if is_installed(module):
            libraries.add(module.__name__)
        else:
            # All of it: it may well import parts of itself by name.
            files |= named_sources(module)
            wanted += named_sources(module)
    needed, imported = import_closure(wanted, files)
    return Package(_archive(needed, imports), _requirements(imported | libraries))


def _archive(needed: Mapping[str, Path], imports: Sequence[str]) -> bytes:
    """The sources as a zip archive, the same bytes for the same sources."""
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
    """The installed distributions that provide the top-level `names`, pinned."""
    provided = packages_distributions()
    found = {
        distribution
        for name in set(names) - set(sys.stdlib_module_names)
        for distribution in provided.get(name, ())
    }
    # Builds of one release for other devices (2.13.0+cpu) are asked for as that release.
    return tuple(sorted(f"{name}=={version(name).split('+')[0]}" for name in found))

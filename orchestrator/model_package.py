"""What a model needs to run where this project is not installed: sources, and libraries.

The sources are those that `pipelines.serving` imports, directly or not, and the user's own modules.
Which libraries they need is read from their imports; each is asked for at the version at hand.
"""

import ast
import io
import json
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

import models
import pipelines
from orchestrator.extensions import is_installed, modules_of, source_files
from orchestrator.segmentation_model import IMPORTS
from pipelines.experiment import Experiment

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
    files = _modules(models) | _modules(pipelines)
    wanted, libraries = [_ENTRY], set()
    for module in own:
        if is_installed(module):
            libraries.add(module.__name__)
        else:
            # All of it: it may well import parts of itself by name.
            files |= _modules(module)
            wanted += _modules(module)
    needed, imported = reach(wanted, files)
    return Package(_archive(needed, imports), _requirements(imported | libraries))


def reach(wanted: Iterable[str], files: Mapping[str, Path]) -> tuple[dict[str, Path], set[str]]:
    """Those of `files` (by module name) that importing `wanted` needs, and the top-level names of
    whatever else they import."""
    needed: dict[str, Path] = {}
    others: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed[name] = files[name]
        found = _imported(name, files[name])
        queue += found & files.keys()
        others |= {entry.partition(".")[0] for entry in found - files.keys()}
    ours = {name.partition(".")[0] for name in files}
    return needed, others - ours


def _imported(name: str, file: Path) -> set[str]:
    """Absolute names of what a module may import, with the packages that they are in."""
    parent = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = {parent} if parent else set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), parent)
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found | {
        entry.rsplit(".", depth)[0] for entry in found for depth in range(1, entry.count(".") + 1)
    }


def _modules(module: ModuleType) -> dict[str, Path]:
    """The sources of a top-level package or module, by module name."""
    files = source_files(module)
    if not hasattr(module, "__path__"):
        return {module.__name__: files[0]}
    root = Path(next(iter(module.__path__))).parent
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


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

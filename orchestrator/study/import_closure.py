"""Finds the source files that importing a module executes, by parsing its text."""

import ast
import inspect
import re
from collections.abc import Iterable, Mapping
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

# What is not user code: the top-level packages of this project, and directories of installed ones.
PROJECT_PACKAGES = ("models", "orchestrator", "pipelines")
INSTALLED_DIRECTORIES = frozenset({"site-packages", "dist-packages"})


def source_files(module: ModuleType) -> list[Path]:
    """Return the source files of a package, or of a single module."""
    if hasattr(module, "__path__"):
        return sorted(Path(next(iter(module.__path__))).rglob("*.py"))
    return [Path(inspect.getfile(module))]


def named_sources(module: ModuleType) -> dict[str, Path]:
    """Return the source files of a top-level package or module, by module name."""
    files = source_files(module)
    if not hasattr(module, "__path__"):
        return {module.__name__: files[0]}
    root = Path(next(iter(module.__path__))).parent
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def import_closure(
    modules: Iterable[str], files: Mapping[str, Path], with_named: bool = False
) -> tuple[dict[str, Path], set[str]]:
    """Return the entries of `files` (by module name) that importing `modules` executes, and the
    top-level names of everything else they import.

    with_named: also those that a registry imports when they are used, because its module names
    them as `package.module:Class`.
    """
    needed: dict[str, Path] = {}
    others: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed[name] = files[name]
        imported = _imported(name, files[name])
        if with_named:
            imported |= _named_in_texts(files[name], files)
        queue += imported & files.keys()
        others |= {entry.partition(".")[0] for entry in imported - files.keys()}
    own = {name.partition(".")[0] for name in files}
    return needed, others - own


def _imported(name: str, file: Path) -> set[str]:
    """Return the absolute names that a module may import, and those of their packages."""
    parent = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names = {parent} if parent else set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), parent)
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return names | {
        name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)
    }


def _named_in_texts(file: Path, files: Mapping[str, Path]) -> set[str]:
    """Return the modules in `files` that a module names as `package.module:Class`."""
    texts = re.findall(r"[\"']([\w.]+):\w+[\"']", file.read_text(encoding="utf-8"))
    return {text for text in texts if text in files}

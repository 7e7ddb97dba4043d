"""Merges a study file with the files that it extends."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.study.overlay import mergeable
from orchestrator.study.yaml_source import Keys, Problem, Source, StudyError, read_yaml
from pipelines.wording import closest, suggestion

# Not inherited, because two studies with one name would share a run in the tracking store.
_NOT_INHERITED = ("study", "description", "extends")
# Mappings by user-defined names; null removes an inherited entry.
_NAMED = ("variants", "grid", "sample", "protocols")


def read_study(
    path: Path, chain: tuple[Path, ...], problems: list[Problem], unreadable: list[Problem]
) -> Source:
    """Return a study file merged over the files it extends.

    chain: the files that lead here by `extends`. Files that cannot be extended are added to
    `unreadable`, all other problems to `problems`.
    """
    source = read_yaml(path, problems)
    if not isinstance(source.value, dict):
        raise StudyError([Problem(source.location(()), "a study must be a mapping of keys")])
    return extended_source(source, path.parent, (*chain, path.resolve()), problems, unreadable)


def extended_source(
    source: Source,
    directory: Path,
    chain: tuple[Path, ...],
    problems: list[Problem],
    unreadable: list[Problem],
) -> Source:
    """Return a study merged over the files it extends. directory: that their paths are relative to;
    see `read_study`."""
    base = Source(source.name, {})
    for keys, name in _extended(source):
        file, problem = _file(name, directory, chain)
        if problem is not None:
            unreadable.append(Problem(source.location(keys), f"`extends` {problem}"))
        else:
            inherited = read_study(file, chain, problems, unreadable)
            for key in _NOT_INHERITED:
                inherited = inherited.without(key)
            base = _extended_by(base, inherited)
    if not unreadable:
        problems += _unused_nulls(base, source)
    # An entry that an extended file removes and this file defines again starts empty.
    return _extended_by(without_removed(base), source)


def _extended_by(base: Source, source: Source) -> Source:
    """Return a study file overridden by one that extends it."""
    variants = source.value.get("variants")
    names = variants if isinstance(variants, dict) else {}
    for keys in (("base",), *(("variants", name, "set") for name in names)):
        base, source = mergeable(base, source, keys)
    return base.merged(source)


def _extended(source: Source) -> list[tuple[Keys, str]]:
    value = source.value.get("extends", [])
    if isinstance(value, str):
        return [(("extends",), value)]
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return [(("extends", index), entry) for index, entry in enumerate(value)]
    message = "`extends` must be a path, or a list of paths, relative to this file"
    raise StudyError([Problem(source.location(("extends",)), message)])


def _file(name: str, directory: Path, chain: tuple[Path, ...]) -> tuple[Path, str | None]:
    """Return the file that `extends` names, and what is wrong with it."""
    file = Path(name)
    try:
        file = Path(os.path.normpath(directory / file.expanduser()))
        if file.resolve() in chain:
            cycle = [*chain[chain.index(file.resolve()) :], file]
            return file, f"has a cycle: {' -> '.join(each.name for each in cycle)}"
        if file.is_dir():
            return file, f"names {file}, which is a directory"
        if not file.is_file():
            return file, f"names {file}, {_not_found(file)}"
    except (OSError, RuntimeError, ValueError) as error:  # no permission, too long, no such user
        return file, f"names {name!r}, which fails: {error}"
    return file, None


def _not_found(file: Path) -> str:
    if not file.parent.is_dir():
        return f"but the directory {file.parent} does not exist"
    close = closest(file.stem, sorted(each.stem for each in file.parent.glob("*.yaml")))
    hint = f"; did you mean {close}.yaml?" if close else ""
    return f"which does not exist{hint}"


def _unused_nulls(base: Source, override: Source) -> Iterator[Problem]:
    """Yield the nulls of `override` that remove nothing from `base`."""
    for section in _NAMED:
        entries = override.value.get(section)
        if not isinstance(entries, dict):
            continue
        inherited = base.value.get(section)
        names = list(inherited) if isinstance(inherited, dict) else []
        for name, value in entries.items():
            if value is None and name not in names:
                message = (
                    f"`{section}.{name}` is null, which removes an inherited entry, but no entry "
                    "of that name is inherited"
                )
                if names:
                    message += f"; {suggestion(name, names)}"
                if section == "variants":
                    message += "; write `{}` for a variant that sets nothing"
                yield Problem(override.location((section, name)), message)


def without_removed(source: Source) -> Source:
    """Return the tree without named entries that are null."""
    value = dict(source.value)
    for section in _NAMED:
        entries = value.get(section)
        if isinstance(entries, dict):
            value[section] = {name: entry for name, entry in entries.items() if entry is not None}
        elif section == "sample" and section in value and entries is None:
            value[section] = {}  # a table that extends its search
    return source.pruned(value)

"""Which row of a search a row of a table is: the one that sets the same, whatever its name."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.study.conditions import VARIANT, resolved_values
from orchestrator.study.search_result import FoundSample, SearchResult
from orchestrator.study.validation import as_json
from pipelines.config import flattened
from pipelines.training.experiment import WITHOUT_EFFECT

#: Values by dotted key, each of the search and of the table.
Differences = dict[str, tuple[Any, Any]]

_DATASET = "data.dataset"
_NETWORK = "model.network"
_SHOWN = 3  # differences in a sentence


@dataclass(frozen=True)
class Tuned:
    """What a cell of a table takes from a search.

    found: the best sample of its row.
    by_name: whether the file does not say what the search's row set, so that only the name matches.
    others: settings that the row does not change, in which the search and the table differ.
    """

    found: FoundSample
    by_name: bool
    others: Differences


@dataclass(frozen=True)
class TableCell:
    """A cell of a table with the values of a sample.

    settings: all of the cell. own: what its row changes. base: those of the table's base. fixed:
    keys that the command line sets for all rows.
    """

    settings: Mapping[str, Any]
    own: Mapping[str, Any]
    base: Mapping[str, Any]
    fixed: Collection[str]


def settings_of(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a partial experiment that decide a result, by dotted key, in JSON
    types, with defaults. An empty mapping is the same as none, and `package.module:Class` the same
    as a `model` with this `network`."""
    model = experiment.get("model")
    if isinstance(model, str):
        experiment = {**experiment, "model": {"network": model}}
    resolved = json.loads(json.dumps(resolved_values("", experiment)))
    ignored = (VARIANT, "seed", *WITHOUT_EFFECT)
    return _of_one_length(
        {key: value for key, value in flattened(resolved) if key not in ignored and value != {}}
    )


def all_settings(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a search's base, with defaults."""
    recorded = dict(flattened(base))
    model = {"network": recorded[_NETWORK]} if _NETWORK in recorded else {}
    return _of_one_length({**settings_of({"model": model}), **recorded})


def changed(settings: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings that `base` does not have, or has with another value."""
    return {key: value for key, value in settings.items() if not _equal(value, base.get(key))}


def compare(
    base: Mapping[str, Any], ranges: Collection[str], found: FoundSample, cell: TableCell
) -> Tuned | Differences:
    """Return what a cell takes from a row of a search, or the settings by which it is another row:
    those that one of the two rows changes, and that differ. Settings that neither row changes may
    differ, such as the length of the training.

    base: all settings of the search's base. ranges: keys that it sampled. found: has the cell's
    values of the grid, and `set`.
    """
    own = dict(flattened(found.set or {}))
    tuned = (*ranges, *found.axes)
    keys = [key for key in dict.fromkeys((*own, *cell.own)) if not is_below(key, tuned)]
    rows = [key for key in keys if not is_below(key, cell.fixed)]
    if differing := _differing(rows, {**base, **own}, cell.settings):
        return differing
    without = {*keys, *(cell.base.keys() - cell.settings.keys())}  # another network has other keys
    others = [
        key
        for key in dict.fromkeys((*base, *cell.base))
        if key not in without and not is_below(key, tuned)
    ]
    return Tuned(found, False, _differing(others, base, cell.base))


def choose(
    result: SearchResult,
    name: str,
    axes: Collection[str],
    matches: Iterable[tuple[FoundSample, Tuned | Differences]],
) -> tuple[Tuned | None, str]:
    """Return what a cell of row `name` takes from a search, and what is wrong with it: a row that
    sets the same, or else the row of its name if the file does not say what that row set. Of
    several rows that set the same, those that also have the values of the table's grid are left.

    axes: keys of the table's grid. matches: of the rows that have the cell's values of the grid,
    the one of its name first; see `compare`. They are read only as far as necessary.
    """
    read, same = [], []
    for row, match in matches:
        read.append((row, match))
        if isinstance(match, Tuned) and not match.by_name:
            same.append(match)
            if row.variant == name and not _differs_below(axes, match):
                break
    same = [each for each in same if not _differs_below(axes, each)] or same
    if same:
        first = same[0].found
        others = [each.found for each in same if each.found.values != first.values]
        if first.variant == name or not others:
            return same[0], ""
        return None, (
            f"`variants.{name}` sets what {first.variant!r} and {others[0].variant!r} of search "
            f"{result.search!r} set, which have different values; give the row one of these names"
        )
    named = next((match for row, match in read if row.variant == name), None)
    if named is None or isinstance(named, Tuned):
        return named, ""
    return None, (
        f"`variants.{name}` is another row than {name!r} of search {result.search!r}: "
        f"{differences_text(named)}. Run the search again, or rename the row, which is then not "
        f"tuned; to take the values anyway, remove `set` of {name!r} from the file of `from_search`"
    )


def differences_text(differences: Differences) -> str:
    """Return differences as text, such as `model.flows` is [] there and ["detail"] here."""
    texts = [
        f"`{key}` is {_text(there)} there and {_text(here)} here"
        for key, (there, here) in differences.items()
    ]
    more = [f"{len(texts) - _SHOWN} other settings differ"] if len(texts) > _SHOWN + 1 else []
    return ", ".join([*texts[:_SHOWN], *more] if more else texts)


def is_below(key: str, others: Collection[str]) -> bool:
    """Whether a dotted key is one of the others, or below one."""
    return any(key == other or key.startswith(f"{other}.") for other in others)


def _differs_below(axes: Collection[str], match: Tuned) -> bool:
    """Whether the search had another value of an axis, which its row did not set."""
    return any(is_below(key, axes) for key in match.others)


def _of_one_length(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without the epochs of a training whose length is given in steps."""
    epochs, steps = "training.epochs", "training.steps"
    return {k: v for k, v in settings.items() if k != epochs or settings.get(steps) is None}


def _differing(
    keys: Sequence[str], there: Mapping[str, Any], here: Mapping[str, Any]
) -> Differences:
    return {
        key: (there.get(key), here.get(key))
        for key in keys
        if not _same(key, there.get(key), here.get(key))
    }


def _same(key: str, first: Any, second: Any) -> bool:
    if key == _DATASET and isinstance(first, str) and isinstance(second, str):
        # The same data may be in another folder.
        return PurePosixPath(first).name == PurePosixPath(second).name
    return _equal(first, second)


def _equal(first: Any, second: Any) -> bool:
    """Whether two values in JSON types are equal: 1 is 1.0, and true is not 1."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _text(value: Any) -> str:
    return "not set" if value is None else as_json(value)

"""The partial experiments of a study that its cells are merged from."""

from collections.abc import Sequence
from typing import Any

from orchestrator.study.conditions import VARIANT, holds, resolved_values
from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import dotted_leaves, overlay, without_unknown_keys
from orchestrator.study.search_match import changed, settings_of
from orchestrator.study.yaml_source import Keys, Problem, Source, SourceLocation, single_value


class Layers:
    """The base, the `set` of each row, the parts of `when`, and the overrides of the command line.

    Unknown keys are left out. problems: gets them.
    """

    def __init__(
        self,
        config: StudyConfig,
        source: Source,
        overrides: Sequence[Source],
        problems: list[Problem],
    ) -> None:
        self._config = config
        self._overrides = [without_unknown_keys(one, problems) for one in overrides]
        self._base = _partial(source, ("base",), problems)
        self._rows = {
            name: _partial(source, ("variants", name, "set"), problems) for name in config.variants
        }
        self._conditionals = [
            _partial(source, ("when", index, "set"), problems) for index in range(len(config.when))
        ]
        self._own: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
        #: The settings of the base, with the overrides of the command line.
        self.base = settings_of(self.overridden(self._base).value)
        #: The dotted keys that the command line sets.
        self.fixed = [key for one in self._overrides for key in dotted_leaves(one.value)]

    def row(self, name: str) -> Source:
        """Return the base with the `set` of a row."""
        return overlay(self._base, self._rows[name])

    def overridden(self, cell: Source) -> Source:
        """Return a cell with the overrides of the command line."""
        for one in self._overrides:
            cell = overlay(cell, one)
        return cell

    def conditioned(self, name: str, cell: Source) -> tuple[Source, tuple[int, ...]]:
        """Return a cell of a row with the values of `when` and of the command line, and the indices
        of the parts of `when` that it meets."""
        met = []
        for index, conditional in enumerate(self._config.when):
            values = resolved_values(name, self.overridden(cell).value)
            if holds(conditional.condition, values):
                met.append(index)
                cell = overlay(cell, self._conditionals[index])
        return self.overridden(cell), tuple(met)

    def own(self, name: str, met: Sequence[int]) -> dict[str, Any]:
        """Return what a row changes in the base, by dotted key: by its `set`, and by those of the
        parts `met` of `when` that name it."""
        named = tuple(index for index in met if VARIANT in self._config.when[index].condition)
        if (name, named) not in self._own:
            row = self.row(name)
            for index in named:
                row = overlay(row, self._conditionals[index])
            self._own[name, named] = changed(settings_of(self.overridden(row).value), self.base)
        return self._own[name, named]


def with_value(
    cell: Source, key: str, value: Any, location: SourceLocation, problems: list[Problem]
) -> Source:
    """Return a cell with a value at a dotted key. problems: gets the unknown keys of the value."""
    return overlay(cell, without_unknown_keys(single_value(key, value, location), problems))


def _partial(source: Source, keys: Keys, problems: list[Problem]) -> Source:
    """Return the partial experiment at `keys`, without unknown keys."""
    value = source.value
    for key in keys:
        if isinstance(value, dict) and key not in value:
            return Source(source.name, {})
        value = value[key]
    return without_unknown_keys(source.subtree(keys), problems)

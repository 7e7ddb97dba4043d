"""From a study to its trials: variants x grid x seeds, each laid over the base and validated."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from orchestrator.study.conditions import (
    conditions,
    found,
    holds,
    never,
    resolved_values,
    stated_keys,
)
from orchestrator.study.config import StudyConfig, VariantConfig
from orchestrator.study.overlay import laid_over, read_experiment, without_unknown_keys
from orchestrator.study.published import EnteredScore, Reference
from orchestrator.study.study import Trial
from orchestrator.study.validation import shown
from orchestrator.study.yaml_source import Keys, Problem, Source, StudyError, single_value

Stated = TypeVar("Stated", Reference, EnteredScore)


@dataclass(frozen=True)
class _Cell:
    """A row's place in the grid: its values laid over each other, and all of them resolved."""

    name: str
    variant: VariantConfig
    axes: dict[str, Any]
    source: Source
    values: dict[str, Any]


class _Expansion:
    """One expansion: what has been found wrong, and which conditions have held."""

    def __init__(self, config: StudyConfig, source: Source, overrides: Sequence[Source]) -> None:
        self.config = config
        self.source = source
        self.problems: list[Problem] = []
        self.values: list[dict[str, Any]] = []
        self._overrides = [without_unknown_keys(one, self.problems) for one in overrides]
        self._base = self._partial(("base",))
        self._rows = {name: self._partial(("variants", name, "set")) for name in config.variants}
        self._parts = [self._partial(("when", index, "set")) for index in range(len(config.when))]
        self._held: set[Keys] = set()

    def trials(self) -> tuple[Trial, ...]:
        cells = [cell for name in self.config.variants for cell in self._cells(name)]
        self.values = [cell.values for cell in cells]
        return tuple(trial for cell in cells for trial in self._trials_of(cell))

    def idle_conditions(self) -> Iterator[Problem]:
        """Conditions of this study that hold nowhere, and scores of no trial, once there are
        trials. A file that is extended may well say more than one study needs."""
        for keys, condition in conditions(self.config, self.source):
            place = self.source.place(keys)
            if keys not in self._held and place.name == self.source.name:
                yield Problem(place, never(condition, self.values))
        for name, variant in self.config.variants.items():
            for score in variant.entered_scores:
                if score.seed not in self.config.seeds:
                    place = self.source.place(("variants", name, "entered"))
                    message = f"`variants.{name}.entered`: seed {score.seed} is none of `seeds`"
                    yield Problem(place, message)

    def _partial(self, keys: Keys) -> Source:
        """The partial experiment at `keys`, without what no experiment has."""
        value = self.source.value
        for key in keys:
            if isinstance(value, dict) and key not in value:
                return Source(self.source.name, {})
            value = value[key]
        return without_unknown_keys(self.source.subtree(keys), self.problems)

    def _cells(self, name: str) -> Iterator[_Cell]:
        row = laid_over(self._base, self._rows[name])
        grid = self.config.grid
        for chosen in itertools.product(*(enumerate(values) for values in grid.values())):
            axes, cell = {}, row
            for axis, (index, value) in zip(grid, chosen, strict=True):
                place = self.source.place(("grid", axis, index))
                column = without_unknown_keys(single_value(axis, value, place), [])
                cell = laid_over(cell, column)
                axes[axis] = value
            for index, part in enumerate(self.config.when):
                if holds(part.condition, resolved_values(name, self._overridden(cell).value)):
                    self._held.add(("when", index, "if"))
                    cell = laid_over(cell, self._parts[index])
            cell = self._overridden(cell)
            self.problems += self._untrue_columns(name, axes, cell.value)
            values = resolved_values(name, cell.value)
            yield _Cell(name, self.config.variants[name], axes, cell, values)

    def _untrue_columns(
        self, name: str, axes: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Iterator[Problem]:
        """Axes of mappings of which something laid over them changes a part: the table would show
        a result under what it was not trained with."""
        for axis, value in axes.items():
            trained = found(axis, values)
            if isinstance(value, dict) and not _holds_all(trained, value):
                message = (
                    f"axis `{axis}`: the column says {shown(value)}, but `when` or `--set` has "
                    f"{name} trained with {shown(trained)}; leave what the axis sets alone there"
                )
                yield Problem(self.source.place(("grid", axis)), message)

    def _overridden(self, cell: Source) -> Source:
        for one in self._overrides:
            cell = laid_over(cell, one)
        return cell

    def _trials_of(self, cell: _Cell) -> Iterator[Trial]:
        variant, seeds = cell.variant, self.config.seeds
        references = self._stated(cell, "reference", variant.references)
        entered = self._stated(cell, "entered", variant.entered_scores)
        try:
            experiment = read_experiment(cell.source)
        except StudyError as error:
            self.problems += error.problems
            return
        for seed in seeds:
            yield Trial(
                name=trial_name(cell.name, cell.axes, seed, len(seeds) > 1),
                variant=cell.name,
                label=variant.label or cell.name,
                axes=cell.axes,
                experiment=replace(experiment, seed=seed),
                reference=next(iter(references), None),
                entered=next((score for score in entered if score.seed == seed), None),
            )

    def _stated(self, cell: _Cell, kind: str, entries: Sequence[Stated]) -> list[Stated]:
        """Those of `entries` that are for the cell, in their order."""
        matching = []
        for index, entry in enumerate(entries):
            if holds(entry.when, cell.values):
                self._held.add(stated_keys(self.source, cell.name, kind, index))
                matching.append(entry)
        return matching


def expand(
    config: StudyConfig, source: Source, overrides: Sequence[Source]
) -> tuple[tuple[Trial, ...], list[Problem], list[Problem]]:
    """The trials of a study, in the order of its file; what is wrong with them; and, where nothing
    is, the conditions that hold for none of them.

    Over the base lie the variant, the grid, the parts of `when` that hold, one after the other, and
    last the `overrides`, partial experiments of the command line.
    """
    expansion = _Expansion(config, source, overrides)
    trials = expansion.trials()
    idle = [] if expansion.problems else list(expansion.idle_conditions())
    return trials, expansion.problems, idle


def _holds_all(value: Any, stated: Any) -> bool:
    """Whether `value` has all that `stated` says, and perhaps more."""
    if isinstance(value, dict) and isinstance(stated, dict):
        return all(key in value and _holds_all(value[key], stated[key]) for key in stated)
    return bool(value == stated)


def trial_name(variant: str, axes: Mapping[str, Any], seed: int, several_seeds: bool) -> str:
    """The variant and the axes' values; the seed where it tells trials apart or is not 0."""
    parts = [variant, *(str(value) for value in axes.values())]
    if several_seeds or seed != 0:
        parts.append(f"seed {seed}")
    return ", ".join(parts)

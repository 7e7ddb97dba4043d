"""Expands a study into trials: variants x grid x samples x seeds (x folds).

Each is merged over the base and validated.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from orchestrator.study.conditions import (
    conditions,
    holds,
    published_keys,
    resolved_values,
    value_at,
    why_unmet,
)
from orchestrator.study.config import StudyConfig, VariantConfig
from orchestrator.study.layers import Layers, with_value
from orchestrator.study.overlay import (
    dotted_leaves,
    unknown_key,
    validate_experiment,
    without_unknown_keys,
)
from orchestrator.study.published import EnteredScore, Reference
from orchestrator.study.repetition import Repetition, fold_of, seed_of
from orchestrator.study.sampling import CellName, SearchSample, random_sample
from orchestrator.study.search_match import (
    Differences,
    TableCell,
    Tuned,
    all_settings,
    changed,
    choose,
    compare,
    is_below,
    settings_of,
)
from orchestrator.study.search_result import FoundSample, SearchResult
from orchestrator.study.study import Trial
from orchestrator.study.validation import as_json
from orchestrator.study.yaml_source import (
    Keys,
    Problem,
    Source,
    SourceLocation,
    StudyError,
    single_value,
)
from pipelines.data.config import DataConfig
from pipelines.training.experiment import SEEDS
from pipelines.wording import option

Published = TypeVar("Published", Reference, EnteredScore)


@dataclass(frozen=True)
class _Cell:
    """One variant at one point of the grid, and one sample of a search: its merged values, and the
    same with defaults. own, tuned: see `Trial`."""

    name: str
    variant: VariantConfig
    axes: dict[str, Any]
    sample: SearchSample | None
    source: Source
    values: dict[str, Any]
    own: dict[str, Any]
    tuned: Tuned | None


class _Expansion:
    """Expands one study and collects its problems and the conditions that some cell meets."""

    def __init__(
        self,
        config: StudyConfig,
        source: Source,
        overrides: Sequence[Source],
        proposed: Mapping[CellName, Sequence[SearchSample]],
    ) -> None:
        self.config = config
        self.source = source
        self._proposed = proposed
        self.problems: list[Problem] = []
        self._wrong_keys: set[str] = set()
        self.values: list[dict[str, Any]] = []
        self._layers = Layers(config, source, overrides, self.problems)
        self._met: set[Keys] = set()

    @property
    def base(self) -> dict[str, Any]:
        """See `Study.base`."""
        varied = (*self.config.grid, *self.config.sample)
        changes = changed(self._layers.base, settings_of({}))
        return {key: value for key, value in changes.items() if not is_below(key, varied)}

    def trials(self) -> tuple[Trial, ...]:
        cells = [cell for name in self.config.variants for cell in self._cells(name)]
        self.values = [cell.values for cell in cells]
        return tuple(trial for cell in cells for trial in self._trials_of(cell))

    def unmet(self, inherited: bool) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
        """Yield the conditions that no cell meets, with their keys; call `trials` first.
        inherited: those of extended files, or those of the study's own file."""
        for keys, condition in conditions(self.config, self.source):
            own = self.source.location(keys).name == self.source.name
            if keys not in self._met and own != inherited:
                yield keys, condition

    def unused(self) -> Iterator[Problem]:
        """Yield conditions that no cell meets and scores that belong to no trial; call `trials`
        first. Conditions of extended files are skipped: not every study needs all of them."""
        for keys, condition in self.unmet(inherited=False):
            yield Problem(self.source.location(keys), why_unmet(condition, self.values))
        for name, variant in self.config.variants.items():
            for score in variant.entered_scores:
                if score.seed not in self.config.seeds:
                    location = self.source.location(("variants", name, "entered"))
                    message = f"`variants.{name}.entered`: seed {score.seed} is not in `seeds`"
                    yield Problem(location, message)

    def _cells(self, name: str) -> Iterator[_Cell]:
        row = self._layers.row(name)
        grid = self.config.grid
        for chosen in itertools.product(*(enumerate(values) for values in grid.values())):
            axes, cell = {}, row
            for axis, (index, value) in zip(grid, chosen, strict=True):
                location = self.source.location(("grid", axis, index))
                unknown: list[Problem] = []
                cell = with_value(cell, axis, value, location, unknown)
                if unknown and unknown_key(axis, location) is None:  # or else `checks` reports it
                    self.problems += unknown
                    break
                axes[axis] = value
            else:
                tuned = self._tuned(name, axes, cell)
                if tuned is not None:
                    cell = self._with_found(cell, tuned.found, self.problems)
                self._check_ends(name, axes, cell)
                for sample in self._samples((name, *map(str, axes.values()))):
                    yield self._cell(name, axes, cell, sample, tuned)

    def _cell(
        self,
        name: str,
        axes: dict[str, Any],
        cell: Source,
        sample: SearchSample | None,
        tuned: Tuned | None = None,
    ) -> _Cell:
        """Return a cell with the values of a sample, of `when` and of the command line."""
        for key, value in sample.values.items() if sample is not None else ():
            location = self.source.location(("sample", key))
            cell = with_value(cell, key, value, location, self.problems)
        cell, met = self._layers.conditioned(name, cell)
        self._met |= {("when", index, "if") for index in met}
        self.problems += self._wrong_columns(name, axes, sample, cell)
        values = resolved_values(name, cell.value)
        own = {} if sample is None else self._layers.own(name, met)
        return _Cell(name, self.config.variants[name], axes, sample, cell, values, own, tuned)

    def _samples(self, cell: CellName) -> list[SearchSample | None]:
        """Return the known samples of a row and grid cell; a single None without sampling."""
        sampling, ranges = self.config.sampling, self.config.sample
        if sampling is None:
            return [None]
        first = range(sampling.random_count)
        drawn = [random_sample(ranges, number, sampling.seed) for number in first]
        return [*drawn, *self._proposed.get(cell, ())]

    def _check_ends(self, name: str, axes: dict[str, Any], cell: Source) -> None:
        """Report the ranges of which the lowest or the highest value, or a choice, is not valid,
        because a later sample may have it."""
        if self.config.sampling is None:
            return
        drawn = random_sample(self.config.sample, 0, self.config.sampling.seed).values
        for key, limits in self.config.sample.items():
            for end in limits.choice or limits.bounds or ():
                sample = SearchSample(0, {**drawn, key: end})
                try:
                    validate_experiment(self._cell(name, axes, cell, sample).source)
                except StudyError as error:
                    self.problems += error.problems

    def _tuned(self, name: str, axes: Mapping[str, Any], cell: Source) -> Tuned | None:
        """Return what a search found for a cell; see `choose`."""
        result = self.config.search_result
        if result is None:
            return None
        values = resolved_values(name, self._layers.overridden(cell).value)
        rows = [row for row in result.rows if holds(row.axes, values)]
        rows.sort(key=lambda row: row.variant != name)
        matches = ((row, self._match(result, row, name, axes, cell)) for row in rows)
        tuned, problem = choose(result, name, axes, matches)
        if problem:
            location = self.source.location(("variants", name, "set"))
            self.problems.append(Problem(location, problem))
        return tuned

    def _match(
        self,
        result: SearchResult,
        row: FoundSample,
        name: str,
        axes: Mapping[str, Any],
        cell: Source,
    ) -> Tuned | Differences:
        """Return what a cell takes from a row of a search, or by what it is another row."""
        if row.set is None:
            return Tuned(row, by_name=True, others={})
        tuned, met = self._layers.conditioned(name, self._with_found(cell, row, []))
        settings = settings_of(tuned.value)
        shown = {key: each for key, each in settings.items() if is_below(key, axes)}
        own, base = self._layers.own(name, met), self._layers.base | shown
        here = TableCell(settings, own, base, self._layers.fixed)
        return compare(self._searched, result.ranges, row, here)

    @cached_property
    def _found_locations(self) -> dict[int, SourceLocation]:
        """The location of each row of the search, by the `id` of its `FoundSample`."""
        result = self.config.search_result
        rows = enumerate(result.rows if result else ())
        return {id(row): self.source.location(("from_search", "rows", n)) for n, row in rows}

    @cached_property
    def _searched(self) -> dict[str, Any]:
        """All settings of the base of the search whose values the study takes."""
        result = self.config.search_result
        return all_settings(result.base or {} if result else {})

    def _with_found(self, cell: Source, found: FoundSample, problems: list[Problem]) -> Source:
        """Return a cell with the values of a sample that a search found."""
        location = self._found_locations[id(found)]
        for key, value in found.values.items():
            cell = with_value(cell, key, value, location, problems)
        return cell

    def _wrong_columns(
        self, name: str, axes: Mapping[str, Any], sample: SearchSample | None, cell: Source
    ) -> Iterator[Problem]:
        """Yield values of axes and of the sample that something else overrides, so that the table
        would show values that were not trained."""
        sampled = {} if sample is None else sample.values
        for section, what, shown in (("grid", "axis", axes), ("sample", "sampled", sampled)):
            for key, value in shown.items():
                if key in self._wrong_keys:  # once is enough
                    continue
                location = self.source.location((section, key))
                # Unknown keys are reported elsewhere.
                known = without_unknown_keys(single_value(key, value, location), [])
                trained = value_at(key, cell.value, None)
                if not _contains(trained, value_at(key, known.value, None)) and not self._is_set(
                    name, key
                ):
                    self._wrong_keys.add(key)
                    override = option("set").strip("`")  # the message quotes it as a key
                    message = (
                        f"{what} `{key}` is {as_json(value)}, but another axis, `when` or "
                        f"`{override}` changes it to {as_json(trained)} for {name}; do not "
                        f"override what the `{section}` sets"
                    )
                    yield Problem(location, message)

    def _is_set(self, name: str, key: str) -> bool:
        """Whether the variant or a `when` sets this very key, which is reported elsewhere."""
        places: list[Keys] = [("variants", name, "set")]
        places += [("when", index, "set") for index in range(len(self.config.when))]
        return any(
            key in dotted_leaves(self.source.subtree(place).value)
            for place in places
            if place in self.source.locations
        )

    def _trials_of(self, cell: _Cell) -> Iterator[Trial]:
        variant = cell.variant
        repetitions = [each for each in self.config.repetitions if seed_of(each) in SEEDS]
        references = self._matching(cell, "reference", variant.references)
        entered = self._matching(cell, "entered", variant.entered_scores)
        try:
            experiment = validate_experiment(cell.source)
        except StudyError as error:
            self.problems += error.problems
            return
        for repetition in repetitions:  # `checks` reports seeds that are left out
            seed = seed_of(repetition)
            try:
                data = self._held_out(experiment.data, fold_of(repetition))
            except ValueError as error:
                problem = Problem(
                    self.source.location(("folds",)), f"`folds` of {cell.name}: {error}"
                )
                self.problems += [problem] if problem not in self.problems else []
                return
            yield Trial(
                name=trial_name(
                    cell.name, cell.axes, cell.sample, repetition, len(self.config.seeds) > 1
                ),
                variant=cell.name,
                label=variant.label or cell.name,
                axes=cell.axes,
                experiment=replace(experiment, data=data, seed=seed),
                reference=next(iter(references), None),
                entered=next((score for score in entered if score.seed == seed), None),
                sample=cell.sample,
                own=cell.own,
                tuned=cell.tuned,
            )

    def _held_out(self, data: DataConfig, fold: int | None) -> DataConfig:
        """Return the data with a fold held out for validation."""
        folds = self.config.cross_validation
        if folds is None or fold is None:
            return data
        return replace(data, folds=folds.count, fold=fold, fold_by=folds.by)

    def _matching(self, cell: _Cell, kind: str, entries: Sequence[Published]) -> list[Published]:
        """Return the entries whose condition the cell meets."""
        matching = []
        for index, entry in enumerate(entries):
            if holds(entry.when, cell.values):
                self._met.add(published_keys(self.source, cell.name, kind, index))
                matching.append(entry)
        return matching


@dataclass(frozen=True)
class Expanded:
    """The trials of a study in the order of its file, and what is wrong with them.

    unused: conditions that no cell meets, if there are no other problems. unneeded: keys of the
    entries of extended files whose condition no cell meets. base: see `Study`.
    """

    trials: tuple[Trial, ...]
    problems: list[Problem]
    unused: list[Problem]
    unneeded: frozenset[Keys]
    base: dict[str, Any]


def expand(
    config: StudyConfig,
    source: Source,
    overrides: Sequence[Source],
    proposed: Mapping[CellName, Sequence[SearchSample]],
) -> Expanded:
    """Expand a study.

    Later ones win: base, variant, grid, `from_search`, sample, each entry of `when` whose condition
    holds, and the `overrides`, which are partial experiments from the command line.

    proposed: samples of each cell in addition to the random ones.
    """
    expansion = _Expansion(config, source, overrides, proposed)
    trials = expansion.trials()
    unused = [] if expansion.problems else list(expansion.unused())
    unneeded = frozenset(
        keys[:-1]
        for keys, condition in expansion.unmet(inherited=True)
        if config.sample.keys().isdisjoint(condition)  # or else a later sample may meet it
    )
    return Expanded(trials, expansion.problems, unused, unneeded, expansion.base)


def _contains(value: Any, part: Any) -> bool:
    """Whether `value` has everything that `part` has, and possibly more."""
    if isinstance(value, dict) and isinstance(part, str):  # a class in its short form
        return part in (value.get("name"), value.get("network"))
    if isinstance(value, dict) and isinstance(part, dict):
        return all(key in value and _contains(value[key], part[key]) for key in part)
    return bool(value == part)


def trial_name(
    variant: str,
    axes: Mapping[str, Any],
    sample: SearchSample | None,
    repetition: Repetition,
    several_seeds: bool,
) -> str:
    """Return the variant, the axes' values and the sample, the seed if there are several or it is
    not 0, and the fold if there are folds."""
    parts = [variant, *(str(value) for value in axes.values())]
    if sample is not None:
        parts.append(sample.name)
    if several_seeds or seed_of(repetition) != 0:
        parts.append(f"seed {seed_of(repetition)}")
    if fold_of(repetition) is not None:
        parts.append(f"fold {fold_of(repetition)}")
    return ", ".join(parts)

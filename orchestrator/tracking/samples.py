"""The samples of a search as its runs record them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.study.sampling import CellName, SearchSample
from orchestrator.study.study import Study, Trial
from orchestrator.tracking.runs import TrialRun


def recorded_samples(study: Study, runs: Sequence[TrialRun]) -> dict[CellName, list[SearchSample]]:
    """Return the samples in the runs of a search that may depend on scores, by cell. runs: of all
    studies, oldest first. The first run of a sample decides."""
    config, sampling = study.config, study.config.sampling
    if sampling is None or sampling.method == "random":
        return {}
    recorded: dict[CellName, dict[int, SearchSample]] = {}
    for run in runs:
        sample = run.sample
        if sample is None or run.study != config.study:
            continue
        number, keys = sample.number, sample.values.keys()
        fits = keys == config.sample.keys() and all(
            config.sample[key].contains(value) for key, value in sample.values.items()
        )
        if fits and sampling.random_count <= number < sampling.count:
            cell = (run.variant, *(run.axes.get(axis, "") for axis in config.grid))
            recorded.setdefault(cell, {}).setdefault(number, sample)
    return {
        cell: [samples[number] for number in sorted(samples)] for cell, samples in recorded.items()
    }


def with_matching_samples(
    study: Study,
    recorded: Mapping[CellName, Sequence[SearchSample]],
    with_runs: Callable[[Study], Iterable[Trial]],
) -> Study:
    """Return a search with those of its recorded samples that have runs, also of a row or grid
    value that has been renamed; another study unchanged.

    recorded: see `recorded_samples`. with_runs: returns the trials of a study that have runs.
    """
    if not recorded or study.with_samples is None:
        return study
    assert study.config.sampling is not None
    first = study.config.sampling.random_count
    kept: dict[CellName, dict[int, SearchSample]] = {}
    trained: set[CellName] = set()

    def keep(samples: Mapping[CellName, Sequence[SearchSample]]) -> None:
        assert study.with_samples is not None
        for trial in with_runs(study.with_samples(samples)):
            trained.add(trial.cell)
            if trial.sample is not None and trial.sample.number >= first:
                kept.setdefault(trial.cell, {})[trial.sample.number] = trial.sample

    keep(recorded)
    unmatched = [samples for cell, samples in recorded.items() if cell not in kept]
    others = trained - kept.keys()  # their random samples have runs
    for samples in unmatched if others else ():
        keep(dict.fromkeys(others, samples))
    return study.with_samples({cell: list(by_number.values()) for cell, by_number in kept.items()})

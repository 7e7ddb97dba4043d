"""The next samples of a search, if they depend on the scores of earlier ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from orchestrator.planning.reconcile import Decision
from orchestrator.study.config import StudyConfig
from orchestrator.study.metric_checks import higher_is_better
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.sampling import (
    CellName,
    RangeConfig,
    SearchSample,
    keyed_quantile,
    random_sample,
)
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.samples import recorded_samples, with_matching_samples
from pipelines.data.manifest import metric_name

if TYPE_CHECKING:
    import optuna

# A trial may have been stopped early before the study's early stopping was removed.
_ENDED = (
    TrialState.FINISHED,
    TrialState.STALE,
    TrialState.FAILED,
    TrialState.STOPPED_EARLY,
)


def with_recorded_samples(
    study: Study,
    runs: Sequence[TrialRun],
    resolve: Callable[[Study], Sequence[ResolvedTrial]],
) -> Study:
    """Return a search with its samples in the tracking store that were trained as the study would
    train them now, also under another name; another study unchanged. resolve: resolves the trials
    of a study."""
    identities = {run.identity for run in runs}
    return with_matching_samples(
        study,
        recorded_samples(study, runs),
        lambda larger: [each for each in resolve(larger) if each.identity in identities],
    )


def next_samples(
    study: Study,
    trials: Sequence[ResolvedTrial],
    decisions: Mapping[str, Decision],
) -> Study | None:
    """Return a search with the next samples of each row whose samples have all ended; None if there
    are none. trials: of the study. decisions: by trial name."""
    sampling = study.config.sampling
    if sampling is None or sampling.method == "random" or study.with_samples is None:
        return None
    if study.is_partial:  # of `--only`
        return None
    higher = higher_is_better(trials[0].experiment.evaluation, sampling.metric)
    known: dict[CellName, dict[int, list[ResolvedTrial]]] = {}
    for trial in trials:
        assert trial.sample is not None
        known.setdefault(trial.cell, {}).setdefault(trial.sample.number, []).append(trial)
    samples, has_more = {}, False
    for cell, by_number in known.items():
        drawn = [each[0].sample for each in by_number.values() if each[0].sample is not None]
        ended = all(
            decisions[trial.name].state in _ENDED for each in by_number.values() for trial in each
        )
        missing = [n for n in range(sampling.count) if n not in by_number]
        if ended and missing:
            scores = {
                number: _score(study.config, each, decisions) for number, each in by_number.items()
            }
            new = missing[: sampling.round]
            drawn += propose(study.config, cell, drawn, scores, new, higher)
            has_more = True
        samples[cell] = [each for each in drawn if each.number >= sampling.random_count]
    return study.with_samples(samples) if has_more else None


def _score(
    config: StudyConfig, trials: Sequence[ResolvedTrial], decisions: Mapping[str, Decision]
) -> float | None:
    """Return the mean score of a sample over its seeds; None if one has failed."""
    assert config.sampling is not None
    metric = metric_name(f"val/{config.sampling.metric}")
    values = []
    for trial in trials:
        run = decisions[trial.name].run
        value = None if run is None else run.metrics.get(metric)
        if run is None or run.status != "FINISHED" or value is None or not math.isfinite(value):
            return None
        values.append(value)
    return fmean(values)


def propose(
    config: StudyConfig,
    cell: CellName,
    known: Sequence[SearchSample],
    scores: Mapping[int, float | None],
    numbers: Sequence[int],
    maximize: bool = True,
) -> list[SearchSample]:
    """Return samples with these numbers for a row and grid cell, drawn by Optuna's TPE.

    known: the samples so far. scores: of the known samples by number; None if one failed. A sample
    depends on its number, on the seed of the search and on the known samples with their scores.
    """
    assert config.sampling is not None
    seed = config.sampling.seed
    if all(score is None for score in scores.values()):
        return [random_sample(config.sample, number, seed) for number in numbers]
    import optuna  # optional, and takes half a second

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(each) for key, each in config.sample.items()}
    search = optuna.create_study(direction="maximize" if maximize else "minimize")
    for sample in known:
        score = scores[sample.number]
        search.add_trial(
            optuna.trial.create_trial(
                params={k: _encoded(v, config.sample[k]) for k, v in sample.values.items()},
                distributions=distributions,
                value=score,
                state=optuna.trial.TrialState.FAIL
                if score is None
                else optuna.trial.TrialState.COMPLETE,
            )
        )
    proposed = []
    for number in numbers:
        key = int(keyed_quantile(seed, number, "\n".join(cell)) * 2**32)
        # Earlier ones of the same round have no score; `constant_liar` keeps away from them.
        search.sampler = optuna.samplers.TPESampler(
            seed=key, n_startup_trials=1, constant_liar=True
        )
        asked = search.ask(fixed_distributions=distributions)
        values = {k: _decoded(asked.params[k], each) for k, each in config.sample.items()}
        proposed.append(SearchSample(number, values))
    return proposed


def _distribution(limits: RangeConfig) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if limits.choice is not None:
        return CategoricalDistribution(range(len(limits.choice)))
    if limits.integer is not None:
        return IntDistribution(*limits.integer)
    assert limits.bounds is not None
    return FloatDistribution(*limits.bounds, log=limits.log is not None)


def _encoded(value: Any, limits: RangeConfig) -> Any:
    """Return a value as Optuna has it: a choice by its index, because it may be a mapping."""
    return value if limits.choice is None else limits.position(value)


def _decoded(value: Any, limits: RangeConfig) -> Any:
    if limits.choice is not None:
        return limits.choice[value]
    return int(value) if limits.integer is not None else limits.rounded(value)

"""Which trials need a preflight run, how long it takes, and whether it is worth that time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.planning.forecast import Forecaster
from orchestrator.planning.reconcile import Decision
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.sampling import RangeConfig
from pipelines.training.config import TrainingConfig

STEPS = 6  # optimizer steps of a preflight run

# Below this multiple of the preflight's duration, the study itself shows errors soon enough.
_WORTHWHILE = 10

# Training settings that change neither memory nor shapes nor speed.
_IRRELEVANT = ("epochs", "steps", "learning_rate", "momentum", "weight_decay", "schedule", "power",
               "schedule_by", "warmup_steps")  # fmt: skip


def preflight_key(trial: ResolvedTrial, ranges: Mapping[str, RangeConfig]) -> tuple[str, str]:
    """Return a key that is equal for trials that one preflight run covers, because they differ only
    in seed, fold, schedule and the like, or in samples from continuous ranges.

    ranges: of the sampled keys.
    """
    if trial.sample is not None:
        relevant = {
            key: value
            for key, value in trial.sample.values.items()
            if not ranges[key].is_continuous and key.removeprefix("training.") not in _IRRELEVANT
        }
        return repr((trial.cell, relevant)), trial.location
    experiment, defaults = trial.experiment, TrainingConfig()
    fixed = {name: getattr(defaults, name) for name in _IRRELEVANT}
    data = experiment.data
    if data.folds is not None:
        data = replace(data, fold=0, validation_split="val")  # becomes the held-out fold
    training = replace(experiment.training, **fixed)
    normalized = replace(experiment, seed=0, data=data, training=training)
    return repr(normalized), trial.location


def distinct(
    trials: Sequence[ResolvedTrial], ranges: Mapping[str, RangeConfig]
) -> list[ResolvedTrial]:
    """Return the first trial of each `preflight_key`."""
    by_key: dict[tuple[str, str], ResolvedTrial] = {}
    for trial in trials:
        by_key.setdefault(preflight_key(trial, ranges), trial)
    return list(by_key.values())


def spread_by_cost(
    trials: Sequence[ResolvedTrial], ranges: Mapping[str, RangeConfig]
) -> list[ResolvedTrial]:
    """Return the cheapest, the median and the most expensive of the distinct trials."""
    by_cost = sorted(
        distinct(trials, ranges),
        key=lambda trial: trial.cost.gflops * trial.experiment.training.batch,
    )
    chosen = {0, len(by_cost) // 2, len(by_cost) - 1}
    return [by_cost[index] for index in sorted(chosen)]


def untested(
    todo: Sequence[ResolvedTrial],
    trials: Sequence[ResolvedTrial],
    decisions: Mapping[str, Decision],
    ranges: Mapping[str, RangeConfig],
) -> list[ResolvedTrial]:
    """Return the distinct trials of `todo` for which no equivalent trial has trained an epoch."""
    tested = {
        preflight_key(trial, ranges)
        for trial in trials
        if (run := decisions[trial.name].run) is not None and run.epoch > 0
    }
    return [trial for trial in distinct(todo, ranges) if preflight_key(trial, ranges) not in tested]


def run_seconds(trial: ResolvedTrial, forecaster: Forecaster) -> float:
    """Estimate the seconds of a preflight run; its validation takes as long as its steps."""
    return forecaster.steps(trial, 2 * STEPS)


def is_worthwhile(
    todo: Sequence[ResolvedTrial], chosen: Sequence[ResolvedTrial], forecaster: Forecaster
) -> bool:
    """Whether the trials take more than ten times as long as a preflight run of `chosen`."""
    if not chosen:
        return False
    training = sum(forecaster.trial(trial).value for trial in todo)
    return training > _WORTHWHILE * sum(run_seconds(trial, forecaster) for trial in chosen)

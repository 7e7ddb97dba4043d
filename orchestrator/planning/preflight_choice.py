"""Which trials need a preflight run, how long it takes, and whether it is worth that time."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.planning.forecast import Forecaster
from orchestrator.study.resolved import ResolvedTrial
from pipelines.training.config import TrainingConfig

STEPS = 6  # optimizer steps of a preflight run

# A study that takes less than this many times its preflight runs shows its errors soon enough.
_WORTHWHILE = 10

# Training settings that change neither memory nor shapes nor speed.
_IRRELEVANT = ("epochs", "steps", "learning_rate", "momentum", "weight_decay", "schedule", "power",
               "schedule_by", "warmup_steps")  # fmt: skip


def preflight_key(trial: ResolvedTrial) -> tuple[str, str]:
    """Return a key that is equal for trials that one preflight run covers, because they differ only
    in seed, fold, schedule and the like, or in samples from continuous ranges."""
    if trial.sample is not None:
        choices = {k: v for k, v in trial.sample.values.items() if not isinstance(v, float)}
        relevant = {
            k: v for k, v in choices.items() if k.removeprefix("training.") not in _IRRELEVANT
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


def distinct(trials: Sequence[ResolvedTrial]) -> list[ResolvedTrial]:
    """Return the first trial of each `preflight_key`."""
    by_key: dict[tuple[str, str], ResolvedTrial] = {}
    for trial in trials:
        by_key.setdefault(preflight_key(trial), trial)
    return list(by_key.values())


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

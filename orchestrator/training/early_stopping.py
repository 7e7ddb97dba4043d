"""Stops trials of a search early, by the scores of other trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from orchestrator.study.config import EarlyStopping
from orchestrator.study.metric_checks import higher_is_better
from orchestrator.training.job import Job, is_last


@dataclass(frozen=True)
class EarlierScores:
    """The scores of a trial that an earlier command recorded, by ascending epoch. ranked_among: see
    `Job`."""

    name: str
    ranked_among: str
    scores: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class _Ranked:
    """A trial as ASHA knows it: by its name, which another attempt shares."""

    trial_id: str


class TableSafeASHA(FIFOScheduler):
    """ASHA on a score of the trials that never stops a trial at its last epoch.

    Such a trial is complete, and ends by itself after writing its results. Trials are ranked among
    those of the same `Job.ranked_among`, those of earlier commands included: without their scores,
    a resumed trial would enter a rung with the score of a later epoch.
    """

    def __init__(
        self, settings: EarlyStopping, jobs: Sequence[Job], earlier: Sequence[EarlierScores] = ()
    ) -> None:
        super().__init__()
        self._jobs = jobs
        metric = f"val/{settings.metric}"
        by_group: dict[str, list[Job]] = {}
        for job in jobs:
            by_group.setdefault(job.ranked_among, []).append(job)
        evaluation = jobs[0].task.experiment.evaluation  # all jobs compute the metric
        mode = "max" if higher_is_better(evaluation, settings.metric) else "min"
        self._schedulers = {
            group: ASHAScheduler(
                time_attr="epoch",
                metric=metric,
                mode=mode,
                max_t=max(settings.grace_epochs, *(job.epochs for job in ranked)),
                grace_period=settings.grace_epochs,
                reduction_factor=settings.reduction,
                stop_last_trials=False,
            )
            for group, ranked in by_group.items()
        }
        for each in earlier:
            if scheduler := self._schedulers.get(each.ranked_among):
                known = cast(TuneTrial, _Ranked(each.name))
                scheduler.on_trial_add(cast(Any, None), known)
                for epoch, score in each.scores:
                    result = {"epoch": epoch, metric: score}
                    scheduler.on_trial_result(cast(Any, None), known, result)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_add(tune_controller, self._ranked(trial))

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Return whether the trial continues, see `TrialScheduler`."""
        action = self._of(trial).on_trial_result(tune_controller, self._ranked(trial), result)
        # `stop_last_trials=False` disables Ray's stop at `max_t`, but not a rung at that epoch.
        if is_last(self._jobs[trial.config["job"]], result):
            return str(self.CONTINUE)
        return str(action)

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        self._of(trial).on_trial_complete(tune_controller, self._ranked(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_remove(tune_controller, self._ranked(trial))

    def _ranked(self, trial: TuneTrial) -> TuneTrial:
        return cast(TuneTrial, _Ranked(self._jobs[trial.config["job"]].name))

    def _of(self, trial: TuneTrial) -> ASHAScheduler:
        return self._schedulers[self._jobs[trial.config["job"]].ranked_among]

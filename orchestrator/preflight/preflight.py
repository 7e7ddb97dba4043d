"""Canaries: before a fleet of long trials starts, each distinct experiment is rehearsed.

Which experiments that are, whether it is worth the time, and what their ends say. What fails in a
canary would have failed hours later.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.context import RunContext
from orchestrator.planning.estimate import Measurement, Source
from orchestrator.planning.forecast import Forecaster, passes, workload
from orchestrator.planning.planner import Planner
from orchestrator.planning.reconcile import Decision
from orchestrator.preflight.advice import advise
from orchestrator.preflight.run import PreflightResult, run_preflight
from orchestrator.preflight.worker import STEPS
from orchestrator.scheduling.capacity import Placement
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.resources import Resources
from orchestrator.study.study import Study
from orchestrator.training.job import Job, job_of
from pipelines.errors import UserError
from pipelines.training.optimization import TrainingConfig

# A study shorter than so many of its canaries shows its mistakes soon enough by itself.
_WORTHWHILE = 10

# Settings of the recipe that change neither memory nor shapes nor speed.
_FREE = ("epochs", "learning_rate", "momentum", "weight_decay", "schedule", "power", "schedule_by",
         "warmup_steps")  # fmt: skip


class PreflightError(UserError, ValueError):
    """Experiments of a study that cannot be trained; one paragraph for each."""


def kind_of(trial: ResolvedTrial) -> tuple[str, str]:
    """Equal for trials that differ in seed or schedule only: one preflight run covers them."""
    experiment, defaults = trial.experiment, TrainingConfig()
    fixed = {name: getattr(defaults, name) for name in _FREE}
    plain = replace(experiment, seed=0, training=replace(experiment.training, **fixed))
    return repr(plain), trial.location


def distinct(trials: Sequence[ResolvedTrial]) -> list[ResolvedTrial]:
    """One trial of each kind."""
    found: dict[tuple[str, str], ResolvedTrial] = {}
    for trial in trials:
        found.setdefault(kind_of(trial), trial)
    return list(found.values())


def spread_by_cost(trials: Sequence[ResolvedTrial]) -> list[ResolvedTrial]:
    """Of the distinct trials the cheapest, the dearest, and one between."""
    by_cost = sorted(
        distinct(trials), key=lambda trial: trial.cost.gflops * trial.experiment.training.batch
    )
    chosen = {0, len(by_cost) // 2, len(by_cost) - 1}
    return [by_cost[index] for index in sorted(chosen)]


def untried(
    todo: Sequence[ResolvedTrial],
    trials: Sequence[ResolvedTrial],
    decisions: Mapping[str, Decision],
) -> list[ResolvedTrial]:
    """One trial of each kind of `todo` of which no trial of the study has trained an epoch yet."""
    proven = {
        kind_of(trial)
        for trial in trials
        if (record := decisions[trial.name].run) is not None and record.epoch > 0
    }
    return [trial for trial in distinct(todo) if kind_of(trial) not in proven]


def is_worthwhile(
    todo: Sequence[ResolvedTrial], canaries: Sequence[ResolvedTrial], forecaster: Forecaster
) -> bool:
    """Whether the trials take more than ten times as long as their canaries would."""
    if not canaries:
        return False
    trials = sum(forecaster.trial(trial).seconds for trial in todo)
    return trials > _WORTHWHILE * sum(forecaster.steps(trial, 2 * STEPS) for trial in canaries)


def measurements(
    sung: Sequence[PreflightResult],
    trials: Sequence[ResolvedTrial],
    resources: Resources,
    source: Source,
) -> list[Measurement]:
    """The times of the canaries that came back, for later estimates."""
    by_name = {trial.name: trial for trial in trials}
    found = []
    for each in sung:
        if each.timings is None:
            continue
        trial = by_name[each.name]
        experiment, load = trial.experiment, workload(by_name[each.name], resources)
        validation = each.timings.validation
        if validation is not None:
            validation *= load.evaluated_megapixels / passes(experiment.evaluation)
        found.append(
            Measurement(
                load,
                each.device,
                experiment.training.precision,
                source,
                each.timings.step,
                validation,
                each.start,
            )
        )
    return found


def refuse_failures(
    sung: Sequence[PreflightResult],
    trials: Sequence[ResolvedTrial],
    resources: Resources,
    kind: str,
) -> None:
    """Raise PreflightError with every problem, the experiment it is of, and what would help."""
    by_name = {trial.name: trial for trial in trials}
    problems = []
    for each in sung:
        if each.timings is None:
            experiment = by_name[each.name].experiment
            helps = advise(each.cause, each.stage, experiment, resources, kind)
            stage = f" in {each.stage}" if each.stage else ""
            problems.append(
                f"{each.name}: {each.cause}{stage}: {each.message}\n  what would help: {helps}"
            )
    if problems:
        raise PreflightError(
            "\n".join(problems)
            + "\nNothing was trained. Mend this, choose other trials with --only, or go on "
            "regardless with --no-canary."
        )


class Preflight:
    """Rehearses a study's experiments on the connected cluster; `outlook` learns their times."""

    def __init__(
        self,
        study: Study,
        trials: Sequence[ResolvedTrial],
        placement: Placement,
        context: RunContext,
        planner: Planner,
    ) -> None:
        self._study = study
        self._trials = trials
        self._placement = placement
        self._context = context
        self._planner = planner

    def probe(self) -> None:
        """Time a few steps of some of the study's networks."""
        self._say("nothing was timed on this device yet: a short probe, kept for the next time")
        trials = spread_by_cost(self._trials)
        self._learn(self._sing(trials), trials, "probe")

    def before(self, todo: Sequence[ResolvedTrial], decisions: Mapping[str, Decision]) -> None:
        """Rehearse what `todo` would train, where that is worth its time.

        Raises PreflightError with all that failed.
        """
        trials = untried(todo, self._trials, decisions)
        if not is_worthwhile(todo, trials, self._planner.forecaster):
            return
        count = len(trials)
        self._say(
            f"first {count} canar{'y' if count == 1 else 'ies'}: a few steps of each different "
            "experiment (--no-canary leaves them out)"
        )
        sung = self._sing(trials)
        self._learn(sung, trials, "preflight")
        refuse_failures(sung, trials, self._study.config.resources, self._placement.device)

    def _learn(
        self, sung: Sequence[PreflightResult], trials: Sequence[ResolvedTrial], source: Source
    ) -> None:
        self._planner.learn(measurements(sung, trials, self._study.config.resources, source))

    def _sing(self, trials: Sequence[ResolvedTrial]) -> list[PreflightResult]:
        return run_preflight(
            trials,
            self._job,
            list(self._study.config.protocols.values()),
            self._placement.max_concurrent,
            self._context.storage,
            self._say,
            lambda: self._context.stop.requested,
        )

    def _job(self, trial: ResolvedTrial) -> Job:
        storage = self._context.storage
        return job_of(trial, f"canary-{os.getpid()}", self._study, self._placement, storage)

    def _say(self, message: str) -> None:
        self._context.console.print(message, style="dim", highlight=False, markup=False)

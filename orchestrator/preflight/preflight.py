"""Chooses the trials of a preflight run, and acts on its results.

A preflight run takes a few steps of each distinct experiment before long trials start, so that an
error shows within minutes instead of hours. Its times improve the estimates.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from orchestrator.cluster.nodes import nodes_at_full_size
from orchestrator.context import RunContext
from orchestrator.planning.estimate import Measurement, Source
from orchestrator.planning.forecast import passes, workload
from orchestrator.planning.planner import Planner
from orchestrator.planning.preflight_choice import is_worthwhile, spread_by_cost, untested
from orchestrator.planning.reconcile import Decision
from orchestrator.preflight.advice import advise
from orchestrator.preflight.run import PreflightResult, run_preflight
from orchestrator.scheduling.budget import Budget
from orchestrator.scheduling.capacity import Placement
from orchestrator.scheduling.policy import Node
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.resources import Resources
from orchestrator.study.study import Study
from orchestrator.training.job import Job, job_of
from pipelines.errors import UserError
from pipelines.wording import counted, option


class PreflightError(UserError, ValueError):
    """Some experiments of the study cannot be trained; the message has a paragraph for each."""


def measurements(
    results: Sequence[PreflightResult],
    trials: Sequence[ResolvedTrial],
    resources: Resources,
    source: Source,
) -> list[Measurement]:
    """Return the times of the successful preflight runs as measurements for the planner."""
    by_name = {trial.name: trial for trial in trials}
    measured = []
    for result in results:
        if result.timings is None:
            continue
        experiment = by_name[result.name].experiment
        load = workload(by_name[result.name], resources)
        validation = result.timings.validation
        if validation is not None:
            validation *= load.evaluated_megapixels / passes(experiment.evaluation)
        measured.append(
            Measurement(
                load,
                result.device,
                experiment.training.precision,
                source,
                result.timings.step,
                validation,
                result.start,
            )
        )
    return measured


def raise_failures(
    results: Sequence[PreflightResult],
    trials: Sequence[ResolvedTrial],
    resources: Resources,
    kind: str,
) -> None:
    """Raise PreflightError if any run failed, listing each trial's failure and possible fixes.

    kind: of the device, `cpu` or `cuda`.
    """
    by_name = {trial.name: trial for trial in trials}
    problems = []
    for result in results:
        if result.timings is None:
            experiment = by_name[result.name].experiment
            fixes = advise(result.cause, result.stage, experiment, resources, kind)
            stage = f" in {result.stage}" if result.stage else ""
            problems.append(
                f"{result.name}: {result.cause}{stage}: {result.message}\n  possible fixes: {fixes}"
            )
    if problems:
        raise PreflightError(
            "\n".join(problems)
            + f"\nNothing was trained. Fix this, choose other trials with {option('only')}, or "
            f"skip this check with {option('no-preflight')}."
        )


class Preflight:
    """Runs a study's experiments for a few steps on the connected cluster.

    The planner learns their times.
    """

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

    def probe(self, todo: Sequence[ResolvedTrial]) -> None:
        """Time a few steps of at most three of the networks of `todo`, on machines that are up."""
        self._say(
            "no timings of similar training runs on this device yet: running a short probe, a "
            "minute or two on a CPU, and saving it for later plans"
        )
        trials = spread_by_cost(todo, self._study.config.sample)
        self._learn(self._run(trials, "probe", self._stopped), trials, "probe")

    def check(
        self, todo: Sequence[ResolvedTrial], decisions: Mapping[str, Decision], budget: Budget
    ) -> None:
        """Check the experiments of `todo`, if that is worth its time, on machines that may first
        have to start.

        A limit of `budget` ends it, because then no trial starts. Raises PreflightError if any of
        them failed.
        """
        trials = untested(todo, self._trials, decisions, self._study.config.sample)
        if not is_worthwhile(todo, trials, self._planner.forecaster):
            return
        self._say(
            f"preflight: a few steps of {counted(len(trials), 'distinct experiment')} "
            "first (skip with --no-preflight)"
        )
        results = self._run(
            trials,
            "preflight",
            lambda: self._stopped() or budget.pause_reason() is not None,
            partial(nodes_at_full_size, self._study.config.resources),
        )
        self._learn(results, trials, "preflight")
        raise_failures(results, trials, self._study.config.resources, self._placement.device)

    def _learn(
        self, results: Sequence[PreflightResult], trials: Sequence[ResolvedTrial], source: Source
    ) -> None:
        self._planner.learn(measurements(results, trials, self._study.config.resources, source))

    def _stopped(self) -> bool:
        return self._context.stop.requested

    def _run(
        self,
        trials: Sequence[ResolvedTrial],
        label: Source,
        stop_requested: Callable[[], bool],
        nodes: Callable[[], Sequence[Node]] | None = None,
    ) -> list[PreflightResult]:
        """Run `trials` and print a line for each, which starts with `label`."""
        return run_preflight(
            trials,
            self._job,
            [each.inference for each in self._study.config.protocols.values()],
            self._placement.max_concurrent,
            self._context.storage,
            lambda line: self._say(f"{label}  {line}"),
            stop_requested,
            nodes,
        )

    def _job(self, trial: ResolvedTrial, run_id: str) -> Job:
        return job_of(trial, run_id, self._study, self._placement, self._context.storage)

    def _say(self, message: str) -> None:
        self._context.console.print(message, style="dim", highlight=False, markup=False)

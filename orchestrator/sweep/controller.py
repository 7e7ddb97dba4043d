"""The course of a study: train what is missing, wait for what others train, score, conclude."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from orchestrator.cluster.cluster import Cluster
from orchestrator.context import STOPPING, RunContext
from orchestrator.evaluation.protocols import missing_scores, score
from orchestrator.evaluation.submissions import missing_packages, pack_missing
from orchestrator.planning.plan_table import placement_line
from orchestrator.planning.planner import Planner
from orchestrator.planning.reconcile import Decision, ReconcileOptions, reconcile
from orchestrator.preflight.preflight import Preflight
from orchestrator.report.results import Result
from orchestrator.report.study_report import Report, StudyReport
from orchestrator.scheduling.budget import Budget, recorded_hours
from orchestrator.scheduling.capacity import Placement
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.figures import draw_study_figures
from orchestrator.sweep.refresh import ReportRefresher
from orchestrator.sweep.run_trials import train
from orchestrator.sweep.summary import announce, register_best_trial, show_outcome, study_status
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.queries import Snapshot, take_snapshot
from orchestrator.tracking.runs import RunStatus, TrialRun
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun

logger = logging.getLogger(__name__)

_WAITING_SECONDS = 5.0


@dataclass
class SweepController:
    """One run of a study's command, step by step.

    finished: by trial name, the runs that stand in the table. failures: by trial name, the causes.
    """

    study: Study
    context: RunContext
    options: ReconcileOptions
    placement: Placement
    trials: list[ResolvedTrial]
    store: TrackingStore
    cluster: Cluster
    planner: Planner
    report: StudyReport
    budget: Budget | None = None
    finished: dict[str, TrialRun] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _snapshot: Snapshot = field(default_factory=lambda: Snapshot((), ()), init=False)

    def run(self) -> bool:
        """Train what is not finished; returns whether all trials are finished."""
        study_run = StudyRun.open(self.store, self.study, self._stop_from_elsewhere)
        study_run.note_command(self.context.command)
        refresher = ReportRefresher(partial(self._refresh, study_run))
        status: RunStatus = "FAILED"
        done = False
        try:
            decisions = self._reconcile()
            announce(self.study, self.trials, decisions, self.context.console)
            for line in self.report.read(self._snapshot).seed_caveats:
                self.context.console.print(line, style="yellow", markup=False, highlight=False)
            self._refresh(study_run)
            tried: set[str] = set()
            while not self.context.stop.requested:
                todo = [
                    trial
                    for trial in self.trials
                    if decisions[trial.name].action in ("train", "resume")
                    and trial.identity not in tried
                ]
                if todo:
                    tried |= {trial.identity for trial in todo}
                    self._train(study_run, todo, decisions, refresher.request)
                elif any(decision.action == "wait" for decision in decisions.values()):
                    self._wait(decisions)
                else:
                    break
                decisions = self._reconcile()
            if study_run.taken:
                return False
            left = score_and_pack(
                self.study,
                self.trials,
                self._to_the_end(),
                self.store,
                self.context,
                self.cluster.start,
            )
            self.failures |= left
            refresher.close()
            decisions = self._reconcile()  # scoring has added figures
            report = self._conclude(study_run, decisions)
            done = len(self.finished) == len(self.trials) and not left
            held = self.context.stop.requested or bool(self._held())
            status = study_status(done, held, self._others(report))
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            refresher.close()
            study_run.close(status)
        return done

    def _stop_from_elsewhere(self, why: str) -> None:
        """Another terminal asks to stop, or another process has the study by now; said once."""
        if not self.context.stop.requested:
            self.context.stop.requested = True
            told = f"\n{why}: {STOPPING}"
            self.context.console.print(told, markup=False, highlight=False, soft_wrap=True)

    def _decisions(self) -> dict[str, Decision]:
        """What to do about each trial, by what the tracking store holds now."""
        self._snapshot = take_snapshot(self.store)
        runs = self._snapshot.by_identity(trial.identity for trial in self.trials)
        return reconcile(self.trials, runs, self.study.config.study, self.options)

    def _reconcile(self) -> dict[str, Decision]:
        """What the ledger holds now; enters what is finished, and what failed and is left."""
        decisions = self._decisions()
        self.finished = {
            name: decision.run
            for name, decision in decisions.items()
            if decision.finished and decision.run is not None
        }
        for name, decision in decisions.items():
            if decision.state is TrialState.FAILED and decision.run is not None:
                self.failures.setdefault(name, decision.run.reason)
        return decisions

    def _train(
        self,
        study_run: StudyRun,
        todo: Sequence[ResolvedTrial],
        decisions: Mapping[str, Decision],
        on_finished: Callable[[], None],
    ) -> None:
        """Train `todo`; trials that ask for the same, such as two names of one row, share it."""
        self.cluster.start()
        console = self.context.console
        console.print(
            f"Ray's logs: {self.cluster.logs}\nother output: {self.context.log}",
            style="dim",
            soft_wrap=True,
            highlight=False,
        )
        console.print(placement_line(self.study, self.placement) + "\n", highlight=False)
        trained = {trial.identity: trial for trial in reversed(todo)}
        unique = list(reversed(trained.values()))
        if self.context.preflight:
            Preflight(self.study, self.trials, self.placement, self.context, self.planner).check(
                unique, decisions
            )
        self.budget = self.budget or self._budget()
        causes = train(
            unique,
            {name: entry.run for name, entry in decisions.items() if entry.run is not None},
            self.study,
            self.placement,
            study_run,
            self.planner.forecaster,
            self.budget,
            self.context,
            on_finished,
        )
        for trial in todo:
            self.failures.pop(trial.name, None)
            name = trained[trial.identity].name
            if name in causes:
                self.failures[trial.name] = causes[name]

    def _budget(self) -> Budget:
        """The study's limits, less what all trials that it ever had have used, whether or not they
        are still asked for."""
        study = self.study.config
        hours = (
            recorded_hours(run.metrics) for run in self._snapshot.trials if run.study == study.study
        )
        return Budget(study.limits, study.resources.devices(self.placement.device), sum(hours))

    def _wait(self, decisions: Mapping[str, Decision]) -> None:
        """Until one of the trials that another study's process trains changes its state."""
        waiting = {name for name, entry in decisions.items() if entry.action == "wait"}
        for name in sorted(waiting):
            record = decisions[name].run
            where = "" if record is None else f" the study {record.study!r} as {record.name}"
            self.context.console.print(f"waiting for{where}, which trains {name}", markup=False)
        stop = self.context.stop
        stop.graceful = True
        while not stop.requested:
            time.sleep(_WAITING_SECONDS)
            now = self._decisions()
            if any(now[name].action != "wait" for name in waiting):
                break
        stop.graceful = False

    def _refresh(self, study_run: StudyRun) -> None:
        """Keep the report, as it is by now, with the study's run and on its page. Whatever goes
        wrong is left to the next time, because no training may fail for it."""
        if not study_run.page.is_own:
            return
        try:
            report = self.report.read()
            study_run.describe(report.markdown())
            self.report.keep(self.report.documents(report))
        except Exception:
            logger.exception("the report could not be made")

    def _held(self) -> str | None:
        """The limit for which trials were left out or held."""
        return self.budget.left_out_reason() if self.budget else None

    def _others(self, report: Report) -> list[Result]:
        """The study's trials that this command was not about."""
        own = {trial.name for trial in self.trials}
        results = [result for row in report.rows for result in row.results]
        return [result for result in results if result.trial.name not in own]

    def _conclude(self, study_run: StudyRun, decisions: Mapping[str, Decision]) -> Report:
        """Show the outcome, and leave the study's page in MLflow as it is in truth. Returns the
        report of the whole study."""
        console = self.context.console
        report = self.report.read(self._snapshot)
        show_outcome(report, self.finished, self.failures, decisions, console)
        if study_run.page.is_own:
            sync_links(study_run, {trial.name: trial for trial in self.trials}, self.finished)
            register_best_trial(report, self.store, console)
            if not self.study.is_partial:  # they are chosen among all trials
                draw_study_figures(
                    self.study, self.trials, self._to_the_end(), study_run, self.context
                )
            self._refresh(study_run)
        else:
            console.print(
                study_run.page.note, style="yellow", markup=False, highlight=False, soft_wrap=True
            )
        limit = self._held()
        if limit and len(self.finished) < len(self.trials):
            console.print(f"[bold yellow]held[/]  {limit}", highlight=False, soft_wrap=True)
        how = self.store.how_to_look(study_run.experiment_id)
        console.print(f"\n{how}", highlight=False, soft_wrap=True)
        return report

    def _to_the_end(self) -> dict[str, TrialRun]:
        """The finished runs without those that a search has given up."""
        return {name: run for name, run in self.finished.items() if not run.stopped_early}


def score_and_pack(
    study: Study,
    trials: Sequence[ResolvedTrial],
    finished: Mapping[str, TrialRun],
    store: TrackingStore,
    context: RunContext,
    start_cluster: Callable[[], None],
) -> dict[str, str]:
    """Score what is finished (runs by the trial's name) under the study's protocols, and pack its
    submission. Returns why what could not be done was not, by the trial's name."""
    run_ids = {name: record.run_id for name, record in finished.items()}
    scores = list(missing_scores(study, trials, run_ids, store.evaluations))
    packages = list(missing_packages(study, trials, run_ids, store.evaluations))
    if not (scores or packages):
        return {}
    start_cluster()
    context.stop.graceful = True

    def stop() -> bool:
        return context.stop.requested

    failures = score(scores, store, study.config.imports, context.console, stop)
    if packages:
        directory = context.storage.here / "submissions" / study.config.study
        unpacked = pack_missing(packages, study, store, directory, context.console, stop)
        for name, cause in unpacked.items():
            failures[name] = f"{failures[name]}; {cause}" if name in failures else cause
    context.stop.graceful = False
    return failures

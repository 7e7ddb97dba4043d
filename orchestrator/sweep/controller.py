"""The loop of a sweep: train missing trials, wait for other studies' trials, evaluate, report."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.refusals import refusals_shown
from orchestrator.console import say, say_labeled, warn
from orchestrator.context import STOPPING, RunContext
from orchestrator.planning.lost_checkpoints import lost_checkpoints, lost_checkpoints_warning
from orchestrator.planning.overhead import save_overhead
from orchestrator.planning.plan_table import placement_line
from orchestrator.planning.planner import Planner
from orchestrator.planning.reconcile import Decision, ReconcileOptions, reconcile
from orchestrator.preflight.preflight import Preflight
from orchestrator.report.documents.report import Report
from orchestrator.report.rows.results import Result
from orchestrator.report.study_report import StudyReport
from orchestrator.scheduling.budget import Budget
from orchestrator.scheduling.capacity import Placement
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.budget import create_budget
from orchestrator.sweep.evaluate_trials import evaluate_finished
from orchestrator.sweep.figures import draw_study_figures
from orchestrator.sweep.left_out import misnamed_trials
from orchestrator.sweep.mirrors import check_mirrors
from orchestrator.sweep.notification import check_notifications, message, send
from orchestrator.sweep.refresh import ReportRefresher
from orchestrator.sweep.run_trials import train
from orchestrator.sweep.summary import announce, register_best_trial, show_outcome, study_status
from orchestrator.sweep.waiting import wait_for_others
from orchestrator.tracking.abandoned import close_abandoned
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.queries import StoreSnapshot, read_snapshot
from orchestrator.tracking.renamed import rename_runs
from orchestrator.tracking.runs import RunStatus, TrialRun
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from orchestrator.tracking.superseded import mark_superseded
from pipelines.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extension:
    """A search with more samples than before, and what depends on its trials."""

    study: Study
    trials: list[ResolvedTrial]
    planner: Planner
    report: StudyReport


@dataclass
class SweepController:
    """One sweep over a study.

    resolve: resolves the trials of a study. extended: returns a search with its next samples, None
    if there are none. began: when the command began, by `time.monotonic`. finished: the finished
    runs by trial name. failures: the causes of failures by trial name.
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
    resolve: Callable[[Study], Sequence[ResolvedTrial]]
    extended: Callable[
        [Study, Sequence[ResolvedTrial], Mapping[str, Decision]], Extension | None
    ] = field(default=lambda study, trials, decisions: None)
    began: float = field(default_factory=time.monotonic)
    budget: Budget | None = None
    finished: dict[str, TrialRun] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _snapshot: StoreSnapshot = field(default_factory=lambda: StoreSnapshot((), ()), init=False)
    # Seconds before the first trial, and when the last one ended, also of another study.
    _started_after: float | None = field(default=None, init=False)
    _trained_at: float = field(default=0.0, init=False)

    def run(self) -> bool:
        """Train all unfinished trials; return whether all trials are finished."""
        check_notifications(self.study.config.notify)
        check_mirrors(self.study.config.mirror)
        study_run = StudyRun.open(
            self.store, self.study, self._request_stop, partial(say, self.context.console)
        )
        study_run.record_command(self.context.command)
        refresher = ReportRefresher(partial(self._refresh, study_run))
        has_trained = False
        status: RunStatus = "FAILED"
        done = False
        try:
            decisions = self._update_runs(study_run, self._reconcile())
            budget = self.budget = create_budget(
                self.study, self._snapshot, self.placement, self.began
            )
            announce(self.study, self.trials, decisions, self.context.console)
            folder = self.context.storage.trials
            if lost := lost_checkpoints_warning(lost_checkpoints(decisions, folder), folder):
                warn(self.context.console, lost)
            for line in self.report.read(self._snapshot).seed_caveats:
                say(self.context.console, line, style="yellow")
            refresher.request()  # in the background: training need not wait for it
            attempted: set[str] = set()
            while not self.context.stop.requested:
                todo = [
                    trial
                    for trial in self.trials
                    if decisions[trial.name].action in ("train", "resume")
                    and trial.identity not in attempted
                ]
                if todo and not budget.may_start():
                    budget.leave_out()
                    break
                if todo:
                    has_trained = True
                    attempted |= {trial.identity for trial in todo}
                    self._train(study_run, todo, decisions, budget, refresher.request)
                elif any(decision.action == "wait" for decision in decisions.values()):
                    if budget.pause_reason() is not None:
                        budget.leave_out()
                        break
                    console, stop = self.context.console, self.context.stop
                    wait_for_others(decisions, self._decide, budget, stop, partial(say, console))
                    close_abandoned(self.store)  # studies that went silent during the wait
                    self._trained_at = time.monotonic()
                elif not self._limit_reached() and self._extend(decisions):
                    self._refresh(study_run)
                else:
                    break
                decisions = self._reconcile()
            if study_run.lost_reason:
                return False
            # The table shows them as they will be.
            study_run.close_trials(self._limit_reached() or "")
            evaluation_failures = evaluate_finished(
                self.study,
                self.trials,
                self._fully_trained(),
                self.store,
                self.context,
                budget,
                self.cluster.start,
            )
            self.failures |= evaluation_failures
            refresher.close()
            decisions = self._reconcile()  # the evaluation has added scores
            report = self._conclude(study_run, decisions)
            done = len(self.finished) == len(self.trials) and not evaluation_failures
            interrupted = self.context.stop.requested or bool(self._limit_reached())
            status = study_status(done, interrupted, self._other_results(report))
            if done and self._started_after is not None:
                end = time.monotonic() - self._trained_at
                name = self.study.config.study
                save_overhead(self.context.storage.local, name, self._started_after, end)
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            refresher.close()
            try:
                with self.store.readable_write_errors():
                    study_run.close(status)
            finally:
                if has_trained and not study_run.lost_reason:
                    self._notify(study_run, status)
        return done

    def _notify(self, study_run: StudyRun, status: RunStatus) -> None:
        content = message(
            self.study.config.study,
            status,
            len(self.trials),
            self.finished,
            self.failures,
            self._limit_reached() or "",
            self.store.page_address(study_run.experiment_id, study_run.parent_id),
        )
        send(self.study.config.notify, content, self.context.console)

    def _request_stop(self, reason: str) -> None:
        """Stop because another terminal requested it or another process took over the study; print
        the reason once."""
        if not self.context.stop.requested:
            self.context.stop.requested = True
            say(self.context.console, f"\n{reason}: {STOPPING}")

    def _decide(self) -> dict[str, Decision]:
        """Decide what to do about each trial, given a new snapshot of the tracking store."""
        self._snapshot = read_snapshot(self.store, trust_clocks=False)
        runs = self._snapshot.by_identity(trial.identity for trial in self.trials)
        return reconcile(self.trials, runs, self.study.config.study, self.options)

    def _reconcile(self) -> dict[str, Decision]:
        """Decide again, and update `finished` and `failures`."""
        decisions = self._decide()
        self.finished = {
            name: decision.run
            for name, decision in decisions.items()
            if decision.finished and decision.run is not None
        }
        for name, decision in decisions.items():
            if decision.state is TrialState.FAILED and decision.run is not None:
                self.failures.setdefault(name, decision.run.reason)
        return decisions

    def _update_runs(
        self, study_run: StudyRun, decisions: Mapping[str, Decision]
    ) -> Mapping[str, Decision]:
        """Bring the runs of earlier commands in line with the study file; return the decisions
        with the updated runs."""
        recorded = self._snapshot.trials
        others = misnamed_trials(self.study, self.trials, recorded, self.resolve)
        mark_superseded(study_run, [*self.trials, *others], recorded)
        runs = {name: decision.run for name, decision in decisions.items() if decision.run}
        if rename_runs(study_run, [*self.trials, *others], runs):
            decisions = self._reconcile()
        self._sync_links(study_run)
        return decisions

    def _sync_links(self, study_run: StudyRun) -> None:
        sync_links(study_run, {trial.name: trial for trial in self.trials}, self.finished)

    def _extend(self, decisions: Mapping[str, Decision]) -> bool:
        """Add the next samples of a search; return whether there are any."""
        extension = self.extended(self.study, self.trials, decisions)
        if extension is None:
            return False
        count = len(extension.trials) - len(self.trials)
        say(self.context.console, f"\n{counted(count, 'trial')} more, sampled by the scores so far")
        self.study, self.trials = extension.study, extension.trials
        self.planner, self.report = extension.planner, extension.report
        return True

    def _train(
        self,
        study_run: StudyRun,
        todo: Sequence[ResolvedTrial],
        decisions: Mapping[str, Decision],
        budget: Budget,
        on_finished: Callable[[], None],
    ) -> None:
        """Train `todo`; trials with equal identities are trained once."""
        self.cluster.start()
        console = self.context.console
        say(
            console,
            f"Ray's logs: {self.cluster.logs}\nother output: {self.context.log}",
            style="dim",
        )
        console.print(placement_line(self.study, self.placement) + "\n")
        if shortage := self.planner.disk_shortage(decisions):
            warn(console, shortage)
        representative = {trial.identity: trial for trial in reversed(todo)}
        unique = list(reversed(representative.values()))
        before_preflight = time.monotonic()
        if self.context.preflight and budget.pause_reason() is None:
            preflight = Preflight(
                self.study, self.trials, self.placement, self.context, self.planner
            )
            with refusals_shown("the preflight", partial(warn, console)):
                preflight.check(unique, decisions, budget)
        if self._started_after is None:
            self._started_after = before_preflight - self.began
        causes = train(
            unique,
            {name: decision.run for name, decision in decisions.items() if decision.run},
            self.study,
            self.placement,
            study_run,
            self.planner.forecaster,
            budget,
            self.context,
            on_finished,
        )
        self._trained_at = time.monotonic()
        for trial in todo:
            self.failures.pop(trial.name, None)
            name = representative[trial.identity].name
            if name in causes:
                self.failures[trial.name] = causes[name]

    def _refresh(self, study_run: StudyRun) -> None:
        """Update the report in the study's run and on its page. Errors are only logged, because
        they must not fail a training."""
        if not study_run.page.is_own:
            return
        try:
            report = self.report.read()
            study_run.describe(report.markdown())
            self.report.keep(self.report.documents(report))
        except Exception:
            logger.exception("the report could not be written")

    def _limit_reached(self) -> str | None:
        """Return the limit because of which trials were skipped or stopped."""
        return self.budget.left_out_reason() if self.budget else None

    def _other_results(self, report: Report) -> list[Result]:
        """Return the results of the study's trials that `--only` excluded from this command."""
        selected = {trial.name for trial in self.trials}
        results = [result for row in report.rows for result in row.results]
        return [result for result in results if result.trial.name not in selected]

    def _conclude(self, study_run: StudyRun, decisions: Mapping[str, Decision]) -> Report:
        """Print the outcome and update the study's page in MLflow; return the report of the whole
        study."""
        console = self.context.console
        say(console, "computing the report", style="dim")
        report = self.report.read(self._snapshot)
        storage = self.context.storage.shared
        limit = self._limit_reached()
        show_outcome(
            report, self.finished, self.failures, decisions, console, storage, limit is not None
        )
        if study_run.page.is_own:
            self._sync_links(study_run)
            register_best_trial(report, self.store, console)
            if not self.study.is_partial:  # the figures' models are chosen among all trials
                draw_study_figures(
                    self.study, self.trials, self._fully_trained(), study_run, self.context
                )
            self._refresh(study_run)
        else:
            say(console, study_run.page.note, style="yellow")
        if limit and len(self.finished) < len(self.trials):
            say_labeled(console, "stopped", "bold yellow", limit)
        instructions = self.store.viewing_instructions(study_run.experiment_id, study_run.parent_id)
        say(console, f"\n{instructions}")
        return report

    def _fully_trained(self) -> dict[str, TrialRun]:
        """Return the finished runs, without those that a search stopped early."""
        return {name: run for name, run in self.finished.items() if not run.stopped_early}

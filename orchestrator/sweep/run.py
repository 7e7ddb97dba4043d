"""Runs a study: compares its file with the tracking store, then prints a plan or trains."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cluster.address import is_cluster_file
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.cluster_file import ClusterFile
from orchestrator.console import say, warn
from orchestrator.context import RunContext
from orchestrator.evaluation.records import missing_protocols
from orchestrator.evaluation.trained_model import local_weights
from orchestrator.planning.data_summary import show_data
from orchestrator.planning.measurements import load_measurements
from orchestrator.planning.plan import StudyPlan
from orchestrator.planning.plan_table import show_plan
from orchestrator.planning.planner import Planner
from orchestrator.planning.proposals import next_samples, with_recorded_samples
from orchestrator.planning.reconcile import Decision, ReconcileOptions, reconcile
from orchestrator.scheduling.capacity import Placement, plan_placement
from orchestrator.scheduling.devices import have_bfloat16
from orchestrator.study.resolve import (
    check_class_names,
    check_protocols,
    check_submission,
    resolve_trials,
)
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.study.user_code import modules_by_name, runtime_environment
from orchestrator.sweep.budget import used_hours
from orchestrator.sweep.downloads import download_weights
from orchestrator.tracking.open_store import open_present_store, open_store
from orchestrator.tracking.queries import (
    StoreSnapshot,
    find_experiment,
    read_snapshot,
    shared_file_warning,
)
from orchestrator.tracking.store import TrackingStore, without_password
from orchestrator.tracking.superseded import superseded_note
from orchestrator.tracking.user_uri import ignored_uri
from pipelines.machine import core_limit
from pipelines.preparation.embedded import EMBEDDED

if TYPE_CHECKING:
    from orchestrator.report.study_report import StudyReport
    from orchestrator.sweep.controller import Extension


def run_study(
    study: Study,
    context: RunContext,
    options: ReconcileOptions | None = None,
    plan_only: bool = False,
) -> bool:
    """Train unfinished trials and print the table; return whether all trials are finished.

    options: which trials to train in addition to missing and interrupted ones. plan_only: show the
    trials and their state, train nothing, and return whether no obstacle is known.

    Raises DatasetError, CapacityError or TrackingError before anything is trained.
    """
    if study.config.kind == "profile":
        from orchestrator.sweep.profile import run_profile  # imports matplotlib

        return run_profile(study, context, plan_only)
    if plan_only:
        plan = plan_study(study, context, options)
        show_plan(plan, context.console)
        return not plan.has_obstacle
    began = time.monotonic()
    with _prepared(study, context) as prepared:
        for message in prepared.cluster.check():
            warn(context.console, message)
        from orchestrator.sweep.controller import SweepController  # Ray takes seconds to import

        return SweepController(
            prepared.study,
            context,
            _options(study, options),
            prepared.placement,
            prepared.trials,
            prepared.store,
            prepared.cluster,
            prepared.planner,
            study_report(prepared.study, prepared.store, prepared.trials),
            prepared.resolve,
            prepared.extended,
            began,
        ).run()


def plan_study(
    study: Study, context: RunContext, options: ReconcileOptions | None = None
) -> StudyPlan:
    """Return the plan of a study; times a few training steps if nothing similar was timed on its
    device.

    Raises DatasetError, CapacityError or TrackingError.
    """
    with _prepared(study, context) as prepared:
        trials, placement, planner = prepared.trials, prepared.placement, prepared.planner
        cluster = prepared.cluster
        decisions = prepared.decisions(options)
        extended = prepared.extended(prepared.study, trials, decisions)
        if extended is not None:
            trials, planner = extended.trials, extended.planner
            decisions = replace(prepared, trials=trials).decisions(options)
        # Running trials would distort the timings of a probe. A plan starts no machines for it.
        idle = all(decision.action != "wait" for decision in decisions.values())
        todo = [trial for trial in trials if decisions[trial.name].will_train]
        probes = bool(todo) and idle and planner.probe_would_help(todo)
        if probes and cluster.has_room(placement):
            # Ray takes seconds to import.
            from orchestrator.preflight.preflight import Preflight

            cluster.start()
            Preflight(prepared.study, trials, placement, context, planner).probe(todo)
        used = used_hours(study, prepared.snapshot)
        plan = planner.plan(decisions, partial(cluster.launch, placement), used)
        return _with_missing_scores(plan, trials, decisions)


def _with_missing_scores(
    plan: StudyPlan, trials: Sequence[ResolvedTrial], decisions: Mapping[str, Decision]
) -> StudyPlan:
    """Return the plan with the scores that finished trials lack."""
    states, missing = dict(plan.states), set()
    for trial in trials:
        decision = decisions[trial.name]
        if decision.state not in (TrialState.FINISHED, TrialState.STALE) or decision.run is None:
            continue
        for name, *_ in missing_protocols(plan.study, trial, decision.run.evaluations):
            missing.add((decision.run.run_id, name))
            if name == plan.study.config.report.protocol:
                states[trial.name] = TrialState.NOT_SCORED
    return replace(plan, states=states, to_score=len(missing))


def _options(study: Study, options: ReconcileOptions | None) -> ReconcileOptions:
    return replace(options or ReconcileOptions(), searching=study.config.kind == "search")


@dataclass(frozen=True)
class _Prepared:
    """What a plan and a training need: nodes, resolved trials, the tracking store's state.

    resolve: resolves the trials of a study on this device. make_planner: makes the planner of a
    study and its trials.
    """

    cluster: Cluster
    placement: Placement
    study: Study
    trials: list[ResolvedTrial]
    store: TrackingStore
    snapshot: StoreSnapshot
    planner: Planner
    resolve: Callable[[Study], list[ResolvedTrial]]
    make_planner: Callable[[Study, list[ResolvedTrial]], Planner]

    def decisions(self, options: ReconcileOptions | None) -> dict[str, Decision]:
        """Return the decision for each trial, by its name."""
        runs = self.snapshot.by_identity(trial.identity for trial in self.trials)
        name = self.study.config.study
        return reconcile(self.trials, runs, name, _options(self.study, options))

    def extended(
        self,
        study: Study,
        trials: Sequence[ResolvedTrial],
        decisions: Mapping[str, Decision],
    ) -> "Extension | None":
        """Return a search with its next samples, whose earlier ones have ended; None if there are
        none. trials: of the study. decisions: by trial name."""
        larger = next_samples(study, trials, decisions)
        if larger is None:
            return None
        from orchestrator.sweep.controller import Extension  # imports matplotlib

        resolved = self.resolve(larger)
        return Extension(
            larger,
            resolved,
            self.make_planner(larger, resolved),
            study_report(larger, self.store, resolved),
        )


@contextmanager
def _prepared(study: Study, context: RunContext) -> Iterator[_Prepared]:
    """Resolve the trials and read the tracking store; leave the cluster at the end."""
    experiments = (trial.experiment for trial in study.trials)
    modules = modules_by_name(experiments, study.config.user_code)
    if is_cluster_file(context.address):
        cluster: Cluster = ClusterFile(context.address)
    else:
        cluster = Cluster(context.address, runtime_environment(modules))
    try:
        resources = study.config.resources
        nodes, kinds = cluster.offers(resources)
        placement = plan_placement(resources, nodes, kinds)
        if cluster.is_local and (limit := core_limit()):
            say(context.console, limit, "dim")
        # Opened early: it may fail, and opening the data can take minutes.
        store = open_present_store(context.storage)
        download_weights((trial.experiment for trial in study.trials), context.console)
        names = {trial.experiment.data.dataset for trial in study.trials}
        embedded = "; the embedded set is made on first use" if EMBEDDED in names else ""
        say(context.console, f"opening the data{embedded}", "dim")
        resolve = partial(_resolve, context=context, placement=placement)
        trials = resolve(study)
        check_protocols(study, trials)
        check_class_names(study, trials)
        show_data(study, trials, context.console)
        check_submission(study, trials)
        store = store or open_store(context.storage)
        if uri := ignored_uri():
            warn(
                context.console,
                f"recording in {store.display_uri}; mlflow.set_tracking_uri, which named "
                f"{without_password(uri)}, does not change that",
            )
        find_experiment(store, study.config.study)  # raises if another program made it
        snapshot = read_snapshot(store)
        known = with_recorded_samples(study, snapshot.trials, resolve)
        if known is not study:
            study, trials = known, resolve(known)
        if message := shared_file_warning(store, snapshot):
            warn(context.console, message)
        if message := superseded_note(study, trials, snapshot.trials):
            warn(context.console, message)
        measurements = load_measurements(snapshot.measurements, context.storage.local)
        device = cluster.device(resources, placement)

        def planner(study: Study, trials: list[ResolvedTrial]) -> Planner:
            return Planner(study, trials, placement, nodes, device, measurements, context)

        yield _Prepared(
            cluster,
            placement,
            study,
            trials,
            store,
            snapshot,
            planner(study, trials),
            resolve,
            planner,
        )
    finally:
        cluster.close()


def _resolve(study: Study, context: RunContext, placement: Placement) -> list[ResolvedTrial]:
    """Resolve the trials of a study for the devices of a placement."""
    return resolve_trials(
        study.trials,
        placement.device,
        context.storage.at("datasets"),
        study.config.imports,
        partial(local_weights, storage=context.storage),
        native_bfloat16=_native_bfloat16(context, placement),
    )


def _native_bfloat16(context: RunContext, placement: Placement) -> bool | None:
    """Whether the GPUs that the trials may get compute bf16 natively; None if this machine's device
    decides.

    A command that joins a cluster may run on a machine with other GPUs, or with none.
    """
    if context.address is None or placement.device == "cpu":
        return None
    return have_bfloat16(placement.gpu_types)


def study_report(study: Study, store: TrackingStore, trials: list[ResolvedTrial]) -> "StudyReport":
    """Return the report of the whole study. trials: those of this command; trials excluded by
    `--only` are only read from the tracking store, because their data may not be available."""
    from orchestrator.report.study_report import StudyReport  # imports matplotlib

    if not study.is_partial:
        return StudyReport.of_trials(study, store, trials)
    costs = {trial.name: trial.cost for trial in trials}
    return StudyReport(study.whole, store, costs=costs)

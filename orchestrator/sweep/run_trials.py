"""Opens runs for the trials to train, and trains them on the connected cluster."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator.cluster.nodes import nodes_at_full_size
from orchestrator.cluster.refusals import problems_reported
from orchestrator.context import RunContext
from orchestrator.planning.forecast import Forecaster, priorities
from orchestrator.scheduling.budget import Budget, recorded_hours
from orchestrator.scheduling.capacity import Placement
from orchestrator.storage import unique_name
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.sweep.active_trial import ActiveTrial
from orchestrator.sweep.disk_space import DiskSpace
from orchestrator.sweep.progress import StudyProgress, TrialProgress
from orchestrator.sweep.recorder import Recorder
from orchestrator.tracking.descriptions import trial_note
from orchestrator.tracking.queries import history
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.early_stopping import EarlierScores
from orchestrator.training.job import job_of, ranked_among
from orchestrator.training.stop_file import StopFile, stop_file
from orchestrator.training.tuner import run_jobs
from pipelines.data.manifest import metric_name


def train(
    todo: Sequence[ResolvedTrial],
    runs: Mapping[str, TrialRun],
    study: Study,
    placement: Placement,
    study_run: StudyRun,
    forecaster: Forecaster,
    budget: Budget,
    context: RunContext,
    on_finished: Callable[[], None],
) -> dict[str, str]:
    """Train `todo` on the connected cluster. Returns the causes of failures by trial name.

    runs: the study's existing runs by trial name; those of `todo` are resumed. on_finished: called
    each time a finished trial is completely recorded.
    """
    active = {
        trial.name: _active_trial(trial, run_id, runs.get(trial.name), study, placement, study_run)
        for run_id, trial in _claim(todo, runs, study_run).items()
    }
    if not active:
        return {}
    _describe(active, runs, study, study_run)
    progress = StudyProgress.of(
        context.console,
        [
            TrialProgress(
                name,
                each.trial.duration.epochs,
                each.trial.duration.last_epoch,
                resumed_at=max(each.logged, default=0),
            )
            for name, each in active.items()
        ],
    )
    on_gpu = placement.device == "cuda"
    name = unique_name()
    stop_path = stop_file(context.storage, name)
    stop = StopFile(stop_path)
    space = DiskSpace(context.storage, todo, placement.concurrent)
    recorder = Recorder(
        study_run, progress, active, context, stop, on_gpu, budget, on_finished, space
    )
    first = priorities(study.config, todo)
    context.stop.graceful = True
    try:
        with progress, problems_reported(progress.refused, progress.warn):
            run_jobs(
                [
                    replace(
                        job_of(
                            each.trial, each.run_id, study, placement, context.storage, stop_path
                        ),
                        expected_seconds=forecaster.trial(
                            each.trial, max(each.logged, default=0)
                        ).value,
                        priority=first[each.trial.identity],
                    )
                    for each in active.values()
                ],
                placement.max_concurrent,
                recorder,
                context.storage.local / "tune",
                name,
                study.config.early_stopping,
                _earlier_scores(study, runs, study_run),
                nodes=partial(nodes_at_full_size, study.config.resources),
            )
        recorder.close()
    except BaseException:
        recorder.cancel()
        raise
    finally:
        stop.withdraw()
        context.stop.graceful = False
    return recorder.failures


def _earlier_scores(
    study: Study, runs: Mapping[str, TrialRun], study_run: StudyRun
) -> list[EarlierScores]:
    """Return the recorded scores of the study's trials by which early stopping ranks them."""
    settings = study.config.early_stopping
    if settings is None:
        return []
    metric = metric_name(f"val/{settings.metric}")
    return [
        EarlierScores(
            trial.name,
            ranked_among(trial),
            history(study_run.store, runs[trial.name].run_id, metric),
        )
        for trial in study.trials
        if trial.name in runs
    ]


def _claim(
    todo: Sequence[ResolvedTrial], runs: Mapping[str, TrialRun], study_run: StudyRun
) -> dict[str, ResolvedTrial]:
    """Open a run for each trial; return by run id the trials that no other process has claimed."""
    commit = git_commit(Path(__file__).parent)
    claims = {study_run.begin_trial(trial, commit, runs.get(trial.name)): trial for trial in todo}
    lost = study_run.settle_claims(claims)
    for run_id in lost:
        study_run.withdraw_trial(run_id, runs.get(claims[run_id].name))
    return {run_id: trial for run_id, trial in claims.items() if run_id not in lost}


def _describe(
    active: Mapping[str, ActiveTrial],
    runs: Mapping[str, TrialRun],
    study: Study,
    study_run: StudyRun,
) -> None:
    """Set the description of each trial's run."""
    run_ids = {name: (run.experiment_id, run.run_id) for name, run in runs.items()}
    run_ids |= {name: (study_run.experiment_id, each.run_id) for name, each in active.items()}
    for each in active.values():
        note = trial_note(each.trial, study, run_ids, study_run.experiment_id)
        study_run.describe_trial(each.run_id, note)


def _active_trial(
    trial: ResolvedTrial,
    run_id: str,
    run: TrialRun | None,
    study: Study,
    placement: Placement,
    study_run: StudyRun,
) -> ActiveTrial:
    metrics = {} if run is None else run.metrics
    return ActiveTrial(
        trial,
        run_id,
        logged=study_run.logged_epochs(run),
        seconds=metrics.get("trial/seconds", 0.0),
        hours=recorded_hours(metrics),
        workers=study.config.resources.fewest_workers,
        devices=placement.per_worker.get("GPU", 1.0),
    )


def git_commit(directory: Path) -> str | None:
    """Return the commit checked out in `directory`, with the suffix `-dirty` if tracked files have
    changed; None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            process = subprocess.run(
                ["git", "-C", str(directory), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return process.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", ".") is None:
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit

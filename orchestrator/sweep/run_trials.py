"""From cells to jobs: the trials that are to be trained, opened in the ledger and handed to the
fleet."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator.cluster.nodes import nodes_at_most
from orchestrator.context import Setting
from orchestrator.planning.forecast import Forecaster, ranks
from orchestrator.scheduling.budget import Budget, recorded_hours
from orchestrator.scheduling.capacity import Gang
from orchestrator.study.resolve import Cell
from orchestrator.study.study import Plan
from orchestrator.sweep.progress import StudyProgress, TrialProgress
from orchestrator.sweep.recorder import Recorder, Tracked
from orchestrator.tracking.descriptions import trial_note
from orchestrator.tracking.runs import Record
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.job import job_of
from orchestrator.training.stop_file import StopFile, stop_file
from orchestrator.training.tuner import run_jobs


def train(
    todo: Sequence[Cell],
    known: Mapping[str, Record],
    plan: Plan,
    gang: Gang,
    study_run: StudyRun,
    forecaster: Forecaster,
    budget: Budget,
    setting: Setting,
    on_finished: Callable[[], None],
) -> dict[str, str]:
    """Train `todo` on the connected cluster. Returns the causes of failures, by trial name.

    known: by trial name, the study's runs so far; those of `todo` are resumed.
    on_finished: called as trials finish, once all of a trial is recorded.
    """
    trials = {
        cell.trial.name: _tracked(cell, run_id, known.get(cell.trial.name), plan, gang, study_run)
        for run_id, cell in _claim(todo, known, study_run).items()
    }
    if not trials:
        return {}
    _describe(trials, known, plan, study_run)
    progress = StudyProgress.of(
        setting.console,
        [
            TrialProgress(
                name,
                trial.cell.trial.experiment.training.epochs,
                resumed_at=max(trial.logged, default=0),
            )
            for name, trial in trials.items()
        ],
    )
    on_gpu = gang.device == "cuda"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    place = stop_file(setting.storage, name)
    stop = StopFile(place)
    recorder = Recorder(study_run, progress, trials, setting, stop, on_gpu, budget, on_finished)
    first = ranks(plan.study, todo)
    setting.stop.graceful = True
    try:
        with progress:
            run_jobs(
                [
                    replace(
                        job_of(trial.cell, trial.run_id, plan, gang, setting.storage, place),
                        expected_seconds=forecaster.trial(
                            trial.cell, max(trial.logged, default=0)
                        ).seconds,
                        rank=first[trial.cell.identity],
                    )
                    for trial in trials.values()
                ],
                gang.at_once,
                recorder,
                setting.storage.here / "tune",
                name,
                plan.study.early_stopping,
                nodes=partial(nodes_at_most, plan.study.resources),
            )
        recorder.close()
    except BaseException:
        recorder.cancel()
        raise
    finally:
        stop.withdraw()
        setting.stop.graceful = False
    return recorder.failures


def _claim(
    todo: Sequence[Cell], known: Mapping[str, Record], study_run: StudyRun
) -> dict[str, Cell]:
    """Open a run for each cell, and keep those that no other study's process has; by run id."""
    commit = git_commit(Path(__file__).parent)
    claims = {
        study_run.begin_trial(cell, commit, known.get(cell.trial.name)): cell for cell in todo
    }
    lost = study_run.settle_claims(claims)
    for run_id in lost:
        study_run.withdraw_trial(run_id, known.get(claims[run_id].trial.name))
    return {run_id: cell for run_id, cell in claims.items() if run_id not in lost}


def _describe(
    trials: Mapping[str, Tracked], known: Mapping[str, Record], plan: Plan, study_run: StudyRun
) -> None:
    """Say on each run's page what the trial is and what it is compared with."""
    places = {name: (record.experiment_id, record.run_id) for name, record in known.items()}
    places |= {name: (study_run.experiment_id, trial.run_id) for name, trial in trials.items()}
    for trial in trials.values():
        note = trial_note(trial.cell, plan, places, study_run.experiment_id)
        study_run.describe_trial(trial.run_id, note)


def _tracked(
    cell: Cell,
    run_id: str,
    record: Record | None,
    plan: Plan,
    gang: Gang,
    study_run: StudyRun,
) -> Tracked:
    figures = {} if record is None else record.metrics
    return Tracked(
        cell,
        run_id,
        logged=study_run.logged_epochs(record),
        seconds=figures.get("trial/seconds", 0.0),
        hours=recorded_hours(figures),
        workers=plan.study.resources.fewest_workers,
        devices=gang.per_worker.get("GPU", 1.0),
    )


def git_commit(directory: Path) -> str | None:
    """The commit checked out in `directory`, `-dirty` behind it where tracked files differ from it;
    None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit

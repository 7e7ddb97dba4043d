"""From cells to jobs: the trials that are to be trained, opened in the ledger and handed to the
fleet."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator import fleet
from orchestrator.cells import Cell
from orchestrator.fleet import Gang
from orchestrator.ledger import Record, StudyRun
from orchestrator.progress import StudyProgress, TrialProgress
from orchestrator.provenance import git_commit
from orchestrator.recorder import Recorder
from orchestrator.setting import Setting
from orchestrator.study import Plan
from orchestrator.trial import Job
from orchestrator.worker import WorkerTask


def train(
    todo: Sequence[Cell],
    records: Mapping[str, Record],
    plan: Plan,
    gang: Gang,
    study_run: StudyRun,
    setting: Setting,
) -> Recorder:
    """Train `todo` on the connected cluster; what became of each trial is in the returned recorder.

    records: by identity, what the ledger holds of unfinished trials, which are resumed.
    """
    commit = git_commit(Path(__file__).parent)
    run_ids: dict[str, str] = {}
    logged: dict[str, set[int]] = {}
    for cell in todo:
        record = records.get(cell.identity)
        run_ids[cell.trial.name] = study_run.begin_trial(cell, commit, record)
        logged[cell.trial.name] = study_run.logged_epochs(record)
    progress = StudyProgress.of(
        setting.console,
        [
            TrialProgress(
                cell.trial.name,
                cell.trial.experiment.training.epochs,
                resumed_at=max(logged[cell.trial.name], default=0),
            )
            for cell in todo
        ],
    )
    recorder = Recorder(
        study_run,
        progress,
        {cell.trial.name: cell for cell in todo},
        run_ids,
        logged,
        plan.study.imports,
        lambda: setting.stop.requested,
    )
    setting.stop.graceful = True
    with progress:
        fleet.run_jobs(
            [_job(cell, run_ids[cell.trial.name], plan, gang, setting.storage) for cell in todo],
            gang.concurrent,
            recorder,
            setting.storage / "tune",
            f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
        )
    setting.stop.graceful = False
    return recorder


def _job(cell: Cell, run_id: str, plan: Plan, gang: Gang, storage: Path) -> Job:
    resources = plan.study.resources
    return Job(
        name=cell.trial.name,
        run_name=f"{cell.identity[:16]}-{run_id}",
        task=WorkerTask(
            experiment=cell.experiment,
            dataset=cell.location,
            threads=max(1, int(resources.cpus_per_worker)),
            imports=plan.study.imports,
            cache=resources.cache(),
            checkpoint_steps=resources.checkpoint_steps,
        ),
        workers=resources.workers,
        resources=gang.per_worker,
        use_gpu=gang.device == "cuda",
        retries=resources.retries,
        keep_checkpoints=resources.keep_checkpoints,
        storage=str(storage / "trials"),
    )

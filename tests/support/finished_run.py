"""A finished run in a tracking store, recorded as by a study but without training."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.tracking.models import log_models
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.file_names import STATE_FILE, WEIGHTS_FILE
from pipelines.training.lineage import lineage

STUDY = """\
study: scored
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
variants:
  full: {}
"""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run. storage: value of `--storage`; directory: model directory of `last`."""

    storage: Path
    run_id: str
    directory: Path
    dataset: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.storage / 'mlflow.db'}"


def make_finished_run(storage: Path, dataset: Path) -> FinishedRun:
    """Record a run with two checkpoints, each a network initialized with another seed."""
    file = storage / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(dataset)))
    study = load_study(file)
    (trial,) = resolve_trials(study.trials, "cpu", storage)
    store = TrackingStore(f"sqlite:///{storage / 'mlflow.db'}", storage / "artifacts")
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    checkpoints = {}
    for seed, name in enumerate(("best", "last")):
        checkpoints[name] = storage / "checkpoints" / name
        checkpoints[name].mkdir(parents=True)
        network = build_network(trial.experiment.model, 10, seed=seed)
        save_file(dict(network.state_dict()), checkpoints[name] / WEIGHTS_FILE)
        experiment = lineage(trial.worker_experiment, trial.dataset.manifest.fingerprint, {})
        (checkpoints[name] / STATE_FILE).write_text(json.dumps({"experiment": experiment}))
        write_model_directory(
            storage / "models" / name,
            checkpoints[name],
            trial.experiment,
            trial.dataset.manifest,
        )
    metrics = {"epoch": 1, "val/miou": 0.25}
    study_run.log_epoch(run_id, 1, {"train/loss": 2.0, "val/miou": 0.25, "val/best_miou": 0.5})
    log_models(store, run_id, trial, (), checkpoints["last"], checkpoints["best"], metrics)
    study_run.end_trial(run_id, "FINISHED")
    study_run.close("FINISHED")
    return FinishedRun(storage, run_id, storage / "models" / "last", dataset)

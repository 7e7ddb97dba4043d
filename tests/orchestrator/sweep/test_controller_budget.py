"""The GPU hours that earlier commands of a study used."""

from pathlib import Path

import pytest

from orchestrator.scheduling.capacity import plan_placement
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.sweep.controller import SweepController
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun

STUDY = """\
study: STUDY
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: EPOCHS, batch: 6, precision: fp32}
variants: {one: {}}
seeds: [0, 1]
resources: {device: cpu, workers: 2}
"""


@pytest.mark.slow
def test_gpu_hours_include_all_earlier_trials_of_the_study(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    """Also of experiments no longer in the study and of trials that this command leaves out."""
    store = TrackingStore(tracking_uri(own_store), own_store / "artifacts")
    file = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets))
    for study, epochs in (("other", 3), ("ours", 3), ("ours", 5)):
        file.write_text(text.replace("STUDY", study).replace("EPOCHS", str(epochs)))
        study = load_study(file)
        study_run = StudyRun.open(store, study)
        for trial in resolve_trials(study.trials, "cpu", tmp_path):
            run_id = study_run.begin_trial(trial, None, None)
            study_run.log_epoch(run_id, 1, {"trial/worker_hours": float(epochs)})
            study_run.end_trial(run_id, "KILLED")
        study_run.close("KILLED")
    study = load_study(file, [], ["one, seed 1"])
    placement = plan_placement(study.config.resources, [{"CPU": 4.0}])
    controller = SweepController(study, None, None, placement, [], store, None, None, None)  # type: ignore[arg-type]
    controller._reconcile()
    budget = controller._create_budget()
    assert budget.device_hours == pytest.approx(2 * 3 + 2 * 5)

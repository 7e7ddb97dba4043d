"""The budget of a sweep: what the limits of its study leave to this command."""

from orchestrator.scheduling.budget import Budget, recorded_hours
from orchestrator.scheduling.capacity import Placement
from orchestrator.study.study import Study
from orchestrator.tracking.queries import StoreSnapshot


def used_hours(study: Study, snapshot: StoreSnapshot) -> float:
    """Return the device-hours used by all trials that a study ever had, including those that are no
    longer in its file. snapshot: of the tracking store."""
    name = study.config.study
    return sum(recorded_hours(run.metrics) for run in snapshot.trials if run.study == name)


def create_budget(
    study: Study, snapshot: StoreSnapshot, placement: Placement, began: float
) -> Budget:
    """Return the limits of a study, minus its used hours.

    snapshot: of the tracking store. placement: of one trial. began: when the command began, by
    `time.monotonic`.
    """
    devices = study.config.resources.devices(placement.device)
    on_gpu = placement.device == "cuda"
    used = used_hours(study, snapshot)
    return Budget(study.config.limits, devices, used, began=began, on_gpu=on_gpu)

"""The budget of a sweep: what the limits of its study leave to this command."""

from orchestrator.scheduling.budget import Budget, recorded_hours
from orchestrator.scheduling.capacity import Placement
from orchestrator.study.study import Study
from orchestrator.tracking.queries import StoreSnapshot


def create_budget(
    study: Study, snapshot: StoreSnapshot, placement: Placement, began: float
) -> Budget:
    """Return the limits of a study, minus the device-hours used by all trials it ever had,
    including those that are no longer in its file.

    snapshot: of the tracking store. placement: of one trial. began: when the command began, by
    `time.monotonic`.
    """
    config = study.config
    hours = sum(recorded_hours(run.metrics) for run in snapshot.trials if run.study == config.study)
    devices = config.resources.devices(placement.device)
    return Budget(config.limits, devices, hours, began=began)

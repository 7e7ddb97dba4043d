"""Times measured on a device by finished trials, preflight runs and probes.

The measurement of a finished trial is a tag of its MLflow run. Preflight runs and probes have no
MLflow run; their measurements are stored in a file, which is a cache and may be deleted.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import workload
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.resources import Resources

FILE = "measurements.jsonl"


def load_measurements(recorded: Iterable[str], storage: Path) -> list[Measurement]:
    """Return the measurements of finished trials, `recorded` as JSON, and those of the file in
    `storage`."""
    path = storage / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    parsed = (Measurement.from_json(text) for text in [*recorded, *lines])
    return [measurement for measurement in parsed if measurement is not None]


def save_measurements(storage: Path, measurements: Iterable[Measurement]) -> None:
    """Append to the file in `storage`."""
    path = storage / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")), path.open("a", encoding="utf-8") as file:
        file.writelines(f"{measurement.to_json()}\n" for measurement in measurements)


def measurement_of_trial(
    trial: ResolvedTrial,
    resources: Resources,
    device: str,
    history: Sequence[dict[str, float]],
    wall: float | None,
) -> Measurement | None:
    """Return the times of a finished trial, or None if its history has no training speed.

    history: metrics of each epoch.
    wall: seconds from its start to its end; None if it was interrupted.
    """
    training = trial.experiment.training
    speeds = [entry["images_per_second"] for entry in history if "images_per_second" in entry]
    if not speeds:
        return None
    step = training.batch / statistics.median(speeds)
    validations = [entry["val/seconds"] for entry in history if "val/seconds" in entry]
    start = None
    if wall is not None:
        steps = map(trial.duration.steps_in, range(len(speeds)))
        computing = sum(
            count * training.batch / speed for count, speed in zip(steps, speeds, strict=True)
        ) + sum(validations)
        start = max(0.0, wall - computing)
    return Measurement(
        workload(trial, resources),
        device,
        training.precision,
        "trial",
        step,
        statistics.median(validations) if validations else None,
        start,
    )

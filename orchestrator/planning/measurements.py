"""Times measured on the devices at hand: by finished trials, by canaries and by probes.

A finished trial's run carries its measurement as a tag. Canaries and probes leave no run; theirs
are kept in a file of the storage, which is a cache and may be deleted.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import workload
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.resources import Resources

FILE = "measurements.jsonl"


def known_measurements(recorded: Iterable[str], storage: Path) -> list[Measurement]:
    """Measurements of the storage's file, and those `recorded` with finished trials as JSON."""
    path = storage / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    read = (Measurement.from_json(text) for text in [*recorded, *lines])
    return [measurement for measurement in read if measurement is not None]


def keep(storage: Path, measurements: Iterable[Measurement]) -> None:
    """Add to the storage's file."""
    path = storage / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")), path.open("a", encoding="utf-8") as file:
        file.writelines(f"{measurement.to_json()}\n" for measurement in measurements)


def measured(
    trial: ResolvedTrial,
    resources: Resources,
    device: str,
    history: Sequence[dict[str, float]],
    wall: float | None,
) -> Measurement | None:
    """What a finished trial tells of its device, by its metrics of every epoch.

    wall: seconds from its start to its end, where it was not interrupted. None for a history that
    holds no speed.
    """
    training = trial.experiment.training
    speeds = [entry["images_per_second"] for entry in history if "images_per_second" in entry]
    if not speeds:
        return None
    step = training.batch / statistics.median(speeds)
    validations = [entry["val/seconds"] for entry in history if "val/seconds" in entry]
    start = None
    if wall is not None:
        epoch = trial.steps / training.epochs * training.batch
        at_work = sum(epoch / speed for speed in speeds) + sum(validations)
        start = max(0.0, wall - at_work)
    return Measurement(
        workload(trial, resources),
        device,
        training.precision,
        "trial",
        step,
        statistics.median(validations) if validations else None,
        start,
    )

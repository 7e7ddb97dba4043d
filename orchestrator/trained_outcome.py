"""What trials leave of their networks in the ledger: models, and best checkpoints."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from orchestrator.cells import Cell
from orchestrator.ledger import Ledger
from orchestrator.ledger.models import log_model
from orchestrator.model_package import package
from pipelines.imaging import Array
from pipelines.model_directory import write_model_directory
from pipelines.origin import WEIGHTS, check_origin, origin

_EXAMPLE = 64  # pixels of an example's longer side, at most


def keep_models(
    ledger: Ledger,
    run_id: str,
    cell: Cell,
    imports: Sequence[str],
    last: Path,
    best: Path | None,
    metrics: Mapping[str, float],
) -> None:
    """Record the checkpoint directories of a trial: `last` as the run's model, `best` beside it.

    The table's figure is the last checkpoint's, so it is the one that other programs load.
    best: None where nothing was validated. metrics: of the last epoch.

    Raises CheckpointError where one is of another experiment, or of other data or weights than the
    cell's: a trial's name must stand for nothing else.
    """
    experiment, manifest = cell.trial.experiment, cell.dataset.manifest
    digests = dict(zip(WEIGHTS, cell.digests, strict=True))
    for checkpoint in filter(None, (last, best)):
        check_origin(checkpoint, origin(experiment, manifest.fingerprint, digests))
    with tempfile.TemporaryDirectory(prefix="models-") as temporary:
        directory = Path(temporary) / "last"
        write_model_directory(directory, last, experiment, manifest)
        tags = {
            "data": manifest.fingerprint,
            "protocol": experiment.evaluation.protocol,
            "checkpoint": "last",
            "code": cell.code,
            "variant": cell.trial.variant,
            "seed": str(experiment.seed),
        }
        if "val/miou" in metrics:
            tags["miou"] = f"{metrics['val/miou']:.6f}"
        log_model(
            ledger,
            run_id,
            directory,
            package(experiment, imports),
            _example(cell),
            tags,
            step=int(metrics["epoch"]),
        )
        if best is not None:
            directory = Path(temporary) / "best"
            write_model_directory(directory, best, experiment, manifest)
            ledger.log_artifact(run_id, directory, "best")


def _example(cell: Cell) -> Array:
    """The first training picture, so small that it can be read as text: every n-th pixel, sides
    multiples of 32."""
    picture, _ = cell.dataset.split(cell.trial.experiment.data.train_split).read(0)
    step = -(-max(picture.shape[:2]) // _EXAMPLE)
    small = picture[::step, ::step]
    height, width = (max(32, length // 32 * 32) for length in small.shape[:2])
    return np.ascontiguousarray(small[:height, :width])

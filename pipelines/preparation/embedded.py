"""The embedded data set of rendered street scenes, prepared where it is first used."""

from pathlib import Path

from pipelines.data.manifest import Manifest
from pipelines.data.storage import locate, within
from pipelines.machine import cores
from pipelines.preparation.prepare_dataset import prepare, recipe_digest
from pipelines.preparation.readers.streets import Streets

EMBEDDED = Streets.name  # as `data.dataset` and `--dataset` name it


def dataset_location(dataset: str, directory: str | Path) -> str:
    """The path or URI of a data set as an experiment names it.

    The embedded one is prepared in `directory`, a path or URI, unless it is there already; every
    other name is a location.
    """
    return ensure_streets(directory) if dataset == EMBEDDED else dataset


def ensure_streets(directory: str | Path) -> str:
    """Prepare the embedded data set in `directory`, a path or URI, on first use; returns its
    location.

    The name ends in a digest of the renderer, so that images of an older version are not taken for
    these. Many processes may call this at once: one prepares, the others wait.
    """
    reader = Streets()
    digest = recipe_digest(reader, reader.listing(), skip_invalid=False, tile=1024)
    location = within(directory, f"{reader.name}-{digest[:8]}")
    if not locate(location).exists():
        prepare(reader, location, workers=cores())
    return location


def prepare_streets(
    destination: str | Path,
    train: int = Streets.train,
    val: int = Streets.val,
    size: tuple[int, int] = Streets.size,
    seed: int = 0,
    workers: int = 1,
) -> Manifest:
    """Render the embedded data set, with images of `size` (height, width), to `destination`."""
    return prepare(Streets(train=train, val=val, size=size, seed=seed), destination, workers)

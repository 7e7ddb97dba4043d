"""The embedded data set of rendered street scenes, prepared on first use."""

from pathlib import Path

from pipelines.data.manifest import Manifest
from pipelines.data.storage import join_uri, locate
from pipelines.machine import cores
from pipelines.preparation.prepare_dataset import prepare, recipe_digest
from pipelines.preparation.readers.streets import Streets

EMBEDDED = Streets.name  # its value in `data.dataset` and `--dataset`


def dataset_location(dataset: str, directory: str | Path) -> str:
    """Return the path or URI of a data set named in an experiment.

    A name other than EMBEDDED already is a path or URI. The embedded data set is prepared in
    `directory` (a path or URI) if it is missing there.
    """
    return ensure_streets(directory) if dataset == EMBEDDED else dataset


def ensure_streets(directory: str | Path) -> str:
    """Prepare the embedded data set in `directory` on first use; return its path or URI.

    The name ends in a digest of the renderer's sources, so that images of an older renderer are not
    reused. Safe to call from several processes at once: one prepares, the others wait.
    """
    reader = Streets()
    digest = recipe_digest(reader, reader.listing(), skip_invalid=False)
    location = join_uri(directory, f"{reader.name}-{digest[:8]}")
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
    """Render the embedded data set to `destination`, with images of `size` (height, width)."""
    return prepare(Streets(train=train, val=val, size=size, seed=seed), destination, workers)

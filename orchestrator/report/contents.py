"""What lies where a study says, as far as it is on this machine: nothing is fetched."""

from functools import cache
from pathlib import Path

from orchestrator.cells import EMBEDDED, absolute
from pipelines.dataset import DatasetError, open_dataset
from pipelines.weights import WeightsError, weights_digest, weights_in


class Contents:
    """Contents by location, each looked at once; None for what is not here or cannot be read."""

    def __init__(self) -> None:
        self.fingerprint = cache(_fingerprint)
        self.digest = cache(_digest)


def _fingerprint(dataset: str) -> str | None:
    """Of a prepared data set."""
    if dataset == EMBEDDED or not _is_here(dataset):
        return None
    try:
        return open_dataset(absolute(dataset)).manifest.fingerprint
    except DatasetError:
        return None


def _digest(weights: str) -> str | None:
    """Of a file of weights, or of the one in a checkpoint's directory."""
    if not _is_here(weights):
        return None
    try:
        return weights_digest(weights_in(absolute(weights)))
    except WeightsError:
        return None


def _is_here(location: str) -> bool:
    return "://" not in location and Path(absolute(location)).exists()

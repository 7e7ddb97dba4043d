"""The user's choice of a tracking store, and MLflow's global tracking URI, also the user's."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from mlflow.tracking._tracking_service import utils as service

VARIABLE = "MLFLOW_TRACKING_URI"

_global_uri = threading.RLock()


def chosen_uri() -> str | None:
    """Return `MLFLOW_TRACKING_URI` as the user has set it; None if it is not set.

    `mlflow.set_tracking_uri` exports that variable too, for other processes. In this one, it does
    not move a study to another store: the value at the start of the process is used.
    """
    uri = os.environ.get(VARIABLE) or None
    if uri is None or uri != service._tracking_uri:
        return uri
    with suppress(psutil.Error):
        return psutil.Process().environ().get(VARIABLE) or None
    return None


def ignored_uri() -> str | None:
    """Return the URI set by `mlflow.set_tracking_uri` if `chosen_uri` ignores it, else None."""
    uri = os.environ.get(VARIABLE) or None
    return None if uri == chosen_uri() else uri


@contextmanager
def global_uri(uri: str) -> Iterator[None]:
    """Within this context, make `uri` MLflow's global tracking URI, of one thread at a time."""
    with _global_uri:
        previous = os.environ.get(VARIABLE)
        try:
            with service._use_tracking_uri(uri):
                yield
        finally:
            os.environ.pop(VARIABLE, None)
            if previous is not None:
                os.environ[VARIABLE] = previous

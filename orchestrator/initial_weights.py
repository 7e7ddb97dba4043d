"""The weights that `training.init` names, as a file that the workers can read."""

import tempfile
from pathlib import Path

from orchestrator.storage import Storage
from orchestrator.trained_model import ModelError, open_ledger
from pipelines.checkpoint import WEIGHTS_FILE
from pipelines.weights import WeightsError, weights_digest, weights_in


def local_weights(uri: str, storage: Storage) -> str:
    """A file of weights for `training.init`.

    `runs:/ID/best` and `models:/NAME@ALIAS` are copied from the ledger into the storage, under a
    name that follows from the content; what is elsewhere stays there. Raises WeightsError, or
    LedgerError where the ledger has no such model.
    """
    try:
        ledger = open_ledger(uri, storage.here)
    except ModelError as error:
        raise WeightsError(f"training.init: {error}") from None
    if ledger is None:
        found = weights_in(uri)
        return found if "://" in found else str(Path(found).expanduser().resolve())
    folder = storage.here / "initial"
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the place it goes to, so that moving it there is one rename.
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as temporary:
        directory = ledger.download(uri, Path(temporary))
        files = sorted(directory.rglob(WEIGHTS_FILE))
        if len(files) != 1:
            raise WeightsError(f"training.init: {uri} holds {len(files)} files {WEIGHTS_FILE}")
        return storage.keep(files[0], f"initial/{weights_digest(files[0])}.safetensors")

"""Which files of a checkpoint a power loss or an incomplete copy has damaged.

A file of safetensors names its length in its header: 8 bytes with the length n of the JSON text
that follows, n bytes of text with the range of each tensor, then the tensors
(https://huggingface.co/docs/safetensors). So a damaged file is found without reading its tensors,
also in an object store. Changed values within tensors are not found.
"""

import json
from collections.abc import Callable

import pyarrow as pa

from pipelines.data.storage import Location
from pipelines.network.file_names import OPTIMIZER_FILE, STATE_FILE, TRAINED_FILE, WEIGHTS_FILE

_STATE_KEYS = {"position", "history", "optimizer"}


def damage_of(checkpoint: Location, averaged: bool) -> str:
    """Return what is damaged in a checkpoint, such as `model.safetensors is incomplete`; empty if
    it is whole.

    averaged: whether the training averages its weights, so that there are two files of them.

    Raises OSError if the storage cannot be reached.
    """
    checks: dict[str, Callable[[pa.NativeFile], bool]] = {
        STATE_FILE: _is_state,
        WEIGHTS_FILE: _has_all_tensors,
        OPTIMIZER_FILE: _has_all_tensors,
    }
    if averaged:
        checks[TRAINED_FILE] = _has_all_tensors
    for name, is_whole in checks.items():
        try:
            with checkpoint.filesystem.open_input_file(checkpoint.file(name)) as file:
                if not is_whole(file):
                    return f"{name} is incomplete"
        except FileNotFoundError:
            return f"{name} is missing"
    return ""


def _is_state(file: pa.NativeFile) -> bool:
    try:
        state = json.loads(file.read())
    except ValueError:
        return False
    return isinstance(state, dict) and state.keys() >= _STATE_KEYS


def _has_all_tensors(file: pa.NativeFile) -> bool:
    size = file.size()
    start = 8 + int.from_bytes(file.read(8), "little")
    if size < start:
        return False
    try:
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return False
    return bool(size == start + max(ends, default=0))

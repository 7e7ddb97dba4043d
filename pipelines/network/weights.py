"""Reads weights from a path or URI without running code that they may contain."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pyarrow.fs import FileType

from pipelines.data.manifest import DatasetError
from pipelines.data.storage import locate
from pipelines.errors import UserError
from pipelines.network.checkpoint import WEIGHTS_FILE


class WeightsError(UserError, ValueError):
    """Weights that cannot be used; the message names the file and the reason."""


def read_weights(uri: str | Path) -> dict[str, object]:
    """Read a safetensors file or a PyTorch checkpoint (`.pth`, `.pt`) to the CPU.

    The format is detected from the content. The mapping is returned as saved: tensors by name,
    possibly nested in `state_dict` or mixed with other values, as `models.load_pretrained` accepts.

    Args:
        uri: a path, or a URI that pyarrow or fsspec can open.

    Raises:
        WeightsError: the file is missing, damaged or in neither format, or it is a pickle with
            objects other than tensors and plain containers.
    """
    data = _read(uri)
    if _is_safetensors(data):
        try:
            return dict(safetensors.torch.load(data))
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{uri}: damaged safetensors file ({error})") from error
    if not (data[:1] == b"\x80" or zipfile.is_zipfile(io.BytesIO(data))):
        raise WeightsError(f"{uri}: neither a safetensors file nor a PyTorch checkpoint")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{uri}: not loaded, because it is damaged or contains objects other than tensors and "
            "plain containers, which could run code; convert it to safetensors with the code that "
            f"saved it ({_first_line(error)})"
        ) from error
    except Exception as error:  # a damaged pickle can raise any error
        raise WeightsError(f"{uri}: damaged checkpoint ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{uri}: holds {type(content).__name__}, not a mapping of tensors")
    return {str(key): value for key, value in content.items()}


def locate_weights(uri: str) -> str:
    """Return the file of weights at `uri`: `uri` itself, or the file in a directory.

    The directory is a checkpoint or a model directory.

    Raises:
        WeightsError: `uri` does not exist or cannot be read.
    """
    try:
        location = locate(uri)
        kind = location.filesystem.get_file_info(location.path).type
    except (DatasetError, OSError) as error:
        raise WeightsError(f"{uri}: cannot be read ({error})") from error
    if kind == FileType.NotFound:
        raise WeightsError(f"{uri}: no such file or directory")
    return f"{str(uri).rstrip('/')}/{WEIGHTS_FILE}" if kind == FileType.Directory else str(uri)


def weights_digest(uri: str | Path) -> str:
    """Return the SHA-256 of a file of weights, which identifies the weights of an experiment.

    Raises:
        WeightsError: the file cannot be read.
    """
    return hashlib.sha256(_read(uri)).hexdigest()


def _read(uri: str | Path) -> bytes:
    try:
        location = locate(uri)
        with location.filesystem.open_input_stream(location.path) as stream:
            return bytes(stream.read())
    except DatasetError as error:
        raise WeightsError(str(error)) from error
    except FileNotFoundError as error:
        raise WeightsError(f"{uri}: no such file") from error
    except OSError as error:
        raise WeightsError(f"{uri}: cannot be read ({error})") from error


def _is_safetensors(data: bytes) -> bool:
    """Whether the data begins with the length of a header (8 bytes) and a JSON object."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

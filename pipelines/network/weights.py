"""Opens published weights from a path or URI, and never runs code that came with them."""

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
    """A file of weights that cannot be used; the message names it and says why."""


def read_weights(uri: str | Path) -> dict[str, object]:
    """The mapping in a safetensors file or a PyTorch checkpoint (`.pth`, `.pt`), on the CPU.

    The format is told from the content. What the mapping holds is as it was saved: tensors by name,
    perhaps within `state_dict` or beside other things; `models.load_pretrained` sorts that out.

    Args:
        uri: a path, or a URI that pyarrow or fsspec opens.

    Raises:
        WeightsError: nothing there, neither format, damaged, or a pickle with objects other than
            tensors and plain containers.
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
            f"{uri}: not loaded, because it is damaged or holds objects besides tensors and plain "
            "containers, which could run code; convert it to safetensors where it comes from "
            f"({_first_line(error)})"
        ) from error
    except Exception as error:  # a damaged pickle fails in the unpickler in any way it likes
        raise WeightsError(f"{uri}: damaged checkpoint ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{uri}: holds {type(content).__name__}, not a mapping of tensors")
    return {str(key): value for key, value in content.items()}


def weights_in(uri: str) -> str:
    """The file of weights that `uri` stands for: itself, or the one in a checkpoint or a model
    directory. Raises WeightsError where there is nothing."""
    try:
        location = locate(uri)
        kind = location.filesystem.get_file_info(location.path).type
    except (DatasetError, OSError) as error:
        raise WeightsError(f"{uri}: cannot be read ({error})") from error
    if kind == FileType.NotFound:
        raise WeightsError(f"{uri}: no such file or directory")
    return f"{str(uri).rstrip('/')}/{WEIGHTS_FILE}" if kind == FileType.Directory else str(uri)


def weights_digest(uri: str | Path) -> str:
    """SHA-256 of the file, by which an experiment is told from one with other weights.

    Raises:
        WeightsError: nothing there.
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
    """Eight bytes of header length, then the header, a JSON object."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

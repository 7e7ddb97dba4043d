"""Reads weights from a path or URI without running code that they may contain."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from pipelines import wording
from pipelines.network.weight_files import WeightsError, read_bytes


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
    data = read_bytes(uri)
    if _is_safetensors(data):
        try:
            return dict(safetensors.torch.load(data))
        except (safetensors.SafetensorError, KeyError) as error:  # KeyError: an unknown data type
            raise WeightsError(f"{uri}: damaged safetensors file ({error})") from error
    if not (data[:1] == b"\x80" or zipfile.is_zipfile(io.BytesIO(data))):
        raise WeightsError(f"{uri}: neither a safetensors file nor a PyTorch checkpoint")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{uri}: not loaded, because it is damaged or contains objects other than tensors and "
            "plain containers, which could run code; convert it to safetensors with the code that "
            f"saved it ({wording.cause(error)})"
        ) from error
    except Exception as error:  # a damaged pickle can raise any error
        raise WeightsError(f"{uri}: damaged checkpoint ({wording.cause(error)})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{uri}: holds {type(content).__name__}, not a mapping of tensors")
    return {str(key): value for key, value in content.items()}


def _is_safetensors(data: bytes) -> bool:
    """Whether the data begins with the length of a header (8 bytes) and a JSON object."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data)

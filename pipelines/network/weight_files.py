"""Locates and identifies files of weights, without loading them into torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pyarrow.fs import FileType

from models.hugging_face.configuration import is_saved, saved_weights
from pipelines.data.download import DownloadError
from pipelines.data.manifest import DatasetError
from pipelines.data.storage import join_uri, locate
from pipelines.errors import UserError
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.network.published_weights import PUBLISHED_WEIGHTS


class WeightsError(UserError, ValueError):
    """Weights that cannot be used; the message names the file and the reason."""


def locate_weights(uri: str) -> str:
    """Return the file of weights at `uri`: `uri` itself, or the file in a directory or package.

    The directory is a checkpoint or a model directory. The name of published weights (see
    `PUBLISHED_WEIGHTS`) is replaced by the file in the installed package or by the downloaded file,
    and a model on the Hugging Face hub (`hf:OWNER/NAME@REVISION`) by the file in the hub's local
    cache.

    Raises:
        WeightsError: `uri` does not exist or cannot be read, the package is not installed, or the
            file cannot be downloaded.
    """
    if uri in PUBLISHED_WEIGHTS:
        try:
            return str(PUBLISHED_WEIGHTS[uri].fetch())
        except (DownloadError, FileNotFoundError) as error:
            raise WeightsError(f"{uri}: {error}") from error
    if is_saved(uri):
        try:
            return str(saved_weights(uri))
        except ValueError as error:
            raise WeightsError(str(error)) from error
    try:
        location = locate(uri)
        kind = location.filesystem.get_file_info(location.path).type
    except (DatasetError, OSError) as error:
        raise WeightsError(f"{uri}: cannot be read ({error})") from error
    if kind == FileType.NotFound:
        names = "" if "/" in uri or "." in uri else f"; published: {', '.join(PUBLISHED_WEIGHTS)}"
        raise WeightsError(f"{uri}: no such file or directory{names}")
    return join_uri(uri, WEIGHTS_FILE) if kind == FileType.Directory else str(uri)


def weights_digest(uri: str | Path) -> str:
    """Return the SHA-256 of a file of weights, which identifies the weights of an experiment.

    Raises:
        WeightsError: the file cannot be read.
    """
    return hashlib.sha256(read_bytes(uri)).hexdigest()


def read_bytes(uri: str | Path) -> bytes:
    """Return the content of a file of weights. Raises WeightsError."""
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

"""Where a data set lies: a local directory or an object store, behind one small interface."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from pipelines.data.manifest import DatasetError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
# `scheme://user:password@`; keys hold slashes, and what follows a port (`host:9000/a@b`) is a path.
_PASSWORD = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#@\s]*:(?!\d+[/?#])[^?#@\s]*@")
# Parameters by which object stores and signed addresses are opened: `?sig=`, `&client_secret=`.
_PARAMETER = re.compile(
    r"([?&](?:[\w.-]*(?:secret|passw|token|signature|account_?key|access_?key|api_?key|"
    r"credential(?!_kind))[\w.-]*|sig|key|pwd)=)[^&#\s]+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Location:
    """A directory pyarrow can reach: `uri` as the user wrote it, `path` as `filesystem` has it."""

    uri: str
    filesystem: pa.fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pa.fs.LocalFileSystem)

    @property
    def directory(self) -> Path:
        """The local directory; only where `is_local`."""
        return Path(self.path)

    def file(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file directly inside, by name; empty without such a directory."""
        selector = pa.fs.FileSelector(self.path, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return {info.base_name: info.size for info in infos if info.type == pa.fs.FileType.File}

    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type != pa.fs.FileType.NotFound

    def open(self, name: str) -> pa.NativeFile:
        """The file for random access; memory-mapped where it is local."""
        if self.is_local:
            return pa.memory_map(self.file(name))
        return self.filesystem.open_input_file(self.file(name))

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.file(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        try:
            with self.filesystem.open_output_stream(self.file(name)) as stream:
                stream.write(data)
        except OSError as error:
            raise OSError(f"{self.file(name)}: cannot be written ({error})") from error

    def replace(self, name: str, data: bytes) -> None:
        """Write a file so that a reader finds the old or the new one, whole."""
        if self.is_local:
            self.write(f"{name}.new", data)
            self.filesystem.move(self.file(f"{name}.new"), self.file(name))
        else:
            self.write(name, data)

    def delete(self, name: str) -> None:
        """Remove a file that may be missing."""
        if self.filesystem.get_file_info(self.file(name)).type == pa.fs.FileType.File:
            self.filesystem.delete_file(self.file(name))

    def create(self) -> None:
        """Make the directory with its parents; object stores need none."""
        if self.is_local:
            self.directory.mkdir(parents=True, exist_ok=True)


def check_no_secret(uri: str | Path) -> None:
    """Raises DatasetError where a URI, or a text with one in it, holds a key or password, which
    would stand in every result."""
    shown, passwords = _PASSWORD.subn(r"\1...@", str(uri))
    shown, parameters = _PARAMETER.subn(r"\1...", shown)
    if passwords or parameters:
        raise DatasetError(
            f"{shown}: a key in an address would be kept with every result and every log; leave it "
            "to the environment (AWS_PROFILE, ~/.aws), or to the machine's role"
        )


def locate(uri: str | Path) -> Location:
    """The place a path or URI names (`DIR`, `file://`, `s3://`, `gs://`, any scheme of fsspec).

    Raises:
        DatasetError: a scheme that neither pyarrow nor fsspec opens, a bad address, or one with a
            password in it.
    """
    text = str(uri)
    check_no_secret(text)
    if not _SCHEME.match(text):
        return Location(text, pa.fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as refusal:
        filesystem, path = _through_fsspec(text, refusal)
    except (OSError, ImportError) as error:  # pyarrow opens hf:// with a package of its own
        raise DatasetError(f"{text}: cannot be reached ({error})") from error
    return Location(text, filesystem, path)


def within(place: str | Path, name: str) -> str:
    """The path or URI of `name` inside another; a URI's query (`?region=...`) stays at its end."""
    text = str(place)
    path, mark, query = text.partition("?") if _SCHEME.match(text) else (text, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def _through_fsspec(text: str, refusal: Exception) -> tuple[pa.fs.FileSystem, str]:
    try:
        import fsspec

        opened, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"{text}: cannot be opened, neither by pyarrow ({refusal}) nor by fsspec ({error})"
        ) from error
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(opened)), path

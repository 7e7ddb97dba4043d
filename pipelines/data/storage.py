"""A directory on the local disk or in an object store, behind one interface."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from pipelines.data.files import atomic_file
from pipelines.data.manifest import DatasetError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
# `scheme://user:password@`. Keys can contain slashes, and a port (`host:9000/a@b`) starts a path.
_PASSWORD = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#@\s]*:(?!\d+[/?#])[^?#@\s]*@")
# Secret parameters of object stores and signed URLs, such as `?sig=` or `&client_secret=`.
_PARAMETER = re.compile(
    r"([?&](?:[\w.-]*(?:secret|passw|token|signature|account_?key|access_?key|api_?key|"
    r"credential(?!_kind))[\w.-]*|sig|key|pwd)=)[^&#\s]+",
    re.IGNORECASE,
)


def expand_home(path: Path) -> Path:
    """Expand a leading `~` for files that this program makes by itself.

    Without a home directory that can be written, as in a container whose user is only a number, use
    a private folder of the temporary directory. Raises PermissionError if that is another user's.
    """
    if path.parts[:1] != ("~",):
        return path
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute() or home == Path("/") or not os.access(home, os.W_OK | os.X_OK):
        home = Path(tempfile.gettempdir()) / f"home-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        if home.stat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, "belongs to another user; set HOME", str(home))
    return home.joinpath(*path.parts[1:])


@dataclass(frozen=True)
class Location:
    """A directory that pyarrow can access.

    uri: as written by the user. path: the directory's path within `filesystem`.
    """

    uri: str
    filesystem: pa.fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pa.fs.LocalFileSystem)

    @property
    def directory(self) -> Path:
        """The local directory; valid only if `is_local`."""
        return Path(self.path)

    def file(self, name: str) -> str:
        """Return the path of file `name` within the file system."""
        return f"{self.path.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file in the directory by name; empty if it does not exist."""
        selector = pa.fs.FileSelector(self.path, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return {info.base_name: info.size for info in infos if info.type == pa.fs.FileType.File}

    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type != pa.fs.FileType.NotFound

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for random access; a local file is memory-mapped."""
        if self.is_local:
            return pa.memory_map(self.file(name))
        return self.filesystem.open_input_file(self.file(name))

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.file(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        """Write a file. Raises OSError naming the file."""
        try:
            with self.filesystem.open_output_stream(self.file(name)) as stream:
                stream.write(data)
        except OSError as error:
            raise OSError(f"{self.file(name)}: cannot be written ({error})") from error

    def replace(self, name: str, data: bytes) -> None:
        """Write or replace a file atomically. Raises OSError naming the file."""
        if not self.is_local:  # an object store replaces whole objects
            self.write(name, data)
            return
        try:
            with atomic_file(self.directory / name, sync=False) as partial:
                partial.write_bytes(data)
        except OSError as error:
            raise OSError(f"{self.file(name)}: cannot be written ({error})") from error

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        if self.filesystem.get_file_info(self.file(name)).type == pa.fs.FileType.File:
            self.filesystem.delete_file(self.file(name))

    def create(self) -> None:
        """Create the directory and its parents; object stores do not need this."""
        if self.is_local:
            self.directory.mkdir(parents=True, exist_ok=True)


def check_no_secret(uri: str | Path) -> None:
    """Check that a URI, or a text that contains one, holds no password or key.

    A secret would end up in every result.

    Raises:
        DatasetError: there is a secret; the message hides it.
    """
    redacted, passwords = _PASSWORD.subn(r"\1...@", str(uri))
    redacted, parameters = _PARAMETER.subn(r"\1...", redacted)
    if passwords or parameters:
        raise DatasetError(
            f"{redacted}: a key in a URI would be stored with every result and log. Provide it "
            "through the environment (AWS_PROFILE, ~/.aws) or the machine's role"
        )


def locate(uri: str | Path) -> Location:
    """Return the location of a path or URI (`DIR`, `file://`, `s3://`, `gs://`, any fsspec scheme).

    Raises:
        DatasetError: neither pyarrow nor fsspec can open the URI, or it contains a password or the
            character NUL.
    """
    text = str(uri)
    check_no_secret(text)
    if "\0" in text:
        raise DatasetError(f"{text!a}: a path cannot contain the character #x00; remove it")
    if not _SCHEME.match(text):
        return Location(text, pa.fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        filesystem, path = _open_with_fsspec(text, error)
    except (OSError, ImportError) as error:  # pyarrow opens hf:// with a separate package
        raise DatasetError(f"{text}: cannot be reached ({error})") from error
    return Location(text, filesystem, path)


def join_uri(base: str | Path, name: str) -> str:
    """Append `name` to a path or URI; the query of a URI (`?region=...`) stays at the end."""
    text = str(base)
    path, mark, query = text.partition("?") if _SCHEME.match(text) else (text, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def _open_with_fsspec(text: str, pyarrow_error: Exception) -> tuple[pa.fs.FileSystem, str]:
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"{text}: cannot be opened by pyarrow ({pyarrow_error}) or by fsspec ({error})"
        ) from error
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path

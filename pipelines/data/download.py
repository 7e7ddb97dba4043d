"""Download a file over HTTP: resumable, checked, and under its name only when complete."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipelines.data.files import file_digest, partial_path, sync_to_disk
from pipelines.errors import UserError

Progress = Callable[[int, int], None]

_CHUNK = 1 << 20
_SECONDS = 60.0  # without a byte from the server
_RANGE_NOT_SATISFIABLE = 416


class DownloadError(UserError):
    """A file that cannot be downloaded; the message names the address and the reason."""


def download(
    url: str, path: Path, checksum: str | None = None, progress: Progress = lambda done, total: None
) -> None:
    """Download `url` to `path`.

    An interrupted download leaves `path` with the suffix `.partial`; the next call continues it,
    if the server still has the same file (the same strong ETag or time of modification) and sends
    parts of files. Otherwise it starts again.

    checksum: expected digest, `ALGORITHM:HEXADECIMAL`, such as `md5:...`.
    progress: called with the bytes done and the total, which is 0 if the server does not send it.

    Raises:
        DownloadError: the address is not HTTP, the server refuses or breaks off, the disk is full,
            or the checksum differs; the partial file is then deleted.
    """
    if not _is_http(url):
        raise DownloadError(
            f"{shown(url)}: is not the address of a file; give one with http:// or https://"
        )
    if "@" in urlsplit(url).netloc:
        raise DownloadError(
            f"{shown(url)}: an address with a user or password is not supported; give one without"
        )
    partial = partial_path(path)
    try:
        _receive(url, partial, progress)
        if checksum is not None and digest(partial, checksum.partition(":")[0]) != checksum:
            partial.unlink()
            _state_file(partial).unlink(missing_ok=True)
            raise DownloadError(
                f"{shown(url)}: the file does not have the expected checksum {checksum}; it was "
                "deleted. Download it again, or from another address"
            )
        sync_to_disk([partial])
        os.replace(partial, path)
        _state_file(partial).unlink(missing_ok=True)
    except OSError as error:
        if error.filename is not None:
            raise
        raise DownloadError(f"{partial}: cannot be written ({error.strerror or error})") from error


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file as `ALGORITHM:HEXADECIMAL`."""
    return f"{algorithm}:{file_digest(path, algorithm)}"


def _receive(url: str, partial: Path, progress: Progress) -> None:
    """Download to `partial`, continuing it if possible. Raises DownloadError."""
    state = _state_file(partial)
    start = partial.stat().st_size if partial.exists() and state.exists() else 0
    headers = {"User-Agent": "segmentation-orchestrator", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": state.read_text(encoding="utf-8")}
    try:
        response = _open(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as error:
        with error:
            if start and error.code == _RANGE_NOT_SATISFIABLE:
                if error.headers.get("Content-Range") == f"bytes */{start}":
                    return  # interrupted between the last byte and the check
                partial.unlink()
                return _receive(url, partial, progress)
            raise DownloadError(
                f"{shown(url)}: the server answered {error.code} ({error.reason}); check the "
                "address"
            ) from error
    with response:
        expected = f"bytes {start}-"
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(expected):
            raise DownloadError(
                f"{shown(url)}: the server sent another part of the file than {expected}; delete "
                f"{partial} to start again"
            )
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else 0
        with partial.open("ab" if start else "wb") as file:
            if not start:
                _record_version(response, state)
            done = start
            for chunk in _chunks(response, url, partial):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total and done != total:
        raise _broken_off(url, partial, f"after {done} of {total} bytes")


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: odd characters
        raise DownloadError(
            f"{shown(request.full_url)}: cannot be reached ({getattr(error, 'reason', error)}); "
            "check the address and the network"
        ) from error
    return response


def _chunks(response: http.client.HTTPResponse, url: str, partial: Path) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _broken_off(url, partial, f"({error!r})") from error
        if not chunk:
            return
        yield chunk


def _broken_off(url: str, partial: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{shown(url)}: the server broke off {reason}; run the same command again to continue "
        f"{partial}"
    )


def _record_version(response: http.client.HTTPResponse, state: Path) -> None:
    """Record what identifies the server's version of the file in `If-Range`, if anything."""
    etag = response.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    version = strong or response.headers.get("Last-Modified")
    if version is None:
        state.unlink(missing_ok=True)
    else:
        state.write_text(version, encoding="utf-8")


def _state_file(partial: Path) -> Path:
    """Return the file that holds the server's version of a partial file."""
    return partial.with_name(f"{partial.name}.version")


def _is_http(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:  # a host in brackets that is no IPv6 address
        return False


def shown(url: str) -> str:
    """Return an address without the parts that may hold a password or a key."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a host in brackets that is no IPv6 address
        return url.rpartition("@")[2].partition("?")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

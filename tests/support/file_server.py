"""A local HTTP server of one file that resumes downloads, and can break off or change the file."""

import contextlib
import http.server
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.servers import serving


@dataclass
class FileServer:
    """What the server sends, and the requests it received.

    content: the file. etag: its version; None sends none. break_after: bytes of a response after
    which the connection closes; None for no limit. ranges: whether parts of the file can be
    requested. sizes: whether lengths are sent. requested: the `Range` of each request.
    """

    content: bytes
    etag: str | None = '"1"'
    break_after: int | None = None
    ranges: bool = True
    sizes: bool = True
    requested: list[str | None] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving_file(content: bytes) -> Iterator[FileServer]:
    """Run a server of one file; every path but `/missing` is the file."""
    server = FileServer(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.requested.append(wanted)
            if self.path.startswith("/missing"):
                self.send_error(404)
                return
            size = len(server.content)
            start = 0
            if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if server.sizes:
                self.send_header("Content-Length", str(size - start))
            if server.etag is not None:
                self.send_header("ETag", server.etag)
            self.end_headers()
            end = None if server.break_after is None else start + server.break_after
            self.wfile.write(server.content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        server.url = url
        yield server

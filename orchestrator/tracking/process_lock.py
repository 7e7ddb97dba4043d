"""A file that a process locks while it lives, so that others on the same machine can tell its end.

The kernel releases the lock when the process ends, however it ends. Unlike a process id, the lock
means the same in every container of the machine, and no clock affects it.
"""

import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_own: set[str] = set()  # texts of this process's locks


class ProcessLock:
    """A locked file in `directory`, from its creation to `release` or the end of the process.

    text: what `has_ended` needs: boot id, device and inode, path. It is empty if the lock cannot
    be had, for example because the file system has no locks; then `has_ended` is always False.
    """

    def __init__(self, directory: Path | None) -> None:
        self.text = ""
        self._file = None
        boot = _boot_id()
        if directory is None or not boot:
            return
        path = directory / f"{uuid.uuid4().hex[:12]}.lock"
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w")
            # Forked children do not inherit this kind of lock, unlike that of `flock`.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.text = f"{boot} {_file_id(self._file.fileno())} {path}"
            _own.add(self.text)

    def release(self, keep_file: bool = False) -> None:
        """Release the lock. keep_file: leave the file, so that others can tell that the process no
        longer holds it."""
        if self._file is not None:
            if not keep_file:
                with suppress(OSError):
                    os.unlink(self._file.name)
            self._file.close()
        _own.discard(self.text)
        self.text = ""


def has_ended(text: str, locks: Path | None = None) -> bool:
    """Whether the process that wrote `text` has certainly ended; False if that is unknown.

    locks: where the file is now if the directory in which the process made it has been moved.
    """
    boot, _, rest = text.partition(" ")
    file_id, _, path = rest.partition(" ")
    # To open and close a file of this process would release its lock.
    if text in _own or not boot or boot != _boot_id():
        return False
    return any(
        _is_unlocked(place, file_id)
        for place in (Path(path), *([locks / Path(path).name] if locks else []))
    )


def _is_unlocked(path: Path, file_id: str) -> bool:
    try:
        with path.open() as file:
            if _file_id(file.fileno()) != file_id:
                return False
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _boot_id() -> str:
    """Return what identifies the running kernel; empty if this system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _file_id(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"

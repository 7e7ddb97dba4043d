"""Whether a process has ended, by the lock on its file: real processes and namespaces."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.tracking.process_lock import ProcessLock, has_ended
from tests.support import ROOT

HOLD = """
import sys
from pathlib import Path
from orchestrator.tracking.process_lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
"""


@contextmanager
def holder(directory: Path, then: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process that holds a lock; yield it and the text of its lock."""
    script = f"{HOLD}{then}\nprint(lock.text, flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path / "locks") as (process, text):
        assert text
        assert not has_ended(text)
        process.send_signal(signal.SIGSTOP)
        assert not has_ended(text)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(text), "although nobody has asked how it ended"


def test_lock_in_a_moved_directory(tmp_path: Path) -> None:
    with holder(tmp_path / "locks") as (process, text):
        moved = (tmp_path / "locks").rename(tmp_path / "moved")
        assert not has_ended(text, moved)
        process.kill()
        process.wait()
        assert not has_ended(text)
        assert has_ended(text, moved)


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    fork = "import os, time\nif os.fork() == 0:\n    time.sleep(1); os._exit(0)"
    with holder(tmp_path, fork) as (process, text):
        assert not has_ended(text)
        process.kill()
        process.wait()
        assert has_ended(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_lock_is_seen_from_another_pid_namespace(tmp_path: Path) -> None:
    """A container on the same machine sees other process ids, but the same locks."""
    look = "import sys; from orchestrator.tracking.process_lock import has_ended as e; "
    look += "print(e(sys.argv[1]))"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", look]

    def seen_ended(text: str) -> str:
        return subprocess.check_output([*command, text], text=True, cwd=ROOT).strip()

    with holder(tmp_path) as (process, text):
        assert seen_ended(text) == "False"
        process.kill()
        process.wait()
        assert seen_ended(text) == "True"


def test_lock_of_another_machine_or_file_says_nothing(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path)
    boot, file_id, path = lock.text.split(" ")
    lock.release()
    assert not has_ended(f"{boot} {file_id} {path}")
    Path(path).touch()  # another file of the same name, which nobody has locked
    inode = Path(path).stat().st_ino
    assert not has_ended(f"{boot} {file_id.partition(':')[0]}:{inode + 1} {path}")
    assert not has_ended(f"another-boot {file_id} {path}")
    assert not has_ended("")


def test_missing_lock_directory_gives_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ProcessLock(tmp_path / "file").text == ""
    assert ProcessLock(None).text == ""


def test_file_of_a_lock_that_was_released_can_stay(tmp_path: Path) -> None:
    released = "text = lock.text\nlock.release(keep_file=True)\nlock.text = text"
    with holder(tmp_path, released) as (process, text):
        assert process.poll() is None
        assert has_ended(text)

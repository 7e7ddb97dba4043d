"""Whether the process that owns a study is still alive."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from orchestrator.tracking.claims import EXPIRED_SECONDS, Owner


def test_text_round_trip() -> None:
    owner = Owner.this_process()
    assert Owner.parse(str(owner)) == owner


@pytest.mark.parametrize("text", ["", "host", "host 12", "host twelve 3", "a b c d"])
def test_invalid_text_has_no_owner(text: str) -> None:
    assert Owner.parse(text) is None


def test_owner_on_this_host_is_checked_by_its_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = int(psutil.Process(process.pid).create_time())
    owner = Owner(Owner.this_process().host, process.pid, created)
    assert owner.may_be_alive(age=1)
    process.send_signal(signal.SIGSTOP)  # Ctrl-Z: no heartbeat, but it may continue later
    assert owner.may_be_alive(age=EXPIRED_SECONDS + 1)
    process.send_signal(signal.SIGCONT)
    process.stdin.close()  # type: ignore[union-attr]
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not owner.may_be_alive(age=1), "it is dead, though nobody has asked how it ended"
    process.wait()
    assert not owner.may_be_alive(age=1)


def test_owner_on_another_host_is_checked_by_its_heartbeat() -> None:
    owner = Owner("another-host", 1, 1)
    assert owner.may_be_alive(age=1)
    assert not owner.may_be_alive(age=EXPIRED_SECONDS + 1)


def test_process_does_not_wait_for_itself() -> None:
    assert not Owner.this_process().may_be_alive(age=0)

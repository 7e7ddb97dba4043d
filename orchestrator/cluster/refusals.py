"""Reports to the studies on the head why a cloud refuses machines, and that the autoscaler stopped.

Ray's autoscaler drops the reason. The node provider writes it to a file on the head, where the
studies' processes run, too.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestrator.cluster.autoscaler import BOOTSTRAP_CONFIG
from orchestrator.cluster.autoscaler_heartbeat import AutoscalerHeartbeat

FILE = BOOTSTRAP_CONFIG.with_name("ray_machines_refused.txt")
_POLL_SECONDS = 5.0
# The autoscaler requests refused machines again as long as trials wait for them.
_MAX_AGE_SECONDS = 900.0


def write_refusal(message: str) -> None:
    """Store the reason why machines were refused; an empty one means that they were started.

    Does nothing on a machine other than the head.
    """
    if not BOOTSTRAP_CONFIG.expanduser().exists():
        return
    if message:
        FILE.expanduser().write_text(message, encoding="utf-8")
    else:
        FILE.expanduser().unlink(missing_ok=True)


def read_refusal() -> str:
    """Return the reason of the last refusal, or an empty string if there was none recently."""
    file = FILE.expanduser()
    try:
        is_recent = time.time() - file.stat().st_mtime < _MAX_AGE_SECONDS
        return file.read_text(encoding="utf-8") if is_recent else ""
    except OSError:
        return ""


@contextmanager
def problems_reported(
    refused: Callable[[str], None], warn: Callable[[str], None]
) -> Iterator[None]:
    """Within this context, call `refused` from a thread with each new reason of a refusal, and
    `warn` when the autoscaler has stopped."""
    ended = threading.Event()
    heartbeat = AutoscalerHeartbeat()

    def poll() -> None:
        last = dict.fromkeys((refused, warn), "")
        while not ended.wait(_POLL_SECONDS):
            for report, message in ((refused, read_refusal()), (warn, heartbeat.message())):
                if message and message != last[report]:
                    report(message)
                last[report] = message

    thread = threading.Thread(target=poll, name="refusals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def refusals_shown(waiting: str, warn: Callable[[str], None]) -> AbstractContextManager[None]:
    """Within this context, `warn` of each refusal and of a stopped autoscaler. waiting: what waits
    for the machines."""

    def refused(message: str) -> None:
        warn(f"{waiting} waits for machines that were refused: {message}")

    return problems_reported(refused, warn)

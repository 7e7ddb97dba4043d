"""`python -m orchestrator.cluster.aws_preemption`: drains a spot node that AWS will reclaim.

AWS announces it two minutes ahead, in the machine's metadata service only. Ray places no new work
on a drained node, and Ray Train notifies the trials on it, which then write a checkpoint.
"""

import argparse
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import ray

METADATA = "http://169.254.169.254"
_POLL_SECONDS = 5.0
_TOKEN_SECONDS = 21600

logger = logging.getLogger("aws_preemption")


def notice_deadline(metadata: str = METADATA) -> datetime | None:
    """Return when AWS will reclaim this machine, or None if it has announced nothing.

    metadata: address of the instance metadata service (version 2).

    Raises OSError if the service does not respond.
    """
    token = _request(
        urllib.request.Request(
            f"{metadata}/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
        )
    )
    try:
        text = _request(
            urllib.request.Request(
                f"{metadata}/latest/meta-data/spot/termination-time",
                headers={"X-aws-ec2-metadata-token": token},
            )
        )
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return datetime.strptime(text.strip(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def drain(node_id: str, seconds_left: int) -> None:
    """Drain a Ray node that ends in `seconds_left`. Raises CalledProcessError if Ray refuses."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "AWS reclaims the spot machine"]
    command += ["--deadline-remaining-seconds", str(seconds_left)]
    subprocess.run(command, check=True)


def node_here() -> str:
    """Return the id of the Ray node on this machine."""
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        return str(ray.get_runtime_context().get_node_id())
    finally:
        ray.shutdown()


def watch(
    deadline: Callable[[], datetime | None],
    leave: Callable[[int], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Poll `deadline` until it returns a time, then call `leave` with the seconds left.

    Keeps polling if the metadata service does not respond, as on other clouds.
    """
    while True:
        try:
            end = deadline()
        except OSError as error:
            logger.warning("the metadata service does not respond: %s", error)
            end = None
        if end is not None:
            leave(max(0, int((end - datetime.now(UTC)).total_seconds())))
            return
        pause(_POLL_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until AWS reclaims this machine. Return the command's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.cluster.aws_preemption",
        description="Drain this machine's Ray node when AWS is about to reclaim the machine.",
    )
    parser.add_argument("--metadata", default=METADATA, help="the metadata service's address")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def leave(seconds: int) -> None:
        logger.info("AWS reclaims this machine in %d seconds", seconds)
        drain(node_here(), seconds)

    watch(lambda: notice_deadline(options.metadata), leave)
    # If it exited, systemd would restart it, and it would drain the node again.
    time.sleep(600)
    return 0


def _request(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=2) as response:
        return str(response.read().decode())


if __name__ == "__main__":
    sys.exit(main())

"""`python -m orchestrator.cluster.aws_preemption`: drains a spot node that AWS will reclaim.

AWS gives two minutes' notice in the machine's own metadata service and nowhere else. A drained node
gets no new work, and Ray Train lets the trials on it know, so that they checkpoint at once.
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
_SECONDS_BETWEEN_LOOKS = 5.0
_TOKEN_SECONDS = 21600

logger = logging.getLogger("spot_notice")


def notice_deadline(metadata: str = METADATA) -> datetime | None:
    """When this machine will be taken, or None while no notice is given.

    metadata: address of the instance metadata service (version 2). Raises OSError where it does not
    answer.
    """
    token = _ask(
        urllib.request.Request(
            f"{metadata}/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
        )
    )
    try:
        text = _ask(
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
    """Tell Ray that a node goes in `seconds_left`. Raises CalledProcessError where Ray refuses."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the spot machine is taken back"]
    command += ["--deadline-remaining-seconds", str(seconds_left)]
    subprocess.run(command, check=True)


def node_here() -> str:
    """The id of the Ray node that runs on this machine."""
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
    """Look until there is a notice, hand the seconds left to `leave`, and return.

    A metadata service that does not answer is asked again: it is not there on other clouds.
    """
    while True:
        try:
            end = deadline()
        except OSError as error:
            logger.warning("the metadata service does not answer: %s", error)
            end = None
        if end is not None:
            leave(max(0, int((end - datetime.now(UTC)).total_seconds())))
            return
        pause(_SECONDS_BETWEEN_LOOKS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until this machine is taken; returns the command's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.cluster.aws_preemption",
        description="Drain this machine's Ray node when AWS is about to take the machine.",
    )
    parser.add_argument("--metadata", default=METADATA, help="the metadata service's address")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def leave(seconds: int) -> None:
        logger.info("this machine goes in %d seconds", seconds)
        drain(node_here(), seconds)

    watch(lambda: notice_deadline(options.metadata), leave)
    # The service manager would start it again, and find the same notice.
    time.sleep(600)
    return 0


def _ask(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=2) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    sys.exit(main())

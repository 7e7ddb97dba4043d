"""A real Slurm on test hosts: one controller, a daemon on each host, and two users."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT, hosts
from tests.support.hosts import Host, start_hosts

USERS = ("alice", "bob")
_ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

# The hosts' names are not in DNS, and the users exist on the hosts only. Memory is not limited.
_CONFIG = """\
ClusterName=test
SlurmctldHost={first.name}({first.address})
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing_programs() -> str:
    """Return the requirements that this machine does not meet, or an empty string."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    return ", ".join([*filter(None, [hosts.missing_programs()]), *missing])


@dataclass(frozen=True)
class Slurm:
    """A running Slurm. nodes: its hosts; shared: folder that all of them see."""

    nodes: tuple[Host, ...]
    shared: Path

    def run(self, user: str, command: str) -> str:
        """Run a shell command on the first node, in a clean login shell of a user."""
        line = ["setpriv", f"--reuid={user}", f"--regid={hosts.FIRST_USER + USERS.index(user)}"]
        line += ["--clear-groups", "--reset-env", "bash", "-lc", f"cd && {command}"]
        process = self.nodes[0].execute(*line)
        assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"
        return process.stdout.strip()

    def submit(self, user: str, arguments: str) -> str:
        """Submit clusters/slurm.sbatch with options and arguments; return the job's ID."""
        return self.run(user, f"sbatch --parsable {arguments}")

    def log(self, user: str, job: str) -> str:
        """Return the log of a job that was submitted in the user's home folder."""
        file = self.shared / user / f"study-{job}.log"
        return file.read_text() if file.exists() else ""

    def state(self, job: str) -> str:
        """Return the state of a job, such as RUNNING."""
        shown = self.run(USERS[0], f"scontrol show job --oneliner {job}")
        return shown.partition("JobState=")[2].partition(" ")[0]

    def wait(self, job: str, seconds: float = 800) -> str:
        """Wait until a job has ended; return its final state."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) in _ACTIVE:
            assert time.monotonic() < end, f"job {job} is {state}"
            time.sleep(0.5)
        return state


@contextmanager
def start_slurm() -> Iterator[Slurm]:
    """Start Slurm with two nodes of one core each.

    The users' login shells have this Python environment, as if it was active.
    """
    with start_hosts(2, USERS) as started:
        nodes, directory = started.each, started.shared / "slurm"
        (directory / "state").mkdir(parents=True)
        config = directory / "slurm.conf"
        (directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        lines = [f"NodeName={node.name} NodeAddr={node.address} CPUs=1" for node in nodes]
        config.write_text(_CONFIG.format(first=nodes[0], directory=directory) + "\n".join(lines))
        profile = f"export SLURM_CONF={config} VIRTUAL_ENV={sys.prefix} PYTHONPATH={ROOT}\n"
        for user in USERS:
            (started.shared / user / ".bash_profile").write_text(profile)
        slurm = Slurm(nodes, started.shared)
        _start(nodes[0], f"slurmctld -f {config}")
        for node in nodes:
            (directory / node.name).mkdir()
            _start(node, f"slurmd -f {config}")
        end = time.monotonic() + 60
        while slurm.run(USERS[0], "sinfo --noheader --format=%D%t") != "2idle":
            assert time.monotonic() < end, (directory / "slurmctld.log").read_text()
            time.sleep(0.2)
        yield slurm


def _start(node: Host, command: str) -> None:
    process = node.execute(*command.split())  # it becomes a daemon
    assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"

"""Test hosts on this machine, each with its own address, processes, /tmp, home and sshd."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

NETWORK = "10.77.31"
BRIDGE = "segtest0"


def missing_programs() -> str:
    """Return the requirements that this machine does not meet, or an empty string."""
    if os.geteuid() != 0:
        return "root"
    programs = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync")
    missing = [name for name in programs if shutil.which(name) is None]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd")
    return ", ".join(missing)


@dataclass(frozen=True)
class Host:
    """One host. pid: the process that owns its namespaces; home: the login user's home folder."""

    name: str
    address: str
    pid: int
    home: Path

    def run(self, command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host, in an interactive shell like that of a login."""
        enter = ["nsenter", "--target", str(self.pid), "--all", "--wd=/"]
        return subprocess.run(
            [*enter, "env", "-i", f"HOME={self.home}", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"]
            + ["bash", "-ic", command],
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def fail(self) -> None:
        """Disconnect the host and kill all its processes."""
        subprocess.run(["ip", "link", "set", f"{self.name}-out", "down"], check=False)
        subprocess.run(
            ["nsenter", "--target", str(self.pid), "--pid", "kill", "-9", "-1"], check=False
        )


@dataclass(frozen=True)
class Hosts:
    """Several hosts. key: private key for SSH to each; shared: folder that all of them see."""

    each: tuple[Host, ...]
    key: Path
    shared: Path


@contextmanager
def start_hosts(count: int) -> Iterator[Hosts]:
    """Start `count` hosts on one bridge that this machine can reach, with a shared folder."""
    with ExitStack() as stack:
        directory = Path(
            tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp")
        )  # hosts do not see this machine's /tmp
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        key = directory / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        shared = directory / "shared"
        shared.mkdir()
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(_run, "ip", "link", "del", BRIDGE)
        _run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        started = [
            stack.enter_context(_host(index, directory, key)) for index in range(1, count + 1)
        ]
        for host in started:
            _wait_for_ssh(host, key)
        yield Hosts(tuple(started), key, shared)


@contextmanager
def _host(index: int, directory: Path, key: Path) -> Iterator[Host]:
    name, address = f"seg-h{index}", f"{NETWORK}.{10 + index}"
    root = directory / name
    home = directory / f"home-{index}"
    for folder in (root, root / "tmp", home):
        folder.mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    # The login user is root, with a separate home folder on each host.
    passwd = Path("/etc/passwd").read_text().splitlines()
    lines = [f"root:x:0:0:root:{home}:/bin/bash"] + [
        line for line in passwd if not line.startswith("root:")
    ]
    (root / "passwd").write_text("\n".join(lines) + "\n")
    shutil.copy(f"{key}.pub", root / "authorized_keys")
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / "host_key"))
    (root / "sshd_config").write_text(
        f"HostKey {root}/host_key\nAuthorizedKeysFile {root}/authorized_keys\nStrictModes no\n"
        "UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nMaxStartups 100\n"
        f"PidFile {root}/sshd.pid\nMaxSessions 100\n"
    )
    # Bind-mount the project and the environment if they are in /tmp.
    mounted = [path for path in (ROOT, Path(sys.prefix)) if path.is_relative_to("/tmp")]
    binds = "".join(f"mkdir -p {root}{path}; mount --bind {path} {root}{path};" for path in mounted)
    start = (
        f"mount --bind {root}/passwd /etc/passwd; {binds} mount --rbind {root}/tmp /tmp;"
        f"hostname {name}; mkdir -p /run/sshd; ip link set lo up;"
        f"exec /usr/sbin/sshd -D -e -f {root}/sshd_config"
    )
    _run("ip", "netns", "add", name)
    _run("ip", "link", "add", f"{name}-out", "type", "veth", "peer", "name", f"{name}-in")
    _run("ip", "link", "set", f"{name}-out", "master", BRIDGE, "up")
    _run("ip", "link", "set", f"{name}-in", "netns", name)
    _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", f"{name}-in")
    _run("ip", "-n", name, "link", "set", f"{name}-in", "up")
    # Ray gets its own address from the default route; nothing is sent over it.
    _run("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.1")
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--uts", "--fork"]
            + ["--kill-child", "--mount-proc", "--propagation", "private", "bash", "-c", start],
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        )
    try:
        yield Host(name, address, _first_child(process.pid), home)
    finally:
        process.kill()
        process.wait()
        for command in (["ip", "link", "del", f"{name}-out"], ["ip", "netns", "del", name]):
            subprocess.run(command, check=False, capture_output=True)


def _first_child(pid: int) -> int:
    """Return the process ID of the child that has PID 1 in the namespace of `unshare`."""
    for _ in range(100):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise RuntimeError(f"process {pid} started nothing")


def _wait_for_ssh(host: Host, key: Path) -> None:
    command = ["ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no"]
    command += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    for _ in range(100):
        if subprocess.run([*command, f"root@{host.address}", "true"], check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(f"{host.name} does not answer")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)

"""Test hosts on this machine, each with its own address, processes, /tmp, home and sshd."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT

FIRST_USER = 30001
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def missing_programs() -> str:
    """Return the requirements that this machine does not meet, or an empty string."""
    if os.geteuid() != 0:
        return "root"
    programs = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync")
    missing = [name for name in programs if shutil.which(name) is None]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd")
    return ", ".join(missing)


def needing(missing: str) -> list[pytest.MarkDecorator]:
    """Return the marks of tests on hosts. missing: requirements that this machine does not meet."""
    return [
        pytest.mark.slow,
        pytest.mark.timeout(1800),
        pytest.mark.skipif(bool(missing), reason=f"needs {missing}"),
    ]


@dataclass(frozen=True)
class Host:
    """One host. pid: the process that owns its namespaces; home: the login user's home folder."""

    name: str
    address: str
    pid: int
    home: Path

    def run(self, command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host, in an interactive shell like that of a login."""
        return self.execute("bash", "-ic", command, timeout=timeout)

    def execute(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on the host."""
        enter = ["nsenter", "--target", str(self.pid), "--all", "--wd=/"]
        return subprocess.run(
            [*enter, "env", "-i", f"HOME={self.home}", f"PATH={_PATH}", *command],
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
def start_hosts(count: int, users: Sequence[str] = ()) -> Iterator[Hosts]:
    """Start `count` hosts on one bridge that this machine can reach, with a shared folder.

    users: names of accounts without privileges, which all hosts have. The home of each is the
    folder of that name in the shared folder.
    """
    with ExitStack() as stack:
        directory = Path(
            tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp")
        )  # hosts do not see this machine's /tmp
        directory.chmod(0o755)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        key = directory / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        shared = directory / "shared"
        shared.mkdir()
        accounts = []
        for uid, user in enumerate(users, FIRST_USER):
            (shared / user).mkdir()
            os.chown(shared / user, uid, uid)
            accounts.append(f"{user}:x:{uid}:{uid}:{user}:{shared / user}:/bin/bash")
        number = _add_bridge()
        bridge = f"segtest{number}"
        stack.callback(_run, "ip", "link", "del", bridge)
        _run("ip", "addr", "add", f"{_network(number)}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        started = [
            stack.enter_context(_host(number, index, directory, key, accounts))
            for index in range(1, count + 1)
        ]
        for host in started:
            _wait_for_ssh(host, key)
        yield Hosts(tuple(started), key, shared)


def _network(number: int) -> str:
    return f"10.77.{31 + number}"


def _add_bridge() -> int:
    """Add a bridge; return its number, which no other test process uses."""
    for number in range(50):
        name = f"segtest{number}"
        add = ["ip", "link", "add", name, "type", "bridge"]
        if subprocess.run(add, check=False, capture_output=True).returncode == 0:
            return number
    raise RuntimeError(f"cannot add a network bridge: {shlex.join(add)}")


@contextmanager
def _host(
    number: int, index: int, directory: Path, key: Path, accounts: Sequence[str]
) -> Iterator[Host]:
    name, address = f"seg{number}-h{index}", f"{_network(number)}.{10 + index}"
    root = directory / name
    home = directory / f"home-{index}"
    for folder in (root, home):
        folder.mkdir(parents=True)
    # The login user is root, with a separate home folder on each host.
    passwd = Path("/etc/passwd").read_text().splitlines()
    lines = [f"root:x:0:0:root:{home}:/bin/bash", *accounts] + [
        line for line in passwd if not line.startswith("root:")
    ]
    (root / "passwd").write_text("\n".join(lines) + "\n")
    # Debian and Ubuntu resolve a host's own name like this.
    (root / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    shutil.copy(f"{key}.pub", root / "authorized_keys")
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / "host_key"))
    (root / "sshd_config").write_text(
        f"HostKey {root}/host_key\nAuthorizedKeysFile {root}/authorized_keys\nStrictModes no\n"
        "UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nMaxStartups 100\n"
        f"PidFile {root}/sshd.pid\nMaxSessions 100\n"
    )
    start = (
        f"mount --bind {root}/passwd /etc/passwd; mount --bind {root}/hosts /etc/hosts;"
        f"{_own_folders(root)}"
        f"hostname {name}; mkdir -p /run/sshd; ip link set lo up;"
        f"exec /usr/sbin/sshd -D -e -f {root}/sshd_config"
    )
    _run("ip", "netns", "add", name)
    _run("ip", "link", "add", f"{name}-out", "type", "veth", "peer", "name", f"{name}-in")
    _run("ip", "link", "set", f"{name}-out", "master", f"segtest{number}", "up")
    _run("ip", "link", "set", f"{name}-in", "netns", name)
    _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", f"{name}-in")
    _run("ip", "-n", name, "link", "set", f"{name}-in", "up")
    # Ray gets its own address from the default route; nothing is sent over it.
    _run("ip", "-n", name, "route", "add", "default", "via", f"{_network(number)}.1")
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--uts", "--fork"]
            + ["--kill-child", "--mount-proc", "--propagation", "private", "bash", "-c", start],
            stdout=log,
            stderr=log,
            env={"PATH": _PATH},
        )
    try:
        yield Host(name, address, _first_child(process.pid), home)
    finally:
        process.kill()
        process.wait()
        for command in (["ip", "link", "del", f"{name}-out"], ["ip", "netns", "del", name]):
            subprocess.run(command, check=False, capture_output=True)


def _own_folders(root: Path) -> str:
    """Return shell commands that give a host its own /tmp, with the project and the environment.

    Folders that only root may enter are replaced in the same way, so that other users of the host
    can read both.
    """
    needed = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    private = {
        next(folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001)
        for path in needed
        if not all(folder.stat().st_mode & 0o001 for folder in path.parents)
    }
    commands = []
    for folder in {Path("/tmp"), *private}:
        own = Path(f"{root}{folder}")
        own.mkdir(parents=True)
        own.chmod(0o1777 if folder == Path("/tmp") else 0o755)
        for path in needed:
            if path.is_relative_to(folder):
                commands.append(f"mkdir -p {root}{path}; mount --bind {path} {root}{path};")
        commands.append(f"mount --rbind {own} {folder};")
    return "".join(commands)


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

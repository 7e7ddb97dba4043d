"""What the operating system says about this process, where systems differ."""

import contextlib
import math
import os
import resource
import sys
from pathlib import Path

_RSS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20  # bytes on macOS, KiB on Linux
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_RESET_PEAK = "5"  # see proc(5), clear_refs


def cores() -> int:
    """Return the number of processor cores this process may use, at least 1.

    That is the affinity, where the system has one, and at most the quota of its control groups,
    which containers and batch systems set.
    """
    return max(1, int(min(_affinity(), _quota())))


def core_limit() -> str:
    """Return a sentence if a control group grants fewer cores than the affinity, else no text."""
    granted, available = cores(), _affinity()
    if granted == available:
        return ""
    return f"the container or batch job grants {granted} of {available} cores"


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # such as macOS


def _quota() -> float:
    """Return the cores that the control groups of this process grant, `inf` without a limit."""
    quotas = [math.inf]
    for line in _lines(_CGROUP):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / controllers
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            if controllers:  # version 1
                files = [folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"]
                words = [word for file in files for word in _lines(file)]
            else:
                words = " ".join(_lines(folder / "cpu.max")).split()
            if len(words) == 2 and words[0].isdecimal():  # "max" and -1 are no limit
                quotas.append(int(words[0]) / int(words[1]))
    return min(quotas)


def _lines(file: Path) -> list[str]:
    """Return the lines of a file, none if it cannot be read."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def peak_resident_gib() -> float:
    """The most memory this process has held, in GiB, since its start or `reset_peak_memory`."""
    lines = _lines(_STATUS)
    if not lines:  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_GIB
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) / 2**20


def reset_peak_memory() -> None:
    """Let `peak_resident_gib` start again from the memory held now. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)

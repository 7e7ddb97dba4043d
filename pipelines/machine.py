"""What the operating system says about this process, where systems differ."""

import contextlib
import os
import resource
import sys
from pathlib import Path

_RSS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20  # bytes on macOS, KiB on Linux
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # see proc(5), clear_refs


def cores() -> int:
    """Processor cores this process may use; all of the machine's where the system knows no
    affinity, such as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_gib() -> float:
    """The most memory this process has held, in GiB, since its start or `reset_peak_memory`."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_GIB
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) / 2**20


def reset_peak_memory() -> None:
    """Let `peak_resident_gib` start again from the memory held now. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)

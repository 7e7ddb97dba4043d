"""What the operating system says about this process, where systems differ."""

import os
import resource
import sys

_RSS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20  # bytes on macOS, KiB on Linux


def cores() -> int:
    """Processor cores this process may use; all of the machine's where the system knows no
    affinity, such as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_gib() -> float:
    """The most memory this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_GIB

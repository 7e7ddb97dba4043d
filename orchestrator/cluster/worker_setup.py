"""Runs in each of Ray's worker processes when it starts."""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import ray

from orchestrator.study.import_closure import PROJECT_PACKAGES


def set_up_worker() -> None:
    """Set this process's cluster address, and pin this project's packages."""
    # An actor of Ray Train asks the dashboard whether the driver of a trial is alive, and releases
    # the workers of a driver that the dashboard does not know. Without an address it asks the
    # cluster that was started last on this machine, which may be another user's.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    sys.meta_path.insert(0, PinnedPackages(*PROJECT_PACKAGES))


class PinnedPackages:
    """A finder of packages where they are found now.

    A worker's first task has Ray put the working directory of the command at the front of the path,
    where a package `models` of the user would hide this project's.
    """

    def __init__(self, *names: str) -> None:
        self._specs = {name: find_spec(name) for name in names}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's specification, as Python's finders return it."""
        return self._specs.get(name)

"""The options of a run of a study: of the command, of `orchestrator.Study`, or of a replay."""

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SweepOptions:
    """How a study runs.

    overrides: pairs of a dotted key of the study and its value as YAML. only: patterns of the names
    of the trials to run; empty runs all. storage: a directory or URI. address: of a Ray cluster, of
    its dashboard, or a cluster file; None starts a cluster on this machine. plan: train nothing.
    retry_failed, retrain_stale: train these trials too. preflight: check long studies first.
    """

    overrides: Sequence[tuple[str, str]] = ()
    only: Sequence[str] = ()
    storage: str = "storage"
    address: str | None = None
    plan: bool = False
    retry_failed: bool = False
    retrain_stale: bool = False
    preflight: bool = True

    @property
    def override_texts(self) -> list[str]:
        """Each override as `KEY=VALUE`."""
        return [f"{key}={value}" for key, value in self.overrides]

    @property
    def job_arguments(self) -> list[str]:
        """The command's arguments in a job that a cluster runs, without storage and address, which
        are others there."""
        arguments = [f"--set={text}" for text in self.override_texts]
        arguments += [f"--only={pattern}" for pattern in self.only]
        arguments += ["--plan"] if self.plan else []
        arguments += ["--retry-failed"] if self.retry_failed else []
        arguments += ["--retrain-stale"] if self.retrain_stale else []
        arguments += [] if self.preflight else ["--no-preflight"]
        return arguments


def default_address() -> str | None:
    """Return the address of the cluster that a study joins if no other is given."""
    return os.environ.get("RAY_ADDRESS")

"""Canaries of a study: a short probe before its first plan, and the rehearsal before its trials."""

import os
from collections.abc import Mapping, Sequence

from orchestrator import canary
from orchestrator.canary_gangs import sing
from orchestrator.capacity import Gang
from orchestrator.cells import Cell
from orchestrator.dispatch import job_of
from orchestrator.outlook import Outlook
from orchestrator.reconciliation import Decision
from orchestrator.setting import Setting
from orchestrator.study import Plan
from orchestrator.trial import Job


class Rehearsals:
    """Rehearses a study's experiments on the connected cluster; `outlook` learns their times."""

    def __init__(self, plan: Plan, gang: Gang, setting: Setting, outlook: Outlook) -> None:
        self._plan = plan
        self._gang = gang
        self._setting = setting
        self._outlook = outlook

    def probe(self) -> None:
        """Time a few steps of some of the study's networks."""
        self._say("nothing was timed on this device yet: a short probe, kept for the next time")
        cells = self._outlook.to_probe()
        self._outlook.learn(self._sing(cells), cells, "probe")

    def before(self, todo: Sequence[Cell], decisions: Mapping[str, Decision]) -> None:
        """Rehearse what `todo` would train, where that is worth its time.

        Raises canary.CanaryError with all that failed.
        """
        cells = self._outlook.canaries(todo, decisions)
        if not cells:
            return
        count = len(cells)
        self._say(
            f"first {count} canar{'y' if count == 1 else 'ies'}: a few steps of each different "
            "experiment (--no-canary leaves them out)"
        )
        sung = self._sing(cells)
        self._outlook.learn(sung, cells, "canary")
        canary.refuse_failures(sung, cells, self._plan.study.resources, self._gang.device)

    def _sing(self, cells: Sequence[Cell]) -> list[canary.Sung]:
        return sing(
            cells,
            self._job,
            list(self._plan.study.protocols.values()),
            self._gang.at_once,
            self._setting.storage,
            self._say,
            lambda: self._setting.stop.requested,
        )

    def _job(self, cell: Cell) -> Job:
        storage = self._setting.storage
        return job_of(cell, f"canary-{os.getpid()}", self._plan, self._gang, storage)

    def _say(self, message: str) -> None:
        self._setting.console.print(message, style="dim", highlight=False, markup=False)

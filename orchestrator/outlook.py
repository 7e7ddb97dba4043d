"""What is known of a study's times before it trains, and how more is learned."""

import os
from collections.abc import Mapping, Sequence

from orchestrator import canary, fleet
from orchestrator.capacity import Gang
from orchestrator.cells import Cell
from orchestrator.dispatch import job_of
from orchestrator.forecast import Capacity, Forecaster, StudyForecast, ranks
from orchestrator.ledger import Ledger
from orchestrator.measurements import keep, known_measurements
from orchestrator.plan import show_plan
from orchestrator.policy import Node
from orchestrator.reconciliation import Decision
from orchestrator.setting import Setting
from orchestrator.study import Plan
from orchestrator.trial import Job

# So many networks of a study say how the others will do.
_PROBED = 3


class Outlook:
    """The times of a study on the nodes at hand."""

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[Cell],
        gang: Gang,
        nodes: Sequence[Node],
        ledger: Ledger,
        setting: Setting,
    ) -> None:
        self._plan = plan
        self._cells = cells
        self._gang = gang
        self._setting = setting
        resources = plan.study.resources
        devices = resources.devices(gang.device)
        price = resources.price_per_gpu_hour if gang.device == "cuda" else None
        self._capacity = Capacity(gang.shape, devices, nodes, gang.at_once, price)
        self._device = fleet.device_name(resources, gang)
        self._measurements = known_measurements(ledger, setting.storage.here)
        self.forecaster = self._forecaster()

    @property
    def probe_would_help(self) -> bool:
        """Whether nothing was ever timed on the device, and one is there to be timed."""
        return self.forecaster.weakest.source is None and self._device != ""

    def show(self, decisions: Mapping[str, Decision]) -> None:
        """Print the plan: `--plan`."""
        standings = {name: decision.standing for name, decision in decisions.items()}
        forecast = self._forecast(decisions)
        machines = None
        if self._setting.address is not None:
            left = {t.cell.identity for t in forecast.trials if t.estimate is not None}
            machines = fleet.machines_asked_for(self._gang, len(left))
        show_plan(
            self._plan,
            standings,
            forecast,
            self.forecaster.weakest,
            self._gang,
            self._device,
            machines,
            self._setting.console,
        )

    def probe(self) -> None:
        """Time a few steps of some of the study's networks on the connected cluster: the cheapest,
        the dearest, and one between."""
        by_cost = sorted(
            canary.distinct(self._cells),
            key=lambda cell: cell.cost.gflops * cell.trial.experiment.training.batch,
        )
        chosen = {0, len(by_cost) // 2, len(by_cost) - 1}
        probed = [by_cost[index] for index in sorted(chosen)][:_PROBED]
        self._say("nothing was timed on this device yet: a short probe, kept for the next time")
        self._learn(self._sing(probed), probed, "probe")

    def canaries(self, todo: Sequence[Cell], decisions: Mapping[str, Decision]) -> None:
        """Rehearse each distinct experiment of `todo` on the connected cluster, where that is worth
        its time. What has trained an epoch already has shown that it can.

        Raises canary.CanaryError with all that failed.
        """
        proven = {
            canary.kind_of(cell)
            for cell in self._cells
            if (record := decisions[cell.trial.name].record) is not None and record.epoch > 0
        }
        cells = [cell for cell in canary.distinct(todo) if canary.kind_of(cell) not in proven]
        if not canary.worthwhile(todo, cells, self.forecaster):
            return
        count = len(cells)
        self._say(
            f"first {count} canar{'y' if count == 1 else 'ies'}: a few steps of each different "
            "experiment (--no-canary leaves them out)"
        )
        sung = self._sing(cells)
        self._learn(sung, cells, "canary")
        resources = self._plan.study.resources
        canary.refuse_failures(sung, cells, resources, self._gang.device)

    def _sing(self, cells: Sequence[Cell]) -> list[canary.Sung]:
        return canary.sing(
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

    def _learn(
        self, sung: Sequence[canary.Sung], cells: Sequence[Cell], source: canary.Source
    ) -> None:
        found = canary.measurements(sung, cells, self._plan.study.resources, source)
        keep(self._setting.storage.here, found)
        self._measurements += found
        self.forecaster = self._forecaster()

    def _forecaster(self) -> Forecaster:
        return Forecaster.of(
            self._cells,
            self._plan.study.resources,
            self._measurements,
            self._gang.device,
            self._device,
        )

    def _forecast(self, decisions: Mapping[str, Decision]) -> StudyForecast:
        todo, done = set(), {}
        for cell in self._cells:
            decision = decisions[cell.trial.name]
            if decision.action in ("train", "resume"):
                todo.add(cell.identity)
                if decision.action == "resume" and decision.record is not None:
                    done[cell.identity] = decision.record.epoch
        priority = ranks(self._plan.study, self._cells)
        return self.forecaster.study(self._cells, todo, done, priority, self._capacity)

    def _say(self, message: str) -> None:
        self._setting.console.print(message, style="dim", highlight=False, markup=False)

"""What is known of a study's times before it trains, and which canaries would tell more."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mode

from orchestrator.context import Setting
from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import Capacity, Forecaster, StudyForecast, ranks
from orchestrator.planning.measurements import keep, known_measurements
from orchestrator.planning.plan_table import show_plan
from orchestrator.planning.reconcile import Decision
from orchestrator.scheduling.capacity import Gang
from orchestrator.scheduling.devices import device_of_kind
from orchestrator.scheduling.policy import Node
from orchestrator.study.resolve import Cell
from orchestrator.study.study import Plan
from orchestrator.tracking.store import Ledger


class Outlook:
    """The times of a study on the nodes at hand.

    device: what its workers compute on, see `scheduling.devices`; empty where no machine is
    there to be asked. Then it is the one that was timed before of the kind of GPU they will lie on,
    until canaries or a probe say on what they ran.
    """

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[Cell],
        gang: Gang,
        nodes: Sequence[Node],
        device: str,
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
        self._answered = device != ""
        self._measurements = known_measurements(ledger, setting.storage.here)
        self._device = device or self._likely_device()
        self.forecaster = self._forecaster()

    @property
    def probe_would_help(self) -> bool:
        """Whether nothing was ever timed on the device, and one is there to be timed."""
        return self.forecaster.weakest.source is None and self._answered

    def show(
        self,
        decisions: Mapping[str, Decision],
        machines_for: Callable[[int], Mapping[str, int] | None],
    ) -> None:
        """Print the plan: `--plan`. machines_for: the machines that the cluster would start for so
        many trials, by kind."""
        standings = {name: decision.standing for name, decision in decisions.items()}
        forecast = self._forecast(decisions)
        left = {t.cell.identity for t in forecast.trials if t.estimate is not None}
        show_plan(
            self._plan,
            standings,
            forecast,
            self.forecaster.weakest,
            self._gang,
            self._device,
            machines_for(len(left)),
            self._setting.console,
        )

    def learn(self, measurements: Sequence[Measurement]) -> None:
        """Take in times measured just now, and keep them for later studies."""
        keep(self._setting.storage.here, measurements)
        self._measurements += measurements
        if measurements and not self._answered:
            self._device = mode(measurement.device for measurement in measurements)
        self.forecaster = self._forecaster()

    def _likely_device(self) -> str:
        """Of the GPUs that were timed the one that workers will lie on; empty where that cannot be
        told, as with several kinds of them."""
        if len(self._gang.kinds) != 1:
            return ""
        (kind,) = self._gang.kinds
        timed = (measurement.device for measurement in self._measurements)
        return device_of_kind(timed, kind, self._plan.study.resources.share(self._gang.device))

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

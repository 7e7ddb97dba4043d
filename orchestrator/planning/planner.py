"""What is known of a study's times before it trains, and which canaries would tell more."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mode

from orchestrator.context import RunContext
from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import Capacity, Forecaster, StudyForecast, ranks
from orchestrator.planning.measurements import keep
from orchestrator.planning.plan_table import show_plan
from orchestrator.planning.reconcile import Decision
from orchestrator.scheduling.capacity import Placement
from orchestrator.scheduling.devices import device_of_kind
from orchestrator.scheduling.policy import Node
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study


class Planner:
    """The times of a study on the nodes at hand.

    device: what its workers compute on, see `scheduling.devices`; empty where no machine is
    there to be asked. Then it is the one that was timed before of the kind of GPU they will lie on,
    until canaries or a probe say on what they ran.
    """

    def __init__(
        self,
        study: Study,
        trials: Sequence[ResolvedTrial],
        placement: Placement,
        nodes: Sequence[Node],
        device: str,
        measurements: Sequence[Measurement],
        context: RunContext,
    ) -> None:
        self._study = study
        self._trials = trials
        self._placement = placement
        self._context = context
        resources = study.config.resources
        devices = resources.devices(placement.device)
        price = resources.price_per_gpu_hour if placement.device == "cuda" else None
        self._capacity = Capacity(placement.shape, devices, nodes, placement.max_concurrent, price)
        self._answered = device != ""
        self._measurements = list(measurements)
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
        states = {name: decision.state for name, decision in decisions.items()}
        forecast = self._forecast(decisions)
        left = {t.trial.identity for t in forecast.trials if t.estimate is not None}
        show_plan(
            self._study,
            states,
            forecast,
            self.forecaster.weakest,
            self._placement,
            self._device,
            machines_for(len(left)),
            self._context.console,
        )

    def learn(self, measurements: Sequence[Measurement]) -> None:
        """Take in times measured just now, and keep them for later studies."""
        keep(self._context.storage.local, measurements)
        self._measurements += measurements
        if measurements and not self._answered:
            self._device = mode(measurement.device for measurement in measurements)
        self.forecaster = self._forecaster()

    def _likely_device(self) -> str:
        """Of the GPUs that were timed the one that workers will lie on; empty where that cannot be
        told, as with several kinds of them."""
        if len(self._placement.kinds) != 1:
            return ""
        (kind,) = self._placement.kinds
        timed = (measurement.device for measurement in self._measurements)
        return device_of_kind(
            timed, kind, self._study.config.resources.share(self._placement.device)
        )

    def _forecaster(self) -> Forecaster:
        return Forecaster.of(
            self._trials,
            self._study.config.resources,
            self._measurements,
            self._placement.device,
            self._device,
        )

    def _forecast(self, decisions: Mapping[str, Decision]) -> StudyForecast:
        todo, done = set(), {}
        for trial in self._trials:
            decision = decisions[trial.name]
            if decision.action in ("train", "resume"):
                todo.add(trial.identity)
                if decision.action == "resume" and decision.run is not None:
                    done[trial.identity] = decision.run.epoch
        priority = ranks(self._study.config, self._trials)
        return self.forecaster.study(self._trials, todo, done, priority, self._capacity)

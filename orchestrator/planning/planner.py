"""Estimates the training time of a study and makes its plan."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from statistics import mode

from orchestrator.context import RunContext
from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import Capacity, Forecaster, StudyForecast, priorities
from orchestrator.planning.lost_checkpoints import lost_checkpoints, lost_checkpoints_warning
from orchestrator.planning.measurements import save_measurements
from orchestrator.planning.overhead import load_overhead, preflight_seconds
from orchestrator.planning.plan import StudyPlan
from orchestrator.planning.plan_table import size_text
from orchestrator.planning.preflight_choice import spread_by_cost, untested
from orchestrator.planning.reconcile import Decision
from orchestrator.scheduling.capacity import Placement
from orchestrator.scheduling.devices import device_of_kind
from orchestrator.scheduling.launch import Launch
from orchestrator.scheduling.policy import Node
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from pipelines.wording import option

# A standard deviation of log(actual time / estimated time) from which a probe is worth its time.
_UNCERTAIN = 0.6


class Planner:
    """Estimates the times of a study on the given nodes.

    device: of the workers, named as in `scheduling.devices`; empty if no node is up to tell. It is
    then inferred: first from earlier measurements on the GPU type that the workers will get, later
    from the preflight runs or the probe.
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
        self._device_is_certain = device != ""
        self._measurements = list(measurements)
        self._device = device or self._likely_device()
        self.forecaster = self._forecaster()

    def probe_would_help(self, todo: Sequence[ResolvedTrial]) -> bool:
        """Whether a node is up, and a training that a probe would time is unlike those measured on
        its device. todo: the trials to train."""
        probed = spread_by_cost(todo, self._study.config.sample)
        return self._device_is_certain and any(
            self.forecaster.spread(trial) > _UNCERTAIN for trial in probed
        )

    def plan(
        self,
        decisions: Mapping[str, Decision],
        launch_for: Callable[[int], Launch | None],
        used_hours: float = 0.0,
    ) -> StudyPlan:
        """Return the plan, which `--plan` prints.

        launch_for: given a number of trials, returns the machines that the cluster would start for
        them; None if it does not grow. used_hours: GPU-hours (or CPU worker-hours) that the study
        has used.
        """
        states = {name: decision.state for name, decision in decisions.items()}
        folder = self._context.storage.trials
        lost = lost_checkpoints(decisions, folder)
        forecast = self._forecast(decisions, lost)
        todo = {t.trial.identity: t.trial for t in forecast.trials if t.estimate is not None}
        overhead = load_overhead(self._context.storage.local, self._study.config.study)
        if self._context.preflight:
            remaining = list(todo.values())
            chosen = untested(remaining, self._trials, decisions, self._study.config.sample)
            seconds = preflight_seconds(
                remaining, chosen, self.forecaster, self._placement.concurrent
            )
            overhead = replace(overhead, preflight=seconds)
        return StudyPlan(
            self._study,
            states,
            forecast,
            self.forecaster.weakest,
            overhead,
            self._placement,
            self._device,
            launch_for(len(todo)),
            self.disk_shortage(decisions),
            lost_checkpoints_warning(lost, folder),
            used_hours,
        )

    def disk_shortage(self, decisions: Mapping[str, Decision]) -> str:
        """Return a warning if the disk of the storage is too small for the trials to train."""
        storage = self._context.storage
        available = storage.free_bytes
        needed = self._forecast(decisions).disk
        if available is None or available >= needed:
            return ""
        return (
            f"the trials to train need about {size_text(needed)}, but the disk of "
            f"{storage.local} has {size_text(available)} left; make room, or use another "
            f"{option('storage')}"
        )

    def learn(self, measurements: Sequence[Measurement]) -> None:
        """Update the estimates with new measurements, and save those for later studies."""
        save_measurements(self._context.storage.local, measurements)
        self._measurements += measurements
        if measurements and not self._device_is_certain:
            self._device = mode(measurement.device for measurement in measurements)
        self.forecaster = self._forecaster()

    def _likely_device(self) -> str:
        """Return the measured device that the workers will probably get; empty if ambiguous."""
        if len(self._placement.gpu_types) != 1:
            return ""
        (gpu_type,) = self._placement.gpu_types
        devices = (measurement.device for measurement in self._measurements)
        share = self._study.config.resources.share(self._placement.device)
        return device_of_kind(devices, gpu_type, share)

    def _forecaster(self) -> Forecaster:
        return Forecaster.of(
            self._trials,
            self._study.config.resources,
            self._measurements,
            self._placement.device,
            self._device,
        )

    def _forecast(
        self, decisions: Mapping[str, Decision], lost: Collection[str] = ()
    ) -> StudyForecast:
        """lost: names of the trials to resume whose checkpoints are gone."""
        todo, done = set(), {}
        for trial in self._trials:
            decision = decisions[trial.name]
            if decision.action in ("train", "resume"):
                todo.add(trial.identity)
                resumes = decision.action == "resume" and trial.name not in lost
                if resumes and decision.run is not None:
                    done[trial.identity] = decision.run.epoch
        priority = priorities(self._study.config, self._trials)
        return self.forecaster.study(self._trials, todo, done, priority, self._capacity)

"""The plan of a study: what its command would do, in what time and at what cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planning.estimate import Calibration, Estimate
from orchestrator.planning.forecast import StudyForecast
from orchestrator.planning.overhead import Overhead
from orchestrator.scheduling.capacity import Placement
from orchestrator.scheduling.launch import Launch
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study.

    states: by trial name.
    calibration: the source of the times.
    overhead: of the command that trains the study; part of its wall time.
    device: of the calibration; empty if unknown.
    launch: the machines that the cluster would start; None if it does not grow.
    shortage: a warning if the disk is too small.
    lost_checkpoints: a warning if interrupted trials have none.
    used_hours: GPU-hours (or CPU worker-hours) that the study has used.
    to_score: number of scores of finished trials that the command would add.
    """

    study: Study
    states: Mapping[str, TrialState]
    forecast: StudyForecast
    calibration: Calibration
    overhead: Overhead
    placement: Placement
    device: str
    launch: Launch | None
    shortage: str = ""
    lost_checkpoints: str = ""
    used_hours: float = 0.0
    to_score: int = 0

    @property
    def has_obstacle(self) -> bool:
        """Whether it is known that the cluster cannot start the machines."""
        return self.launch is not None and bool(self.launch.obstacles)

    @property
    def wall(self) -> Estimate:
        """Seconds that the whole command takes; 0 if there is nothing to train."""
        idle = all(trial.estimate is None for trial in self.forecast.trials)
        return self.forecast.wall if idle else self.forecast.wall.plus(self.overhead.seconds)

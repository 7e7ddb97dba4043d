"""Ray Train driven from the process of a Tune trial, with no process between the two."""

import asyncio
from typing import Any

from ray import tune
from ray.train import Checkpoint, Result, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController

from orchestrator.elasticity import AtCheckpoint, RangeOfWorkers
from orchestrator.failures import check_trial
from orchestrator.worker import RUN


class TrialTrainer(TorchTrainer):
    """A trainer whose controller runs in this process, not in an actor of its own.

    The process of a Tune trial does nothing else but wait for it, and the two live and die together
    either way. It spares each trial the start of two processes: the controller's, and the one of
    the queue through which an actor would send its reports here.

    takes_all: whether a range of workers starts with what lies idle, see `RangeOfWorkers`.
    """

    def __init__(self, *arguments: Any, takes_all: bool = False, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._takes_all = takes_all

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        scaling = self.scaling_config
        if scaling.elasticity_enabled:
            at_checkpoint = AtCheckpoint()
            self.run_config.callbacks.append(at_checkpoint)
            settings["callbacks"] = self._create_default_callbacks()
            settings["scaling_policy"] = RangeOfWorkers(scaling, self._takes_all, at_checkpoint)
        controller = TrainController(**settings)
        try:
            asyncio.run(controller.run())
        finally:
            # Tune stops a trial by SystemExit within a report.
            if controller.get_worker_group() is not None:
                controller.get_worker_group().abort()
        return controller.get_result()


class ReportToTune(UserCallback):
    """Hands what rank 0 reported on to Tune, which may stop the trial there.

    Raises WrongTrialError where a report is that of another trial's worker.
    """

    def after_report(
        self,
        run_context: TrainRunContext,
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,
    ) -> None:
        for reported in metrics:
            check_trial(run_context.run_config.name, reported[RUN])
        tune.report(metrics[0])

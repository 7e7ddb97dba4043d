"""Canaries: before a fleet of long trials starts, each distinct experiment is rehearsed.

Which experiments that are, whether it is worth the time, and what their ends say. What fails in a
canary would have failed hours later.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.context import Setting
from orchestrator.planning.estimate import Measurement, Source
from orchestrator.planning.forecast import Forecaster, passes, workload
from orchestrator.planning.planner import Outlook
from orchestrator.planning.reconcile import Decision
from orchestrator.preflight.advice import advise
from orchestrator.preflight.run import Sung, sing
from orchestrator.preflight.worker import STEPS
from orchestrator.scheduling.capacity import Gang
from orchestrator.study.resolve import Cell
from orchestrator.study.resources import Resources
from orchestrator.study.study import Plan
from orchestrator.training.job import Job, job_of
from pipelines.errors import UserError
from pipelines.training.optimization import TrainingConfig

# A study shorter than so many of its canaries shows its mistakes soon enough by itself.
_WORTHWHILE = 10

# Settings of the recipe that change neither memory nor shapes nor speed.
_FREE = ("epochs", "learning_rate", "momentum", "weight_decay", "schedule", "power", "schedule_by",
         "warmup_steps")  # fmt: skip


class CanaryError(UserError, ValueError):
    """Experiments of a study that cannot be trained; one paragraph for each."""


def kind_of(cell: Cell) -> tuple[str, str]:
    """Equal for cells that one canary can stand for: those that differ in seed or schedule only."""
    experiment, defaults = cell.trial.experiment, TrainingConfig()
    fixed = {name: getattr(defaults, name) for name in _FREE}
    plain = replace(experiment, seed=0, training=replace(experiment.training, **fixed))
    return repr(plain), cell.location


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """One cell of each kind."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        found.setdefault(kind_of(cell), cell)
    return list(found.values())


def spread_by_cost(cells: Sequence[Cell]) -> list[Cell]:
    """Of the distinct cells the cheapest, the dearest, and one between."""
    by_cost = sorted(
        distinct(cells), key=lambda cell: cell.cost.gflops * cell.trial.experiment.training.batch
    )
    chosen = {0, len(by_cost) // 2, len(by_cost) - 1}
    return [by_cost[index] for index in sorted(chosen)]


def untried(
    todo: Sequence[Cell], cells: Sequence[Cell], decisions: Mapping[str, Decision]
) -> list[Cell]:
    """One cell of each kind of `todo` of which no cell of the study has trained an epoch yet."""
    proven = {
        kind_of(cell)
        for cell in cells
        if (record := decisions[cell.trial.name].record) is not None and record.epoch > 0
    }
    return [cell for cell in distinct(todo) if kind_of(cell) not in proven]


def worthwhile(todo: Sequence[Cell], canaries: Sequence[Cell], forecaster: Forecaster) -> bool:
    """Whether the trials take more than ten times as long as their canaries would."""
    if not canaries:
        return False
    trials = sum(forecaster.trial(cell).seconds for cell in todo)
    return trials > _WORTHWHILE * sum(forecaster.steps(cell, 2 * STEPS) for cell in canaries)


def measurements(
    sung: Sequence[Sung], cells: Sequence[Cell], resources: Resources, source: Source
) -> list[Measurement]:
    """The times of the canaries that came back, for later estimates."""
    by_name = {cell.trial.name: cell for cell in cells}
    found = []
    for each in sung:
        if each.rehearsed is None:
            continue
        cell = by_name[each.name]
        experiment, load = cell.trial.experiment, workload(by_name[each.name], resources)
        validation = each.rehearsed.validation
        if validation is not None:
            validation *= load.evaluated_megapixels / passes(experiment.evaluation)
        found.append(
            Measurement(
                load,
                each.device,
                experiment.training.precision,
                source,
                each.rehearsed.step,
                validation,
                each.start,
            )
        )
    return found


def refuse_failures(
    sung: Sequence[Sung], cells: Sequence[Cell], resources: Resources, kind: str
) -> None:
    """Raise CanaryError with every problem, the experiment it is of, and what would help."""
    by_name = {cell.trial.name: cell for cell in cells}
    problems = []
    for each in sung:
        if each.rehearsed is None:
            experiment = by_name[each.name].trial.experiment
            helps = advise(each.cause, each.stage, experiment, resources, kind)
            stage = f" in {each.stage}" if each.stage else ""
            problems.append(
                f"{each.name}: {each.cause}{stage}: {each.message}\n  what would help: {helps}"
            )
    if problems:
        raise CanaryError(
            "\n".join(problems)
            + "\nNothing was trained. Mend this, choose other trials with --only, or go on "
            "regardless with --no-canary."
        )


class Rehearsals:
    """Rehearses a study's experiments on the connected cluster; `outlook` learns their times."""

    def __init__(
        self, plan: Plan, cells: Sequence[Cell], gang: Gang, setting: Setting, outlook: Outlook
    ) -> None:
        self._plan = plan
        self._cells = cells
        self._gang = gang
        self._setting = setting
        self._outlook = outlook

    def probe(self) -> None:
        """Time a few steps of some of the study's networks."""
        self._say("nothing was timed on this device yet: a short probe, kept for the next time")
        cells = spread_by_cost(self._cells)
        self._learn(self._sing(cells), cells, "probe")

    def before(self, todo: Sequence[Cell], decisions: Mapping[str, Decision]) -> None:
        """Rehearse what `todo` would train, where that is worth its time.

        Raises CanaryError with all that failed.
        """
        cells = untried(todo, self._cells, decisions)
        if not worthwhile(todo, cells, self._outlook.forecaster):
            return
        count = len(cells)
        self._say(
            f"first {count} canar{'y' if count == 1 else 'ies'}: a few steps of each different "
            "experiment (--no-canary leaves them out)"
        )
        sung = self._sing(cells)
        self._learn(sung, cells, "canary")
        refuse_failures(sung, cells, self._plan.study.resources, self._gang.device)

    def _learn(self, sung: Sequence[Sung], cells: Sequence[Cell], source: Source) -> None:
        self._outlook.learn(measurements(sung, cells, self._plan.study.resources, source))

    def _sing(self, cells: Sequence[Cell]) -> list[Sung]:
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

"""Canaries: before a fleet of long trials starts, each distinct experiment is rehearsed.

Which experiments that are, whether it is worth the time, and what their ends say. What fails in a
canary would have failed hours later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.advice import advise
from orchestrator.cells import Cell
from orchestrator.estimate import Measurement, Source
from orchestrator.failures import Cause
from orchestrator.forecast import Forecaster, passes, workload
from orchestrator.resources import Resources
from pipelines.optimization import TrainingConfig

STEPS = 6  # of a rehearsal
# A study shorter than so many of its canaries shows its mistakes soon enough by itself.
_WORTHWHILE = 10
# Settings of the recipe that change neither memory nor shapes nor speed.
_FREE = ("epochs", "learning_rate", "momentum", "weight_decay", "schedule", "power", "schedule_by",
         "warmup_steps")  # fmt: skip


class CanaryError(ValueError):
    """Experiments of a study that cannot be trained; one paragraph for each."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal took. step: seconds of an optimizer step; validation: seconds for a
    megapixel of pictures over all workers, None without a validation split; preparing: seconds
    before the first step; whole: seconds from first to last; memory_gib: peak on the device (of
    the process on a CPU)."""

    step: float
    validation: float | None
    preparing: float
    whole: float
    memory_gib: float


@dataclass(frozen=True)
class Sung:
    """A canary's end. rehearsed: None where it failed, by `cause`, with `message`, at `stage`."""

    name: str
    rehearsed: Rehearsed | None
    start: float = 0.0
    device: str = ""
    cause: Cause = "error"
    message: str = ""
    stage: str = ""


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

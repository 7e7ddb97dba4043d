"""The figures of a study, drawn in a process of its own when the study ends, kept with its run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from models import FENetConfig
from orchestrator.context import RunContext
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun, has_figure, keep_figure

KINDS = ("comparison", "features")
_SECONDS = 300


def draw_study_figures(
    study: Study,
    trials: Sequence[ResolvedTrial],
    finished: Mapping[str, TrialRun],
    study_run: StudyRun,
    context: RunContext,
) -> None:
    """Draw `comparison` and `features` of finished trials and keep them under `figures/`.

    What is there already is not drawn again. A figure that cannot be drawn costs a line of warning
    and nothing else. finished: by the trial's name.
    """
    if context.stop.requested:
        return  # whoever asked to stop does not want to wait
    try:
        _draw(figure_commands(study, trials, finished), study_run, context)
    except Exception as error:  # the study's results stand without its figures
        _warn(context.console, f"the study's figures could not be drawn: {error}")


def _draw(commands: Mapping[str, Sequence[str]], study_run: StudyRun, context: RunContext) -> None:
    with tempfile.TemporaryDirectory(prefix="figures-") as temporary:
        drawing = {}
        for kind, arguments in commands.items():
            if has_figure(study_run, kind, arguments):
                continue
            folder = Path(temporary) / kind
            folder.mkdir()
            drawing[kind] = _start(
                [*arguments, *_outputs(folder, kind)], study_run.store.tracking_uri
            )
        for kind, process in drawing.items():
            said = _wait(process)
            if process.returncode == 0:
                keep_figure(study_run, kind, commands[kind], Path(temporary) / kind)
            else:
                _warn(context.console, f"the figure {kind} could not be drawn: {said}")


def figure_commands(
    study: Study, trials: Sequence[ResolvedTrial], finished: Mapping[str, TrialRun]
) -> dict[str, list[str]]:
    """By kind, the arguments of `orchestrator.figures`, without where the figure goes.

    `comparison`: `compare_to` against the last variant, in the first seed and place in the grid in
    which both are finished. `features`: the last finished row with both flows.
    """
    wanted = KINDS if study.config.report.figures is None else study.config.report.figures
    done = [trial for trial in trials if trial.name in finished]
    commands = {}
    pair = _pair(study, done)
    if "comparison" in wanted and pair is not None:
        models = [_model(finished[trial.name]) for trial in pair]
        names = [trial.label for trial in pair]
        commands["comparison"] = ["compare", *models, "--names", *names, *_places(study, pair[0])]
    flowing = [trial for trial in done if _has_flows(trial)]
    if "features" in wanted and flowing:
        variant = flowing[-1].variant
        trial = next(trial for trial in flowing if trial.variant == variant)
        model = _model(finished[trial.name])
        name = trial.label
        commands["features"] = ["features", model, "--name", name, *_places(study, trial)]
    return commands


def _pair(
    study: Study, done: Sequence[ResolvedTrial]
) -> tuple[ResolvedTrial, ResolvedTrial] | None:
    """The trials to compare: of the same data, seed and place in the grid."""
    order = list(dict.fromkeys(trial.variant for trial in study.trials))
    reference = study.config.compare_to
    others = [variant for variant in reversed(order) if variant != reference]
    for variant in others:
        for second in done:
            if second.variant != variant:
                continue
            for first in done:
                alike = (
                    first.variant == reference
                    and first.axes == second.axes
                    and first.experiment.seed == second.experiment.seed
                    and first.location == second.location
                    and first.identity != second.identity
                )
                if alike and second.experiment.data.validation_split is not None:
                    return first, second
    return None


def _has_flows(trial: ResolvedTrial) -> bool:
    experiment = trial.experiment
    model = experiment.model
    flows = model.flows if isinstance(model, FENetConfig) else ()
    return {"detail", "semantic"} <= set(flows) and experiment.data.validation_split is not None


def _model(record: TrialRun) -> str:
    return f"runs:/{record.run_id}/last"


def _places(study: Study, trial: ResolvedTrial) -> list[str]:
    split = trial.experiment.data.validation_split
    imports = [part for name in study.config.imports for part in ("--import", name)]
    return ["--dataset", str(trial.location), "--split", str(split), *imports]


def _outputs(folder: Path, kind: str) -> list[str]:
    return [part for suffix in ("png", "pdf") for part in ("--out", f"{folder / kind}.{suffix}")]


def _start(arguments: Sequence[str], tracking_uri: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.figures", *arguments],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": tracking_uri,
            # It finds modules where this process does, with no directory before them.
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONSAFEPATH": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait(process: subprocess.Popen[str]) -> str:
    """The last line that the process said."""
    try:
        said, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"it took more than {_SECONDS} s"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {process.returncode}"


def _warn(console: Console, message: str) -> None:
    console.print(f"[yellow]warning[/]  {message}", highlight=False, soft_wrap=True)

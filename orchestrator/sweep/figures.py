"""Draws a study's figures in separate processes when the study ends; stores them with its run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from models import FENetConfig
from orchestrator.console import say, warn
from orchestrator.context import RunContext
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun, has_figure, keep_figure
from pipelines.evaluation.config import InferenceConfig

KINDS = ("comparison", "features")
_TIMEOUT_SECONDS = 300


def draw_study_figures(
    study: Study,
    trials: Sequence[ResolvedTrial],
    finished: Mapping[str, TrialRun],
    study_run: StudyRun,
    context: RunContext,
) -> None:
    """Draw `comparison` and `features` of finished trials and store them under `figures/`.

    Figures that are up to date are not drawn again. A figure that cannot be drawn causes only a
    warning. finished: runs by trial name.
    """
    if context.stop.requested:
        return  # do not make the user wait
    try:
        _draw(figure_commands(study, trials, finished), study_run, context)
    except Exception as error:  # the study's results do not depend on its figures
        warn(context.console, f"the study's figures could not be drawn: {error}")


def _draw(commands: Mapping[str, Sequence[str]], study_run: StudyRun, context: RunContext) -> None:
    with tempfile.TemporaryDirectory(prefix="figures-") as temporary:
        processes = {}
        for kind, arguments in commands.items():
            if has_figure(study_run, kind, arguments):
                continue
            say(context.console, f"drawing figure {kind!r}", style="dim")
            folder = Path(temporary) / kind
            folder.mkdir()
            processes[kind] = _start(
                [*arguments, *_outputs(folder, kind)], study_run.store.tracking_uri
            )
        for kind, process in processes.items():
            message = _wait(process)
            if process.returncode == 0:
                keep_figure(study_run, kind, commands[kind], Path(temporary) / kind)
            else:
                warn(context.console, f"figure {kind!r} could not be drawn: {message}")


def figure_commands(
    study: Study, trials: Sequence[ResolvedTrial], finished: Mapping[str, TrialRun]
) -> dict[str, list[str]]:
    """Return the arguments of `orchestrator.figures` by kind of figure, without `--out`.

    `comparison`: `compare_to` against the last variant, for the first grid values for which both
    are finished with the same seeds. Images are selected and scored by the mean over these seeds,
    under the table's protocol; the seed that is drawn is the one with the difference closest to the
    mean difference. With folds, these are the seeds of its fold. `features`: the last finished
    variant with both flows.
    """
    kinds = KINDS if study.config.report.figures is None else study.config.report.figures
    done = [trial for trial in trials if trial.name in finished]
    commands = {}
    pairs = _trials_to_compare(study, done)
    if "comparison" in kinds and pairs:
        drawn = _typical(study, pairs, finished)
        models = [_model_uri(finished[trial.name]) for trial in drawn]
        names = [trial.label for trial in drawn]
        others = [
            part
            for pair in pairs
            if pair is not drawn and _split(study, pair[0]) == _split(study, drawn[0])
            for option, trial in zip(("--seed-of-a", "--seed-of-b"), pair, strict=True)
            for part in (option, _model_uri(finished[trial.name]))
        ]
        data = [*_data_arguments(study, drawn[0]), *_inference_arguments(study, drawn[0])]
        commands["comparison"] = ["compare", *models, "--names", *names, *others, *data]
    with_flows = [t for t in done if _has_flows(t) and _split(study, t) is not None]
    if "features" in kinds and with_flows:
        variant = with_flows[-1].variant
        trial = next(trial for trial in with_flows if trial.variant == variant)
        model = _model_uri(finished[trial.name])
        data = _data_arguments(study, trial)
        commands["features"] = ["features", model, "--name", trial.label, *data]
    return commands


def _trials_to_compare(
    study: Study, done: Sequence[ResolvedTrial]
) -> list[tuple[ResolvedTrial, ResolvedTrial]]:
    """Return pairs of trials with the same data, grid values, seed and fold: `compare_to` and
    another variant, one pair for each seed and fold; empty if there is none, and for a search that
    samples, whose trials of one seed differ in more than the variant."""
    if study.config.sampling is not None:
        return []
    variants = list(dict.fromkeys(trial.variant for trial in study.trials))
    reference = study.config.compare_to
    others = [variant for variant in reversed(variants) if variant != reference]
    for variant in others:
        pairs = [
            (first, second)
            for second in done
            for first in done
            if (first.variant, second.variant) == (reference, variant)
            and first.axes == second.axes
            and first.repetition == second.repetition
            and first.location == second.location
            and first.identity != second.identity
            and _split(study, second) is not None
        ]
        if pairs:
            return [pair for pair in pairs if pair[0].axes == pairs[0][0].axes]
    return []


def _typical(
    study: Study,
    pairs: Sequence[tuple[ResolvedTrial, ResolvedTrial]],
    finished: Mapping[str, TrialRun],
) -> tuple[ResolvedTrial, ResolvedTrial]:
    """Return the pair with the difference of scores closest to the mean difference; the first one
    if they are not scored yet."""
    protocol = study.config.report.protocol
    metric = "val/miou" if protocol is None else f"eval/{protocol}/miou"

    def score(trial: ResolvedTrial) -> float:
        return finished[trial.name].metrics.get(metric, 0.0)

    differences = [score(second) - score(first) for first, second in pairs]
    mean = fmean(differences)
    return min(zip(pairs, differences, strict=True), key=lambda entry: abs(entry[1] - mean))[0]


def _inference_arguments(study: Study, trial: ResolvedTrial) -> list[str]:
    """Return the options of the inference protocol under which the table scores the trial."""
    protocol = study.config.report.protocol
    config: InferenceConfig = trial.experiment.evaluation
    if protocol is not None:
        config = study.config.protocols[protocol]
    arguments = ["--flip"] if config.flip else []
    if config.scales != InferenceConfig().scales:
        arguments += ["--scales", ",".join(map(str, config.scales))]
    for option, size in (("--window", config.window), ("--stride", config.stride)):
        if size is not None:
            arguments += [option, "x".join(map(str, size))]
    return arguments


def _has_flows(trial: ResolvedTrial) -> bool:
    model = trial.experiment.model
    flows = model.flows if isinstance(model, FENetConfig) else ()
    return {"detail", "semantic"} <= set(flows)


def _model_uri(run: TrialRun) -> str:
    return f"runs:/{run.run_id}/last"


def _split(study: Study, trial: ResolvedTrial) -> str | None:
    """Return the split that the table's score is of."""
    validation_split = trial.experiment.data.validation_split
    return study.config.scored_split(study.config.report.protocol, validation_split)


def _data_arguments(study: Study, trial: ResolvedTrial) -> list[str]:
    split = _split(study, trial)
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
    """Wait for the process; return the last line of its output."""
    try:
        output, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"it took more than {_TIMEOUT_SECONDS} s"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {process.returncode}"

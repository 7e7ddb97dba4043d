"""The text on MLflow's pages: run names, and descriptions in markdown."""

from collections.abc import Mapping
from typing import Any

from orchestrator.study.repetition import repetition_text
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.mlflow_view import run_path, runs_path
from orchestrator.tracking.runs import RunStatus, TrialRun
from pipelines.config import dump_yaml
from pipelines.network.config import NetworkConfig

_SEPARATOR = "\n\n---\n"  # between a description and how the run ended
_MAX_LENGTH = 7500  # MLflow truncates tags at 8000 characters


def run_name(trial: ResolvedTrial) -> str:
    """Return variant, backbone, data set, other axes, sample, seed and fold, such as `fenet,
    dfnet1, streets, seed 0`."""
    experiment = trial.experiment
    model = experiment.model
    if isinstance(model, NetworkConfig):
        network = model.network.rpartition(":")[2]
    else:
        network = model.backbone
    already_named = ("model.backbone", "data.dataset")
    others = [
        f"{axis.rpartition('.')[2]} {value}"
        for axis, value in trial.axes.items()
        if axis not in already_named
    ]
    parts = [trial.variant, network, trial.dataset.manifest.name, *others]
    if trial.sample is not None:
        parts.append(trial.sample.name)
    return ", ".join([*parts, repetition_text(trial.repetition)])


def trial_note(
    trial: ResolvedTrial, study: Study, run_ids: Mapping[str, tuple[str, str]], experiment_id: str
) -> str:
    """Describe a trial for the page of its run. run_ids: experiment id and run id by trial name, of
    the study's trials that have a run."""
    lines = [
        f"**{trial.label}**" + (f" (`{trial.variant}`)" if trial.label != trial.variant else "")
    ]
    changes = study.config.variants[trial.variant].set
    if changes:
        lines.append(f"Changes to the base:\n\n```yaml\n{_yaml(changes)}```")
    if trial.axes:
        lines.append(f"Grid values:\n\n```yaml\n{_yaml(trial.axes)}```")
    if trial.sample is not None:
        lines.append(
            f"{trial.sample.name.capitalize()}:\n\n```yaml\n{_yaml(trial.sample.values)}```"
        )
    compared_to = _compared_to(trial, study)
    if compared_to is not None:
        linked = compared_to in run_ids
        name = _link(compared_to, *run_ids[compared_to]) if linked else compared_to
        lines.append(f"Compared with {name}.")
    lines.append(
        f"Study {_study_link(study.config.study, experiment_id)}, identity `{trial.identity[:16]}`"
    )
    return "\n\n".join(lines)


def link_note(run: TrialRun) -> str:
    """Describe a row that refers to a run of another study, or to a run with another name."""
    return (
        f"Trained as {_link(run.name, run.experiment_id, run.run_id)} in study "
        f"{_study_link(run.study, run.experiment_id)}, because both define the same training. "
        "This row repeats that run's final metrics; its curves, weights and images are there."
    )


def with_outcome(note: str, outcome: str) -> str:
    """Replace the last part of `note`, which says how the run ended."""
    stem = note.split(_SEPARATOR)[0]
    return f"{stem}{_SEPARATOR}{outcome}" if outcome else stem


def outcome_note(status: RunStatus, reason: str, started: bool = True) -> str:
    """Return how a run ended, for its description; empty if it finished. started: whether its
    training ever started."""
    names = {"FAILED": "Failed", "KILLED": "Interrupted" if started else "Not started"}
    return f"**{names[status]}**: {reason}" if status in names and reason else ""


def study_note(study: Study, table: str, parent_id: str, experiment_id: str) -> str:
    """Return the study's description and table, truncated at a line to the length MLflow keeps."""
    text = f"{study.config.description.strip()}\n\n{table.strip()}\n"
    page = run_path(experiment_id, parent_id, "/artifacts")
    link = f"\n[Study file, table and report]({page})\n"
    limit = _MAX_LENGTH - len(link)
    if len(text) > limit:
        text = text[:limit].rpartition("\n")[0] + "\n\n(truncated)\n"
    return text + link


def _compared_to(trial: ResolvedTrial, study: Study) -> str | None:
    """Return the name of the trial that this one is compared to: of the same grid values, seed
    and fold, if any."""
    variant = study.config.compared_to(trial.variant)
    for other in study.trials:
        same = (
            other.axes == trial.axes
            and other.sample == trial.sample
            and other.repetition == trial.repetition
        )
        if same and other.variant == variant:
            return other.name
    return None


def _link(name: str, experiment_id: str, run_id: str) -> str:
    return f"[{name}]({run_path(experiment_id, run_id)})"


def _study_link(name: str, experiment_id: str) -> str:
    return f"[{name}]({runs_path(experiment_id)})"


def _yaml(tree: Mapping[str, Any]) -> str:
    return dump_yaml(dict(tree), width=90, flow_lists=True)

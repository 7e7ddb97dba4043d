"""What MLflow's pages say in words: names of runs, and descriptions in markdown."""

from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.runs import RunStatus, TrialRun
from pipelines.network.build import NetworkConfig

_STATE = "\n\n---\n"
_LONGEST = 7500  # MLflow cuts tags at 8000 characters


def run_name(trial: ResolvedTrial) -> str:
    """Variant, backbone, data set, other axes and seed: `fenet, dfnet1, streets, seed 0`."""
    experiment = trial.experiment
    model = experiment.model
    if isinstance(model, NetworkConfig):
        network = model.network.rpartition(":")[2]
    else:
        network = model.backbone
    shown = ("model.backbone", "data.dataset")
    others = [
        f"{axis.rpartition('.')[2]} {value}"
        for axis, value in trial.axes.items()
        if axis not in shown
    ]
    parts = [trial.variant, network, trial.dataset.manifest.name, *others]
    return ", ".join([*parts, f"seed {experiment.seed}"])


def trial_note(
    trial: ResolvedTrial, study: Study, places: Mapping[str, tuple[str, str]], experiment_id: str
) -> str:
    """What a trial is, for the page of its run. places: experiment and run of the study's trials,
    by trial name, as far as there are any."""
    lines = [
        f"**{trial.label}**" + (f" (`{trial.variant}`)" if trial.label != trial.variant else "")
    ]
    asked = study.config.variants[trial.variant].set
    if asked:
        lines.append(f"Sets over the base:\n\n```yaml\n{_yaml(asked)}```")
    if trial.axes:
        lines.append(f"Cell of the grid:\n\n```yaml\n{_yaml(trial.axes)}```")
    base = _counterpart(trial, study)
    if base is not None:
        lines.append(f"Compared with {_link(base, *places[base]) if base in places else base}.")
    lines.append(
        f"Study {_study_link(study.config.study, experiment_id)}, identity `{trial.identity[:16]}`"
    )
    return "\n\n".join(lines)


def link_note(record: TrialRun) -> str:
    """For a row that stands for a run of another study, or of another name."""
    return (
        f"Trained as {_link(record.name, record.experiment_id, record.run_id)} of the study "
        f"{_study_link(record.study, record.experiment_id)}, because both ask for the same "
        "training. This row repeats its final figures; curves, weights and pictures are there."
    )


def with_state(note: str, state: str) -> str:
    """`note` with its last part, how the run ended, replaced."""
    stem = note.split(_STATE)[0]
    return f"{stem}{_STATE}{state}" if state else stem


def reason_of_end(status: RunStatus, reason: str) -> str:
    """How a run ended, as its description says it; nothing for one that ended well."""
    names = {"FAILED": "Failed", "KILLED": "Interrupted"}
    return f"**{names[status]}**: {reason}" if status in names and reason else ""


def study_note(study: Study, table: str, parent_id: str, experiment_id: str) -> str:
    """The study's description, then its table. Cut at a line where MLflow would cut it."""
    whole = f"{study.config.description.strip()}\n\n{table.strip()}\n"
    page = f"#/experiments/{experiment_id}/runs/{parent_id}/artifacts"
    more = f"\n[Study file, table and report]({page})\n"
    room = _LONGEST - len(more)
    if len(whole) > room:
        whole = whole[:room].rpartition("\n")[0] + "\n\n(cut here)\n"
    return whole + more


def _counterpart(trial: ResolvedTrial, study: Study) -> str | None:
    """The name of the trial of `compare_to` in the same trial, with the same seed."""
    if study.config.compare_to in (None, trial.variant):
        return None
    for other in study.trials:
        same = other.axes == trial.axes and other.experiment.seed == trial.experiment.seed
        if same and other.variant == study.config.compare_to:
            return other.name
    return None


def _link(name: str, experiment_id: str, run_id: str) -> str:
    return f"[{name}](#/experiments/{experiment_id}/runs/{run_id})"


def _study_link(name: str, experiment_id: str) -> str:
    return f"[{name}](#/experiments/{experiment_id})"


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(tree), sort_keys=False, default_flow_style=None, width=90)

"""A study of `kind: profile`: parameters and multiply-adds of its cells beside the published ones.

Nothing is trained, and no data set is needed.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from models import FENetConfig, count_parameters
from models.cost import multiply_adds_by_part, on_meta, parts
from orchestrator.ledger import Ledger, StudyRun
from orchestrator.setting import Setting
from orchestrator.source import Place, Problem, StudyError
from orchestrator.study import Plan, ProfileOptions, Reference, Trial
from orchestrator.validation import suggestion
from pipelines.network import build_network


@dataclass(frozen=True)
class ProfileRow:
    """One cell. parameters_m: in millions, without auxiliary heads; gflops: multiply-adds / 1e9;
    published: by the paper of this cell, or another method's own."""

    label: str
    axes: dict[str, Any]
    parameters_m: float | None
    gflops: float | None
    published: Reference | None


def run_profile(plan: Plan, setting: Setting) -> bool:
    """Print the profile, and keep it with the study's run in the ledger. Raises StudyError where a
    row names a part that its network does not have."""
    rows = profile_rows(plan)
    options = plan.study.profile or ProfileOptions()
    texts = columns(plan, rows)
    note = f"{options.classes} classes, {options.size[1]} x {options.size[0]} pixels, auxiliary "
    note += "heads left out; difference: of ours to the published value"
    console = setting.console
    console.print(as_rich(plan, texts))
    console.print(f"  {note}", style="dim", highlight=False)
    ledger = Ledger(setting.tracking_uri, setting.artifacts)
    study_run = StudyRun.open(ledger, plan)
    finished = False
    try:
        study_run.log_documents(
            {"table.md": as_markdown(plan, texts, note), "table.csv": as_csv(texts)}
        )
        finished = True
    finally:
        study_run.close("FINISHED" if finished else "FAILED")
    how = ledger.how_to_look(study_run.experiment_id)
    console.print(f"\n{how}", highlight=False, soft_wrap=True)
    return True


def profile_rows(plan: Plan) -> list[ProfileRow]:
    """A row for each cell, whatever its seeds, then one for each other method."""
    options = plan.study.profile or ProfileOptions()
    cells: dict[str, Trial] = {}
    for trial in plan.trials:
        cells.setdefault(f"{trial.variant} {trial.axes}", trial)
    rows = []
    for trial in cells.values():
        parameters, gflops = _cost(trial, plan.study.variants[trial.variant].part, options)
        rows.append(ProfileRow(trial.label, trial.axes, parameters, gflops, trial.reference))
    for other in plan.study.published:
        figures = Reference(other.miou, other.parameters_m, other.gflops, other.source)
        rows.append(ProfileRow(other.label, other.when, None, None, figures))
    return rows


def columns(plan: Plan, rows: Sequence[ProfileRow]) -> dict[str, list[str]]:
    """The table by its columns' names: one text a row, a dash for what there is none of."""
    table = {"network": [row.label for row in rows]}
    for axis in plan.study.grid:
        table[axis.split(".")[-1]] = [str(row.axes.get(axis, "-")) for row in rows]
    for title, unit, key in (("params", " M", "parameters_m"), ("GFLOPs", "", "gflops")):
        own: list[float | None] = [getattr(row, key) for row in rows]
        published = [getattr(row.published, key, None) for row in rows]
        table[f"{title}{unit}"] = ["-" if value is None else f"{value:.2f}" for value in own]
        table[f"published {title}"] = ["-" if v is None else f"{v:g}" for v in published]
        table[f"{title} diff."] = [
            "-" if mine is None or theirs is None else f"{100 * (mine / theirs - 1):+.2f} %"
            for mine, theirs in zip(own, published, strict=True)
        ]
    return table


def as_rich(plan: Plan, texts: dict[str, list[str]]) -> Table:
    """The table for a terminal."""
    table = Table(title=plan.study.study, title_justify="left", title_style="bold")
    left = 1 + len(plan.study.grid)
    for index, name in enumerate(texts):
        table.add_column(name, justify="left" if index < left else "right")
    for line in zip(*texts.values(), strict=True):
        table.add_row(*line)
    return table


def as_markdown(plan: Plan, texts: dict[str, list[str]], note: str) -> str:
    """The table as GitHub markdown, with its footnote."""
    left = 1 + len(plan.study.grid)
    rule = [":--" if index < left else "--:" for index in range(len(texts))]
    lines = [list(texts), rule, *zip(*texts.values(), strict=True)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# {plan.study.study}\n\n{table}\n\n- {note}\n"


def as_csv(texts: dict[str, list[str]]) -> str:
    """The table as CSV, one line a row, texts as in the terminal."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(texts)
    writer.writerows(zip(*texts.values(), strict=True))
    return buffer.getvalue()


def _cost(trial: Trial, part: str | None, options: ProfileOptions) -> tuple[float, float]:
    """Parameters in millions and multiply-adds / 1e9 of the network, or of one part of it."""
    config = trial.experiment.model
    if isinstance(config, FENetConfig):
        model = on_meta(config, options.classes)
    else:
        model = on_meta(build_network(config, options.classes, seed=0), options.classes)
    by_part = multiply_adds_by_part(model, options.classes, *options.size)
    if part is None:
        return count_parameters(model) / 1e6, sum(by_part.values()) / 1e9
    there = parts(model)
    if part not in there:
        message = f"{part!r} is no part of this network; {suggestion(part, list(there))}"
        raise StudyError([Problem(Place(f"variants.{trial.variant}.part"), message)])
    return count_parameters(there[part]) / 1e6, by_part[part] / 1e9

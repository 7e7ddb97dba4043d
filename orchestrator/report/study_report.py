"""A study's report, put together from what the ledger holds, and kept with the study's run."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from orchestrator.report.caveats import seed_caveats
from orchestrator.report.charts import Series
from orchestrator.report.formats import as_csv, as_latex, as_markdown, as_rich, markdown_text
from orchestrator.report.html import METRICS, render_page
from orchestrator.report.notes import Notes, notes_on
from orchestrator.report.results import Result, Results
from orchestrator.report.rows import Row, build_rows
from orchestrator.report.table import Table, grid_table, main_table
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.queries import Snapshot, history, parent_run_id, run_url, study_figures
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_page import find_page

FOLDER = "report"


@dataclass(frozen=True)
class Report:
    """A study as it stands: its rows, and the texts made of them."""

    study: Study
    rows: list[Row]

    @property
    def sheets(self) -> list[tuple[str, Table]]:
        """The tables with their titles: where there is a grid, first as a paper lays it out."""
        others = self.study.config.published
        grid = grid_table(self.study, self.rows, others)
        whole = main_table(self.study, self.rows, others)
        if grid is None:
            return [("", whole)]
        across = " x ".join(axis.split(".")[-1] for axis in self.study.config.grid)
        return [(f"mIoU % by {across}", grid), ("All figures", whole)]

    @property
    def notes(self) -> Notes:
        """What is to be said of the table."""
        return notes_on(self.study, self.rows, self.study.config.published)

    @property
    def complete(self) -> bool:
        """Whether every trial has a figure."""
        return not self.notes.unfinished

    @property
    def seed_caveats(self) -> list[str]:
        """What is known before anything is trained: whether the seeds asked for can be enough."""
        return list(seed_caveats(self.study, self.rows))

    def print(self, console: Console) -> None:
        """On a terminal: first what has no figure, then the tables."""
        for line in self.notes.unfinished:
            console.print(
                line,
                style="bold red" if line.startswith("failed") else "yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        self.print_table(console)

    def print_table(self, console: Console) -> None:
        """The tables on a terminal, and what is to be said of them."""
        notes, name = self.notes, self.study.config.study
        for title, sheet in self.sheets:
            shown = f"{name}: {title}" if title else name
            console.print(as_rich(sheet, shown, console.width))
        for line in notes.warnings:
            console.print(f"  {line}", style="bold yellow", markup=False, highlight=False)
        for line in notes.footnotes:
            console.print(f"  {line}", style="dim", markup=False, highlight=False)

    def markdown(self) -> str:
        """The tables as GitHub Markdown, with what is to be said of them."""
        notes, study = self.notes, self.study.config
        parts = [f"# {study.study}\n"]
        if notes.unfinished:
            parts.append("".join(f"- **{markdown_text(line)}**\n" for line in notes.unfinished))
        for title, sheet in self.sheets:
            parts += [f"## {title}\n"] * bool(title)
            parts.append(as_markdown(sheet))
        said = [f"**{markdown_text(line)}**" for line in notes.warnings]
        said += map(markdown_text, notes.footnotes)
        parts.append("".join(f"- {line}\n" for line in said))
        return "\n".join(parts)

    def latex(self) -> str:
        """The tables as LaTeX."""
        notes, name = self.notes, self.study.config.study
        said = [*notes.unfinished, *notes.warnings, *notes.footnotes]
        tables = []
        for title, sheet in self.sheets:
            caption = f"{name}: {title}" if title else name
            tables.append(as_latex(sheet, caption, said))
        return "\n".join(tables)

    def csv(self) -> str:
        """The table for machines."""
        return as_csv(self.study, self.rows, self.study.config.published)


@dataclass
class StudyReport:
    """The report of one study, made again as its trials finish: what is finished is read once.

    costs and identities: by the trial's name, where they have been resolved (see `of_cells`).
    """

    study: Study
    store: TrackingStore
    identities: Mapping[str, str] | None = None
    costs: Mapping[str, ModelCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._results = Results(self.study, self.store, self.identities)
        self._histories: dict[tuple[str, str], Series] = {}

    @staticmethod
    def of_trials(study: Study, store: TrackingStore, trials: list[ResolvedTrial]) -> "StudyReport":
        """Of a study whose data, devices and networks are at hand."""
        identities = {trial.name: trial.identity for trial in trials}
        costs = {trial.name: trial.cost for trial in trials}
        return StudyReport(study, store, identities, costs)

    def read(self, snapshot: Snapshot | None = None) -> Report:
        """The report of what the tracking store holds. snapshot: of the store; taken now for
        None."""
        results = self._results.read(snapshot)
        return Report(self.study, build_rows(self.study, results, self.costs))

    def documents(self, report: Report) -> dict[str, str]:
        """The report's files, name to content."""
        return {
            "table.md": report.markdown(),
            "table.csv": report.csv(),
            "table.tex": report.latex(),
            "report.html": self._page(report),
        }

    def keep(self, documents: Mapping[str, str]) -> str:
        """Copy the files into the artifacts of the study's run, if its page shows this table.
        Returns why they were not, empty where they were."""
        parent = parent_run_id(self.store, self.study.config.study)
        if parent is None:
            return "the ledger does not know the study"
        page = find_page(self.store, parent, self.study.overridden)
        if not page.is_own:
            return page.note
        with tempfile.TemporaryDirectory(prefix="report-") as directory:
            write_documents(Path(directory), documents)
            self.store.log_artifact(parent, Path(directory), FOLDER)
        return ""

    def _page(self, report: Report) -> str:
        experiments = [r.run.experiment_id for row in report.rows for r in row.results if r.run]
        how = self.store.viewing_instructions(experiments[0]) if experiments else ""
        return render_page(
            report.study,
            report.rows,
            report.study.config.published,
            report.sheets,
            report.notes,
            self._history,
            lambda result: run_url(self.store, result.run) if result.run else "",
            how,
            study_figures(self.store, report.study.config.study),
        )

    def _history(self, result: Result, metric: str) -> Series:
        """A metric by epoch, mIoU in percent; of a finished trial it is read once."""
        run = result.run
        if run is None:
            return []
        key = run.run_id, metric
        if key in self._histories:
            return self._histories[key]
        scale = 100.0 if METRICS[metric].endswith("%") else 1.0
        points = [(step, scale * value) for step, value in history(self.store, *key)]
        if run.status == "FINISHED":
            self._histories[key] = points
        return points


def write_documents(directory: Path, documents: Mapping[str, str]) -> None:
    """Write each file whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        partial = directory / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(directory / name)

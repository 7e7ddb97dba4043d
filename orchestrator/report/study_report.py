"""The report of a study: read from the tracking store, written as files, saved to its run."""

import errno
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator.report.charts.drawing import Series, as_pdf
from orchestrator.report.charts.figures import MIOU, ReportFigure, class_maps, draw_figures
from orchestrator.report.documents.formats import (
    as_latex,
    as_markdown,
    as_rich,
    fitted,
    for_paper,
    markdown_text,
)
from orchestrator.report.documents.html import render_page
from orchestrator.report.documents.records import Value, as_csv, table_records
from orchestrator.report.notes.caveats import seed_caveats
from orchestrator.report.notes.report_notes import Notes, notes_on
from orchestrator.report.rows.comparisons import OverallDifference, compare_rows
from orchestrator.report.rows.match_runs import current_code_versions, find_runs
from orchestrator.report.rows.results import Result, Results
from orchestrator.report.rows.row import Row, build_rows
from orchestrator.report.tables.class_differences import HeatMap
from orchestrator.report.tables.columns import empty_columns, row_label, variants_compared_to
from orchestrator.report.tables.search import best_rows, best_table, search_result
from orchestrator.report.tables.table import (
    GridCell,
    Table,
    grid_table,
    main_table,
    overall_table,
    published_in_grid,
)
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.published import PublishedRow
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.search_result import FILE
from orchestrator.study.study import Study, Trial
from orchestrator.tracking.queries import (
    StoreSnapshot,
    history,
    parent_run_id,
    read_snapshot,
    run_url,
    study_figures,
    viewing_instructions,
)
from orchestrator.tracking.samples import recorded_samples, with_matching_samples
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_page import find_page
from pipelines.data.files import atomic_file

FOLDER = "report"


@dataclass(frozen=True)
class Report:
    """The report of a study at one moment: its rows, and the texts generated from them.

    rows: those with a selected trial, with all of their seeds. overall: their differences over all
    cells of the grid. planned: all rows of the study; empty if these are all.
    """

    study: Study
    rows: list[Row]
    overall: Sequence[OverallDifference] = ()
    planned: Sequence[Row] = ()

    @property
    def tables(self) -> list[tuple[str, Table]]:
        """The tables with their titles; if there is a grid, its table comes first, and so does the
        table of the best samples."""
        published_rows, sampling = self.study.config.published, self.study.config.sampling
        main = main_table(self.study, self.rows, published_rows)
        if sampling is not None:
            return [
                (f"Best of {sampling.count} samples", best_table(self.study, self.rows)),
                ("All samples", replace(main, name="samples")),
            ]
        grid = grid_table(self.study, self.rows, published_rows)
        if grid is None:
            return [("", main)]
        axes = " x ".join(axis.split(".")[-1] for axis in self.study.config.grid)
        tables = [(f"mIoU % by {axes}", grid)]
        if self.overall:
            overall = overall_table(self.study, self.rows, self.overall)
            tables.append((f"Differences over all values of {axes}", overall))
        return [*tables, ("All results", main)]

    @property
    def notes(self) -> Notes:
        """The notes on all tables."""
        return self._notes(self.study.config.published)

    def _notes(self, published: Sequence[PublishedRow]) -> Notes:
        """Return the notes on tables with these published rows of other methods."""
        notes = notes_on(self.study, self.rows, published, self.overall, self.planned)
        warnings = [
            f"`report.columns` has {name!r}, for which no trial has a value; it is left out."
            for name in empty_columns(self.study.config, self.rows)
        ]
        return replace(notes, warnings=(*notes.warnings, *warnings))

    @property
    def complete(self) -> bool:
        """Whether every trial has a score."""
        return not self.notes.unfinished

    @property
    def seed_caveats(self) -> list[str]:
        """Warnings that are known before training: whether the study has too few seeds."""
        return list(seed_caveats(self.study, self.rows, self.planned))

    def print(self, console: Console) -> None:
        """Print the trials without a score, then the tables."""
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
        """Print the tables and the notes on the columns that fit. The samples of a search are too
        many for a terminal; only the best ones are shown."""
        notes, name = self.notes, self.study.config.study
        tables = [each for each in self.tables if each[1].name != "samples"]
        shown = [(title, fitted(table, console.width)) for title, table in tables]
        for (title, table), (_, fitting) in zip(tables, shown, strict=True):
            console.print(as_rich(table, fitting, f"{name}: {title}" if title else name))
        for line in notes.warnings:
            console.print(f"  {line}", style="bold yellow", markup=False, highlight=False)
        for line in notes.on(_keys(shown)).footnotes:
            console.print(f"  {line}", style="dim", markup=False, highlight=False)

    def markdown(self) -> str:
        """Return the tables and notes as GitHub Markdown."""
        notes, study, tables = self.notes, self.study.config, self.tables
        parts = [f"# {study.study}\n"]
        if notes.unfinished:
            parts.append("".join(f"- **{markdown_text(line)}**\n" for line in notes.unfinished))
        for title, table in tables:
            parts += [f"## {title}\n"] * bool(title)
            parts.append(as_markdown(table))
        lines = [f"**{markdown_text(line)}**" for line in notes.warnings]
        lines += map(markdown_text, notes.on(_keys(tables)).footnotes)
        parts.append("".join(f"- {line}\n" for line in lines))
        return "\n".join(parts)

    def latex(self) -> str:
        """Return the tables as LaTeX, each with the notes on its columns."""
        tables, published = [], self.study.config.published
        in_grid = published_in_grid(self.study, published)
        for title, table in self.tables:
            notes = self._notes(in_grid if table.name == "grid" else published)
            shown = for_paper(table)
            lines = [*notes.unfinished, *notes.warnings, *notes.on(shown.keys).footnotes]
            study = re.sub(r"[^A-Za-z0-9]+", "-", self.study.config.study).strip("-").lower()
            label = "-".join(filter(None, (f"tab:{study}", table.name)))
            tables.append(as_latex(table, self._caption(title, table), label, lines))
        return "\n".join(tables)

    def _caption(self, title: str, table: Table) -> str:
        """Return the caption of a table in a paper."""
        config, compared_to = self.study.config, variants_compared_to(self.rows)
        if config.kind == "profile":
            return f"{config.study}: parameters and FLOPs."
        if table.name == "overall":
            return f"{config.study}: {title[0].lower()}{title[1:]}, in points of mIoU."
        text = f"{config.study}: {title if table.name else 'mIoU %'}"
        if config.fold_count is not None:
            of_seeds = f" of {len(config.seeds)} seeds" if len(config.seeds) > 1 else ""
            text += f", mean ± standard deviation over {config.fold_count} folds{of_seeds}"
        elif len(config.seeds) > 1:
            text += f", mean ± standard deviation over {len(config.seeds)} seeds"
        if len(compared_to) == 1 and "difference" in for_paper(table).keys:
            text += f"; differences to {row_label(config, compared_to[0])} in points"
        return f"{text}."

    def csv(self) -> str:
        """Return the table as CSV, with full precision."""
        return as_csv(self.records())

    def records(self) -> list[dict[str, Value]]:
        """Return the lines of the CSV, by column."""
        return table_records(self.study, self.rows, self.study.config.published)


def _with_runs(study: Study, snapshot: StoreSnapshot) -> list[Trial]:
    """Return the trials of a study that have runs."""
    found = find_runs(study, snapshot.trials, current_code_versions(study))
    return [trial for trial in study.trials if trial.name in found]


@dataclass
class StudyReport:
    """Generates the report of one study repeatedly; counts and finished histories are read once.

    identities, costs: by trial name, if the trials have been resolved (see `of_trials`).
    """

    study: Study
    store: TrackingStore
    identities: Mapping[str, str] | None = None
    costs: Mapping[str, ModelCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._results = self._results_of(self.study)
        self._histories: dict[tuple[str, str], Series] = {}

    @staticmethod
    def of_trials(study: Study, store: TrackingStore, trials: list[ResolvedTrial]) -> "StudyReport":
        """Return the report of a study whose trials have been resolved."""
        identities = {trial.name: trial.identity for trial in trials}
        costs = {trial.name: trial.cost for trial in trials}
        return StudyReport(study, store, identities, costs)

    def read(self, snapshot: StoreSnapshot | None = None) -> Report:
        """Read the report from the tracking store. snapshot: of the store; None takes one now."""
        snapshot = snapshot or read_snapshot(self.store)
        study, reader = self.study, self._results
        if self.identities is None and (recorded := recorded_samples(study, snapshot.trials)):
            study = with_matching_samples(study, recorded, partial(_with_runs, snapshot=snapshot))
            reader = self._results_of(study)
        results = reader.read(snapshot)
        compared = compare_rows(study, build_rows(study, results, self.costs))
        selected = {trial.name for trial in study.trials}
        rows = [
            row
            for row in compared.rows
            if any(result.trial.name in selected for result in row.results)
        ]
        shown = {row.variant for row in rows}
        overall = [each for each in compared.overall if each.variant in shown]
        return Report(study, rows, overall, compared.rows)

    def _results_of(self, study: Study) -> Results:
        # All trials are read whatever is shown: all comparisons of the study are one family.
        return Results(study.whole, self.store, self.identities)

    def documents(self, report: Report, links: bool = True) -> dict[str, str | bytes]:
        """Return the content of the report's files by file name: tables, page, and figures as
        PDF.

        links: whether the page links to the runs in MLflow and says how to start it here.
        """
        maps = class_maps(report.study, best_rows(report.study, report.rows))
        figures = draw_figures(report.study, report.rows, self._history, maps)
        found = search_result(report.study, report.rows)
        return {
            "table.md": report.markdown(),
            "table.csv": report.csv(),
            "table.tex": report.latex(),
            **({} if found is None else {FILE: found.as_yaml()}),
            "report.html": self._page(report, figures, maps, links),
            **{f"figures/{each.name}.pdf": as_pdf(each.figure) for each in figures},
        }

    def keep(self, documents: Mapping[str, str | bytes]) -> str:
        """Save the files as artifacts of the study's run if its page shows this table. Return the
        reason if they were not saved, else an empty string."""
        parent = parent_run_id(self.store, self.study.config.study)
        if parent is None:
            return "the tracking store has no run of this study"
        page = find_page(self.store, parent, self.study.overridden)
        if not page.is_own:
            return page.note
        with tempfile.TemporaryDirectory(prefix="report-") as directory:
            write_documents(Path(directory), documents)
            try:
                self.store.log_artifact(parent, Path(directory), FOLDER)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                return f"the study's artifacts cannot be written ({error})"
        return ""

    def _page(
        self,
        report: Report,
        figures: Sequence[ReportFigure],
        maps: Mapping[GridCell, HeatMap],
        links: bool,
    ) -> str:
        tables, name = report.tables, report.study.config.study
        return render_page(
            report.study,
            report.rows,
            tables,
            # The page's figures show differences whatever columns the tables have.
            report.notes.on(_keys(tables) | {"difference", "p", "published_difference"}),
            figures,
            maps,
            self._history,
            lambda result: run_url(self.store, result.run) if links and result.run else "",
            viewing_instructions(self.store, name) if links else "",
            study_figures(self.store, name),
        )

    def _history(self, result: Result, metric: str) -> Series:
        """Return a metric by epoch, mIoU in percent. Finished trials are read once."""
        run = result.run
        if run is None:
            return []
        key = run.run_id, metric
        if key in self._histories:
            return self._histories[key]
        scale = 100.0 if metric == MIOU else 1.0
        points = [(step, scale * value) for step, value in history(self.store, *key)]
        if run.status == "FINISHED":
            self._histories[key] = points
        return points


def _keys(tables: Sequence[tuple[str, Table]]) -> frozenset[str]:
    """Return the keys of all columns of the tables."""
    return frozenset().union(*(table.keys for _, table in tables))


def write_documents(directory: Path, documents: Mapping[str, str | bytes]) -> None:
    """Write the files to a directory. They get their names once all are written, so that a full
    disk leaves none of them, and no new table beside an old page."""
    with ExitStack() as files:
        for name, content in documents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = files.enter_context(atomic_file(path))
            partial.write_bytes(content.encode() if isinstance(content, str) else content)

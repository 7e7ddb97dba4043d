"""The report of a study at one moment, as text for terminals, Markdown, LaTeX and CSV."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from orchestrator.report.documents.formats import (
    as_latex,
    as_markdown,
    as_rich,
    fitted,
    for_paper,
    markdown_text,
)
from orchestrator.report.documents.records import Value, as_csv, table_records
from orchestrator.report.notes.caveats import seed_caveats
from orchestrator.report.notes.report_notes import Notes, notes_on
from orchestrator.report.rows.comparisons import OverallDifference
from orchestrator.report.rows.row import Row
from orchestrator.report.tables.columns import empty_columns, row_label, variants_compared_to
from orchestrator.report.tables.search import best_table
from orchestrator.report.tables.table import (
    Table,
    grid_table,
    main_table,
    overall_table,
    published_in_grid,
)
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study


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
    def lacks_counts(self) -> bool:
        """Whether the counts of some trials could not be read."""
        return any(row.uncounted for row in self.planned or self.rows)

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
        for line in notes.on(column_keys(shown)).footnotes:
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
        lines += map(markdown_text, notes.on(column_keys(tables)).footnotes)
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


def column_keys(tables: Sequence[tuple[str, Table]]) -> frozenset[str]:
    """Return the keys of all columns of the tables."""
    return frozenset().union(*(table.keys for _, table in tables))

"""Writes the report's tables for terminals, Markdown and LaTeX."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.table import Table as RichTable

from orchestrator.report.documents.latex_text import latex_text, unknown_characters
from orchestrator.report.tables.cells import EMPTY
from orchestrator.report.tables.columns import PAPER_RANK, Column
from orchestrator.report.tables.table import Table

# Markdown's special characters, also that of math on GitHub, and brackets that begin a link.
_MARKDOWN = re.compile(r"([\\`*_<>|~$]|\[(?=[^\]]*\]\())")

# Minimum width of a column of labels, in terminal cells; longer labels are folded.
_LABEL_WIDTH = 12


def as_rich(table: Table, fitting: Table, title: str) -> RichTable:
    """Return a table for a terminal. fitting: `fitted(table, width)`; the columns that it lacks are
    named in the caption."""
    shown = {column.full_name for column in fitting.columns}
    dropped = dict.fromkeys(c.full_name for c in table.columns if c.full_name not in shown)
    rich = RichTable(title=title, title_justify="left", title_style="bold", caption_justify="left")
    for column in fitting.columns:
        rich.add_column(
            _escaped(column.full_name),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric,
            min_width=min(_LABEL_WIDTH, max(map(cell_len, (column.full_name, *column.values)))),
        )
    for index, line in enumerate(fitting.lines):
        if index in table.breaks:
            rich.add_section()
        rich.add_row(
            *(
                f"[bold]{_escaped(text)}[/bold]" if index in column.bold else _escaped(text)
                for column, text in zip(fitting.columns, line, strict=True)
            )
        )
    if dropped:
        # table.csv lacks some, such as a search's medians.
        rich.caption = (
            f"columns that do not fit: {_escaped(', '.join(dropped))} (all are in table.md)"
        )
    return rich


def as_markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown, ending with a newline."""
    rule = ["--:" if column.numeric else ":--" for column in table.columns]
    names = [markdown_text(column.full_name) for column in table.columns]
    lines = [names, rule]
    for index, line in enumerate(table.lines):
        cells = zip(table.columns, map(markdown_text, line), strict=True)
        lines.append([f"**{text}**" if index in column.bold else text for column, text in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(table: Table, caption: str, label: str, notes: Sequence[str]) -> str:
    """Return a `table` environment with booktabs rules and the notes below the table.

    Columns of little use in a paper, such as images/s, are left out and named in a comment; see
    `for_paper`.
    """
    left_out = [column.full_name for column in table.columns if column.drop_rank > PAPER_RANK]
    table = for_paper(table)
    shape = "".join("r" if column.numeric else "l" for column in table.columns)
    body = []
    for index, line in enumerate(table.lines):
        body += [r"\midrule"] * (index in table.breaks)
        if title := table.sections.get(index):
            body.append(rf"\multicolumn{{{len(shape)}}}{{l}}{{\emph{{{latex_text(title)}}}}} \\")
        cells = zip(table.columns, line, strict=True)
        body.append(" & ".join(_latex_cell(column, text, index) for column, text in cells) + r" \\")
    lines = [
        r"% Needs \usepackage{booktabs,graphicx}",
        *_latex_comment(left_out),
        *_latex_warning("".join((caption, *notes, *_texts(table)))),
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{latex_text(caption)}}}",
        rf"\label{{{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        *_latex_groups(table),
        " & ".join(map(_latex_header, table.columns)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\raggedright\scriptsize"] if notes else []),
        *(latex_text(note) + r"\par" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_comment(left_out: Sequence[str]) -> list[str]:
    """Return the comment that names the columns that are not in the table; none if all are."""
    names = " ".join(", ".join(left_out).split())
    return [f"% Columns left out here (table.csv has them): {names}"] if names else []


def _texts(table: Table) -> list[str]:
    """Return all texts of a table."""
    names = (text for column in table.columns for text in (column.full_name, *column.values))
    return [*names, *table.sections.values()]


def _latex_warning(text: str) -> list[str]:
    """Return the comment that names the characters of a text at which pdfLaTeX stops; none if there
    are none."""
    unknown = unknown_characters(text)
    if not unknown:
        return []
    return [f"% pdfLaTeX stops at {' '.join(unknown)}; use LuaLaTeX with a font that has them"]


def for_paper(table: Table) -> Table:
    """Return the table with the columns that a paper shows."""
    table = table.without_axes()
    columns = tuple(c for c in table.columns if c.drop_rank <= PAPER_RANK)
    return replace(table, columns=columns)


def _latex_cell(column: Column, text: str, line: int) -> str:
    """Return a cell, in bold if it is significant, with the interval in a smaller font."""
    value, bracket, interval = text.partition(" [")
    cell = latex_text(value)
    if line in column.bold:
        cell = rf"\textbf{{\boldmath {cell}}}"
    if bracket:
        cell += rf" {{\scriptsize {latex_text('[' + interval)}}}"
    return cell


def _latex_header(column: Column) -> str:
    """Return a header, on several lines if it is longer than the column's cells."""
    width = max(10, *map(len, column.values))
    lines = textwrap.wrap(column.name, width, break_long_words=False) or [""]
    text = r"\\".join(map(latex_text, lines))
    if len(lines) == 1:
        return text
    return rf"\shortstack[{'r' if column.numeric else 'l'}]{{{text}}}"


def _latex_groups(table: Table) -> list[str]:
    """Return the row of headers that span several columns, with rules below them."""
    cells, rules, first = [], "", 1
    for name, span in table.groups:
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{latex_text(name)}}}" if name else "")
        if name:
            rules += rf"\cmidrule(lr){{{first}-{first + span - 1}}}"
        first += span
    return [" & ".join(cells) + r" \\", rules] if cells else []


def fitted(table: Table, width: int) -> Table:
    """Return the table with only the columns that fit into `width` terminal cells; those of the
    highest rank are dropped first."""
    kept = list(table.columns)
    while _width(kept) > width and max(column.drop_rank for column in kept) > 0:
        highest = max(column.drop_rank for column in kept)
        dropped = next(column for column in reversed(kept) if column.drop_rank == highest)
        # A column of a grid cell is dropped from all grid cells.
        kept = [c for c in kept if c is not dropped and not (c.group and c.key == dropped.key)]
    fitting = replace(table, columns=tuple(kept))
    # Published rows are left out if all of their columns were dropped.
    numeric = [column.values for column in kept if column.numeric]
    texts = {text for values in numeric for text in values[len(values) - table.published :]}
    return fitting if texts - {EMPTY} else fitting.without_published()


def _width(columns: Sequence[Column]) -> int:
    """Return the width in terminal cells, including borders and padding."""
    return 1 + sum(3 + max(map(cell_len, (column.full_name, *column.values))) for column in columns)


def _escaped(text: str) -> str:
    """Escape rich's markup."""
    return text.replace("[", r"\[")


def markdown_text(text: str) -> str:
    """Escape plain text for Markdown."""
    return _MARKDOWN.sub(r"\\\1", text)

"""Writes the report's tables for terminals, Markdown, LaTeX and CSV."""

import csv
import io
import re
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.table import Table as RichTable

from orchestrator.report.cells import EMPTY
from orchestrator.report.columns import PAPER_RANK, Column
from orchestrator.report.rows import Row
from orchestrator.report.scores import find_score
from orchestrator.report.table import Table
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study

# Markdown's special characters, and brackets that begin a link.
_MARKDOWN = re.compile(r"([\\`*_<>|~]|\[(?=[^\]]*\]\())")

# Minimum width of a column of labels, in terminal cells; longer labels are folded.
_LABEL_WIDTH = 12

# Columns of the CSV that are left out if all of their values are missing.
_STATISTICS = {
    *("interval_low", "interval_high", "p", "p_holm", "comparisons", "smallest_detectable"),
    *("image_interval_low", "image_interval_high"),
}

_SIGNED = re.compile(r"(?<![\w.])([+-]\d[\d.]*)")

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\u00a0": "~",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line break, a bracket would be its argument
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "*": r"$^*$",
    "λ": r"$\lambda$",
}

Value = str | float | int | None


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
        rich.caption = (
            f"columns that do not fit: {_escaped(', '.join(dropped))} (all are in table.csv)"
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


def latex_text(text: str) -> str:
    """Escape plain text for LaTeX; signed numbers become math, so that a minus is not a hyphen."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _SIGNED.sub(r"$\1$", escaped)


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


def as_csv(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> str:
    """Return the table as CSV: mIoU in percent, differences in percentage points, missing values
    empty. The column `kind` is `trained` or `published`."""
    lines = [_line(study, row) for row in rows]
    lines += [
        {
            "kind": "published",
            "label": other.label,
            **{axis: str(other.when[axis]) for axis in study.config.grid if axis in other.when},
            "parameters_m": other.parameters_m,
            "gflops": other.gflops,
            "published_miou": other.miou,
            "source": other.source,
        }
        for other in others
    ]
    names = dict.fromkeys(name for line in lines for name in line)
    # Without a test, there is no column that looks like one.
    for name in _STATISTICS & names.keys():
        if all(line.get(name) is None for line in lines):
            del names[name]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _other_scores(study: Study, row: Row) -> dict[str, Value]:
    """Return the scores and differences in `report.columns`, in the table's units."""
    line: dict[str, Value] = {}
    columns = [name for name in study.config.report.columns or () if name != "miou"]
    for key in columns:
        score = find_score(study.config, [row], key)
        values = list(score.values(row).values()) if score is not None else []
        if values:
            line[f"{key}_mean"] = statistics.fmean(values)
            line[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    for key in study.config.report.differences:
        difference = row.differences.get(key)
        low, high = (difference.interval if difference else None) or (None, None)
        line[f"difference/{key}"] = difference.mean if difference else None
        line |= {f"difference/{key}_low": low, f"difference/{key}_high": high}
    return line


def _line(study: Study, row: Row) -> dict[str, Value]:
    values, difference, cost = list(row.miou.values()), row.difference, row.cost
    reference = row.reference
    low, high = (difference.interval if difference else None) or (None, None)
    image_low, image_high = (difference.image_interval if difference else None) or (None, None)
    experiment, protocol = row.results[0].trial.experiment, study.config.report.protocol
    scoring = experiment.evaluation if protocol is None else study.config.protocols[protocol]
    states = {result.state for result in row.results if result.miou is None}
    return {
        "kind": "trained",
        "variant": row.variant,
        "label": row.label,
        **{axis: str(row.axes[axis]) for axis in study.config.grid},
        "split": study.config.scored_split(protocol, experiment.data.validation_split),
        "protocol": scoring.protocol,
        "n": len(values),
        "seeds_requested": len(row.results),
        "miou_mean": statistics.fmean(values) if values else None,
        "miou_sd": statistics.stdev(values) if len(values) > 1 else None,
        **{f"miou_seed_{seed}": row.miou.get(seed) for seed in study.config.seeds},
        "best_miou_mean": statistics.fmean(row.best.values()) if row.best else None,
        "entered_miou_mean": statistics.fmean(row.entered.values()) if row.entered else None,
        **_other_scores(study, row),
        "compared_to": row.base or None,
        "difference": difference.mean if difference else None,
        "difference_n": len(difference.seeds) if difference else None,
        "difference_sd": difference.deviation if difference else None,
        "difference_method": difference.method if difference else None,
        "difference_sd_used": difference.spread if difference else None,
        "interval_low": low,
        "interval_high": high,
        "p": difference.p if difference else None,
        "p_holm": difference.p_adjusted if difference else None,
        "comparisons": difference.comparisons if difference and difference.p is not None else None,
        "smallest_detectable": difference.detectable if difference else None,
        "image_interval_low": image_low,
        "image_interval_high": image_high,
        "published_miou": row.published,
        "published_elsewhere": int(row.published_elsewhere) if row.published else None,
        "published_difference": row.published_difference,
        "source": reference.source if reference else None,
        "parameters_m": cost.parameters_m if cost else None,
        "gflops": cost.gflops if cost else None,
        "published_parameters_m": reference.parameters_m if reference else None,
        "published_gflops": reference.gflops if reference else None,
        "images_per_second": row.images_per_second,
        "hours": row.hours,
        "unfinished": " ".join(sorted(states)),
        "stale": int(row.stale),
        "uncertain": "; ".join(sorted({r.uncertainty for r in row.results if r.uncertainty})),
        "incomparable": row.incomparable,
        **{name: " ".join(sorted(row.run_values(name))) for name in ("data", "code", "precision")},
        "runs": " ".join(result.run.run_id for result in row.finished if result.run is not None),
    }

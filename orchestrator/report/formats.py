"""One table in the formats it is wanted in: a terminal, Markdown, LaTeX."""

import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.table import Table as RichTable

from orchestrator.report.rows import Row
from orchestrator.report.table import NOTHING, Column, Table
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study

_MARKDOWN = re.compile(r"([\\`*_<>|~]|\[(?=[^\]]*\]\())")

# What a label keeps where it has to be folded.
_LABEL_WIDTH = 12

# What is wanted least has the highest rank.
_MOST_RANK = 6

_SIGNED = re.compile(r"(?<![\w.])([+-]\d[\d.]*)")

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\u00a0": "~",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "*": r"$^*$",
    "λ": r"$\lambda$",
}

Value = str | float | int | None


def as_rich(sheet: Table, title: str, width: int) -> RichTable:
    """For a terminal `width` cells wide: what has no room is left out, the least wanted first."""
    fitting = _fitted(sheet, width)
    left_out = dict.fromkeys(c.name for c in sheet.columns if c not in fitting.columns)
    table = RichTable(title=title, title_justify="left", title_style="bold", caption_justify="left")
    for column in fitting.columns:
        table.add_column(
            column.name,
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric,
            min_width=min(_LABEL_WIDTH, max(map(cell_len, (column.name, *column.values)))),
        )
    for index, line in enumerate(fitting.lines):
        if index in sheet.breaks:
            table.add_section()
        table.add_row(*(_plain(text) for text in line))
    if left_out:
        table.caption = f"no room for: {', '.join(left_out)}"
    return table


def as_markdown(sheet: Table) -> str:
    """A table of GitHub's Markdown, ending in a newline."""
    rule = ["--:" if column.numeric else ":--" for column in sheet.columns]
    names = [markdown_text(column.name) for column in sheet.columns]
    lines = [names, rule, *([markdown_text(text) for text in line] for line in sheet.lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(sheet: Table, caption: str, notes: Sequence[str]) -> str:
    """A `table` environment with the rules of booktabs, its notes below the table. What is of more
    use beside the results than in a paper, such as images/s, is left out."""
    sheet = replace(sheet, columns=tuple(c for c in sheet.columns if c.rank <= _MOST_RANK))
    shape = "".join("r" if column.numeric else "l" for column in sheet.columns)
    body = []
    for index, line in enumerate(sheet.lines):
        body += [r"\midrule"] * (index in sheet.breaks)
        body.append(" & ".join(latex_text(text) for text in line) + r" \\")
    lines = [
        r"% Needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        " & ".join(latex_text(column.name) for column in sheet.columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\raggedright\footnotesize"] if notes else []),
        *(latex_text(note) + r"\par" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Plain text for LaTeX: what it would take for commands is escaped, signed numbers get a sign
    of their own width."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _SIGNED.sub(r"$\1$", escaped)


def _fitted(sheet: Table, width: int) -> Table:
    kept = list(sheet.columns)
    while _width(kept) > width and max(column.rank for column in kept) > 0:
        least = max(column.rank for column in kept)
        kept.remove(next(column for column in reversed(kept) if column.rank == least))
    fitting = Table(tuple(kept), sheet.breaks, sheet.others)
    # Other methods' lines are left out where the columns that they fill are.
    named = [column for column in kept if column.numeric]
    said = {
        value for column in named for value in column.values[len(column.values) - sheet.others :]
    }
    return fitting if said - {NOTHING} else fitting.without_others()


def _width(columns: Sequence[Column]) -> int:
    """In cells of the terminal, borders and padding included."""
    return 1 + sum(3 + max(map(cell_len, (column.name, *column.values))) for column in columns)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def markdown_text(text: str) -> str:
    """Plain text for Markdown: what it would take for markup is escaped."""
    return _MARKDOWN.sub(r"\\\1", text)


def as_csv(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> str:
    """mIoU in percent, differences in points of it; what there is none of is empty. `kind` is
    `trained` or `published`."""
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
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _line(study: Study, row: Row) -> dict[str, Value]:
    values, difference, cost = list(row.miou.values()), row.difference, row.cost
    reference = row.reference
    low, high = (difference.interval if difference else None) or (None, None)
    experiment, name = row.results[0].trial.experiment, study.config.report.protocol
    scoring = experiment.evaluation if name is None else study.config.protocols[name]
    states = {result.state for result in row.results if result.miou is None}
    return {
        "kind": "trained",
        "variant": row.variant,
        "label": row.label,
        **{axis: str(row.axes[axis]) for axis in study.config.grid},
        "split": experiment.data.validation_split,
        "protocol": scoring.protocol,
        "n": len(values),
        "seeds_asked": len(row.results),
        "miou_mean": statistics.fmean(values) if values else None,
        "miou_sd": statistics.stdev(values) if len(values) > 1 else None,
        **{f"miou_seed_{seed}": row.miou.get(seed) for seed in study.config.seeds},
        "best_miou_mean": statistics.fmean(row.best.values()) if row.best else None,
        "entered_miou_mean": statistics.fmean(row.entered.values()) if row.entered else None,
        "difference": difference.mean if difference else None,
        "difference_n": len(difference.seeds) if difference else None,
        "difference_sd": difference.deviation if difference else None,
        "interval_low": low,
        "interval_high": high,
        "p": difference.p if difference else None,
        "p_holm": row.corrected,
        "p_t_test": difference.t_test if difference else None,
        "published_miou": row.published,
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
        "uncertain": "; ".join(sorted({r.assumed for r in row.results if r.assumed})),
        "incomparable": row.incomparable,
        **{what: " ".join(sorted(row.kinds(what))) for what in ("data", "code", "precision")},
        "runs": " ".join(result.run.run_id for result in row.finished if result.run is not None),
    }

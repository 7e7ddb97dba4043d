"""The formats of the report's tables."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.report.documents.formats import (
    as_latex,
    as_markdown,
    as_rich,
    fitted,
    markdown_text,
)
from orchestrator.report.tables.cells import p_text
from orchestrator.report.tables.columns import Column
from orchestrator.report.tables.table import Table


def test_columns_that_do_not_fit_are_in_a_file_that_has_all() -> None:
    """The CSV has no medians and no p of interactions."""
    columns = (Column("variant", ("a",), False), Column("p, interaction", ("0.1",), drop_rank=1))
    table = Table(columns)
    rich = as_rich(table, fitted(table, 14), "")
    assert rich.caption == "columns that do not fit: p, interaction (all are in table.md)"


def test_significant_cells_are_bold_in_every_format() -> None:
    texts = ("-", "+1.40 [+0.90, +1.90]", "-0.20 [-0.50, +0.10]")
    difference = Column("difference", texts, key="difference", bold=frozenset({1}))
    table = Table((Column("variant", ("a", "b", "c"), False, key="variant"), difference))
    lines = as_markdown(table).splitlines()[2:]
    assert [line.split(" | ")[1].rstrip(" |") for line in lines] == [
        "-",
        f"**{texts[1]}**",
        texts[2],
    ]
    bold = [line for line in as_latex(table, "", "", []).splitlines() if "textbf" in line]
    assert bold == [
        r"b & \textbf{\boldmath $+1.40$} {\scriptsize {[}$+0.90$, $+1.90$]} \\",
    ]
    console = Console(width=80, color_system="standard", force_terminal=True, file=io.StringIO())
    console.print(as_rich(table, table, ""))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.findall("\x1b\\[1m([+-][^\x1b]*)", printed.partition("difference")[2]) == [texts[1]]


def wide_table() -> Table:
    """Return a table of two grid cells and a published row, with two columns in each cell."""
    columns = [Column("variant", ("ours", "theirs"), False, key="variant")]
    for cell in ("8", "16"):
        columns.append(Column("mIoU %", ("70.1 ± 0.2", "-"), True, 0, "miou", cell))
        columns.append(Column("published %", ("70.0", "73.2"), True, 2, "published", cell))
    return Table(tuple(columns), {1: "other methods, published"}, 1, "grid")


def test_columns_are_dropped_only_where_the_terminal_is_too_narrow() -> None:
    """From all cells of the grid; a published row without a value is dropped with them."""
    table = wide_table()
    console = Console(width=200, file=io.StringIO())
    console.print(as_rich(table, table, ""))
    width = max(map(len, console.file.getvalue().splitlines()))  # type: ignore[attr-defined]
    assert fitted(table, width) == table
    narrower = fitted(table, width - 1)
    assert [(column.group, column.key) for column in narrower.columns] == [
        ("", "variant"),
        ("8", "miou"),
        ("16", "miou"),
    ]
    assert narrower.columns[0].values == ("ours",)
    assert narrower.sections == {}


def test_groups_are_ruled_in_latex() -> None:
    text = as_latex(wide_table(), "", "", [])
    groups, rules = text.partition("\\toprule\n")[2].splitlines()[:2]
    assert groups == r" & \multicolumn{2}{c}{8} & \multicolumn{2}{c}{16} \\"
    assert rules == r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}"
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    assert body[0].startswith("ours & ")
    assert body[1:3] == [r"\midrule", r"\multicolumn{5}{l}{\emph{other methods, published}} \\"]


def test_dollars_are_not_math_in_markdown() -> None:
    assert markdown_text("$x^2$ for $5") == r"\$x^2\$ for \$5"


def test_latex_names_the_characters_that_it_lacks() -> None:
    labels = ("ours \N{GREEK SMALL LETTER ALPHA} \u65e5", "caf\u00e9")
    table = Table((Column("variant", labels, False, key="variant"),))
    text = as_latex(table, "caption", "tab:x", ["note \u672c"])
    assert "% pdfLaTeX stops at \u672c \u65e5; use LuaLaTeX" in text
    known = replace(table, columns=(replace(table.columns[0], values=("ours", "caf\u00e9")),))
    assert "pdfLaTeX" not in as_latex(known, "caption", "tab:x", [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04996, "0.04996"),
        (0.0499996, "0.0499996"),
        (0.0496, "0.0496"),
        (0.0494, "0.049"),
        (0.05, "0.050"),
        (0.001, "0.001"),
        (0.00099, "<0.001"),
    ],
)
def test_p_below_the_level_is_printed_below_it(value: float, text: str) -> None:
    assert p_text(value) == text

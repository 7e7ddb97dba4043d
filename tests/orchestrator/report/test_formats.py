"""The formats of the report's tables."""

from dataclasses import replace

import pytest

from orchestrator.report.cells import p_text
from orchestrator.report.columns import Column
from orchestrator.report.formats import as_latex, as_rich, fitted, markdown_text
from orchestrator.report.table import Table


def test_columns_that_do_not_fit_are_in_a_file_that_has_all() -> None:
    """The CSV has no medians and no p of interactions."""
    columns = (Column("variant", ("a",), False), Column("p, interaction", ("0.1",), drop_rank=1))
    table = Table(columns)
    rich = as_rich(table, fitted(table, 14), "")
    assert rich.caption == "columns that do not fit: p, interaction (all are in table.md)"


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
    ],
)
def test_p_below_the_level_is_printed_below_it(value: float, text: str) -> None:
    assert p_text(value) == text

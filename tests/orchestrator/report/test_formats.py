"""The formats of the report's tables."""

import pytest

from orchestrator.report.cells import p_text
from orchestrator.report.columns import Column
from orchestrator.report.formats import as_rich, fitted, latex_text
from orchestrator.report.table import Table


def test_columns_that_do_not_fit_are_in_a_file_that_has_all() -> None:
    """The CSV has no medians and no p of interactions."""
    columns = (Column("variant", ("a",), False), Column("p, interaction", ("0.1",), drop_rank=1))
    table = Table(columns)
    rich = as_rich(table, fitted(table, 14), "")
    assert rich.caption == "columns that do not fit: p, interaction (all are in table.md)"


def test_latex_has_bars_and_deltas_as_math() -> None:
    assert latex_text("Δ a|b") == r"$\Delta$ a$|$b"


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

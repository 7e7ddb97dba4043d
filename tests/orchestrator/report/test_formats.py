"""The formats of the report's tables."""

from orchestrator.report.columns import Column
from orchestrator.report.formats import as_rich, fitted
from orchestrator.report.table import Table


def test_columns_that_do_not_fit_are_in_a_file_that_has_all() -> None:
    """The CSV has no medians and no p of interactions."""
    columns = (Column("variant", ("a",), False), Column("p, interaction", ("0.1",), drop_rank=1))
    table = Table(columns)
    rich = as_rich(table, fitted(table, 14), "")
    assert rich.caption == "columns that do not fit: p, interaction (all are in table.md)"

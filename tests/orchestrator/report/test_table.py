"""The report's tables, independent of the output format."""

from orchestrator.report.columns import Column
from orchestrator.report.table import Table

AXES = (
    Column("variant", ("a", "a", "GFFNet", "GFFNet", "CCNet"), numeric=False, key="variant"),
    Column("backbone", ("r18", "r50", "r18", "r50", "-"), numeric=False, key="model.backbone"),
    Column("mIoU %", ("70", "71", "72", "73", "74"), key="miou"),
)


def test_labels_of_published_rows_have_the_axes_that_are_left_out() -> None:
    table = Table(AXES, {0: "r18", 1: "r50", 2: "other methods, published"}, 3).without_axes()
    assert [column.key for column in table.columns] == ["variant", "miou"]
    labels = ("a", "a", "GFFNet (r18)", "GFFNet (r50)", "CCNet")
    assert table.columns[0].values == labels
    assert table.without_axes() == table


def test_axes_remain_if_no_section_of_trained_rows_has_a_title() -> None:
    table = Table(AXES, {2: "other methods, published"}, 3)
    assert table.without_axes() == table

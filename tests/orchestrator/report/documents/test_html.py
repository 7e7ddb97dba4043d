"""The report's page, with more rows and longer names than most studies have."""

import re
from pathlib import Path

import pytest

from orchestrator.report.charts.figures import LOSS, MIOU
from orchestrator.report.documents.html import render_page
from orchestrator.report.notes.report_notes import Notes
from orchestrator.report.tables.class_differences import ClassDifference, ClassLine, HeatMap
from orchestrator.report.tables.columns import Column
from orchestrator.report.tables.table import Table
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of
from tests.support.known_results import known_grid

pytestmark = pytest.mark.usefixtures("own_store")


def test_many_rows_and_long_labels_fit_on_page_and_paper(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    report = report_of(path).read()
    classes = tuple(f"class {index}" for index in range(30))
    cells = tuple(ClassDifference(name, 50.0) for name in classes)
    lines = tuple(ClassLine(f"row {index}", False, cells) for index in range(43))
    labels = ("short", "a label that describes each and every setting of its row")
    text = render_page(
        report.study,
        report.rows,
        [(name, Table((Column("variant", (name,), False),))) for name in labels],
        report.notes,
        [],
        {(): HeatMap((), classes, lines, 5.0)},
        lambda *_: [],
        lambda _: "",
        "",
        {},
    )
    heads = re.findall(r'class="heat vertical">.*?<thead>(.*?)</thead>', text, re.S)
    shown = [re.findall(r"<th><span>(row \d+)</span></th>", head) for head in heads]
    assert [len(names) for names in shown] == [20, 20, 3]
    assert [name for names in shown for name in names] == [line.label for line in lines]
    assert len(re.findall('<table class="long">', text)) == 1
    style = text.partition("@media print")[2].partition("</style>")[0]
    assert "max-height" in style  # taller charts would be cut
    assert ".charts { display: block; }" in style


def test_page_counts_scores_and_shows_the_last_values() -> None:
    study, found = known_grid()
    curves = {LOSS: [(1, 2.5), (2, 0.75), (3, 0.625)], MIOU: [(1, 0.25), (3, 0.5)]}
    text = render_page(
        study,
        found.rows,
        [],
        Notes((), (), (), ()),
        [],
        {},
        lambda result, metric: curves[metric],
        lambda result: f"http://runs/{result.trial.name}",
        "",
        {},
    )
    assert re.search(r"17 of 18 trials\s+have a score", text)
    last = re.findall(r"<title>last (.*?)</title>", text)
    assert set(last[::2]) == {"0.625"}
    assert set(last[1::2]) == {"0.5"}

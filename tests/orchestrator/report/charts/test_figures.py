"""The figures of a report, with fabricated trainings in a real tracking store."""

from pathlib import Path

import pytest

from orchestrator.report.charts import figures
from orchestrator.report.charts.figures import class_maps, draw_figures
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of

pytestmark = pytest.mark.usefixtures("own_store")


def test_figure_of_many_classes_says_which_it_shows(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN + "seeds: [0, 1]\n")
    report = report_of(path).read()
    maps = class_maps(report.study, report.rows)
    count = len(maps[()].classes)
    axis = "IoU points, b minus a"
    for shown in (count, count - 1):
        monkeypatch.setattr(figures, "_MAX_CLASSES", shown)
        drawn = draw_figures(report.study, report.rows, lambda *_: [], maps)
        (figure,) = [each.figure for each in drawn if each.kind == "classes"]
        label = figure.axes[0].get_xlabel()
        if shown == count:
            assert label == axis
        else:
            more = f"{shown} of {count} classes, those with the largest differences"
            assert label == f"{axis}\n{more}"

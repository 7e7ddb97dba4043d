"""Which trainings, folds and rows are compared, and what the notes say of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from orchestrator.report.rows import comparisons
from orchestrator.report.rows.image_differences import image_list
from orchestrator.report.rows.scores import find_score
from orchestrator.report.study_report import StudyReport
from orchestrator.report.tables.class_differences import heat_map
from orchestrator.study.load import load_study
from pipelines.data.manifest import ClassInfo
from tests.support.fabricated_studies import (
    PLAIN,
    fabricate,
    fabricate_study,
    report_of,
    write_study,
)

pytestmark = [pytest.mark.usefixtures("own_store"), pytest.mark.slow]


@pytest.mark.parametrize(
    ("grid", "shared"),
    [
        ("{evaluation.flip: [false, true]}", True),
        ("{training.learning_rate: [0.01, 0.02]}", False),
        ("{evaluation.flip: [false, true], training.batch: [4, 8]}", True),
    ],
)
def test_cells_that_differ_only_in_scoring_share_their_trainings(
    grid: str,
    shared: bool,
    tmp_path: Path,
    small_streets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = fabricate_study(tmp_path, small_streets, f"{PLAIN}seeds: [0, 1, 2]\ngrid: {grid}\n")
    passed = []
    compare_means = comparisons.compare_means

    def spy(compared_to: str, cells: list[comparisons.Pairs], shared_trainings: bool) -> object:
        passed.append(shared_trainings)
        return compare_means(compared_to, cells, shared_trainings)

    monkeypatch.setattr(comparisons, "compare_means", spy)
    (overall,) = report_of(path).read().overall
    assert overall.difference.p is not None
    assert passed == [shared]


def test_fold_without_a_class_has_no_score_of_it(tmp_path: Path, small_streets: Path) -> None:
    """In fold 1 the class is predicted (IoU 0), in fold 2 it does not occur (no IoU)."""
    names = [entry.name for entry in fabricate_folds(tmp_path, small_streets)]
    report = report_of(tmp_path / "study.yaml").read()
    score = find_score(report.study.config, report.rows, f"iou/{names[3]}")
    assert score is not None
    means = []
    for row in report.rows:
        values = score.values(row)
        assert sorted(fold for _, fold in values) == [0, 3, 4]
        assert all(value > 10 for value in values.values())
        means.append(np.mean(list(values.values())))
    difference = report.rows[1].differences[score.key]
    assert difference.mean == pytest.approx(means[1] - means[0], abs=0.3)
    assert "nan" not in report.markdown()
    (grid_cell,) = {row.grid_cell for row in report.rows}
    map_ = heat_map(report.study, report.rows, grid_cell)
    assert map_ is not None
    assert map_.lines[0].classes[3].iou == pytest.approx(means[0])


def fabricate_folds(tmp_path: Path, dataset: Path) -> Sequence[ClassInfo]:
    """Record a study with five folds; return its classes. The fourth lacks labels in two folds."""
    path = write_study(tmp_path, dataset, f"{PLAIN}folds: 5\n")
    study = load_study(path)
    trials = fabricate(
        study,
        tmp_path / "storage",
        lacks=lambda trial: {1: (3,), 2: (2, 3)}.get(trial.experiment.data.fold or 0, ()),
    )
    classes = trials[0].dataset.manifest.classes
    name = classes[3].name
    columns = f"report: {{columns: [miou, 'iou/{name}', 'difference/iou/{name}']}}\n"
    path.write_text(path.read_text() + columns)
    return classes


def test_note_on_missing_seeds_says_whether_the_means_shown_are_of_others(
    tmp_path: Path, small_streets: Path
) -> None:
    variants = "  c: {set: {model: {flows: [detail]}}}\n"
    text = f"{PLAIN}{variants}seeds: [0, 1, 2]\n"
    missing = ("a, seed 2", "b, seed 2", "c, seed 1", "c, seed 2")
    path = fabricate_study(tmp_path, small_streets, text, fates=dict.fromkeys(missing, "missing"))
    notes = report_of(path).read().notes.footnotes
    same = "b: the difference uses seeds 0, 1, which both rows finished."
    other = "c: the difference uses seed 0, which both rows finished; it is not the difference"
    assert sum(note == same for note in notes) == 1
    assert sum(note.startswith(other) for note in notes) == 1


def test_rows_are_left_out_where_they_cannot_be_compared_with_compare_to(
    tmp_path: Path, small_streets: Path
) -> None:
    variants = """\
  b: {set: {evaluation: {flip: true}}}
  c: {set: {evaluation: {flip: true}, model: {flows: []}}, compare_to: b}
  d: {set: {model: {flows: [detail]}}, compare_to: b}
"""
    text = PLAIN.replace("  b: {set: {model: {flows: []}}}\n", variants)
    path = fabricate_study(tmp_path, small_streets, f"{text}seeds: [0, 1]\n")
    report = report_of(path).read()
    assert [bool(row.incomparable) for row in report.rows] == [False, True, False, True]
    (grid_cell,) = {row.grid_cell for row in report.rows}
    map_ = heat_map(report.study, report.rows, grid_cell)
    assert map_ is not None
    assert [line.label for line in map_.lines] == ["a", "d"]
    assert map_.has_differences
    images = image_list(report.study, report.rows, grid_cell)
    assert images is not None
    assert (images.label, images.compared_to) == ("d", "a")
    # Without the row compared to, IoU is shown instead of differences, and the caption says so.
    map_ = heat_map(report.study, report.rows[1:], grid_cell)
    assert map_ is not None
    assert not map_.has_differences


def test_images_of_data_sets_with_one_name_are_told_apart(
    tmp_path: Path, small_streets: Path
) -> None:
    other = tmp_path / "other" / small_streets.name
    other.parent.mkdir()
    other.symlink_to(small_streets)
    grid = f"grid: {{data.dataset: [{small_streets}, {other}]}}\n"
    path = fabricate_study(
        tmp_path, small_streets, f"{PLAIN}seeds: [0, 1, 2]\n{grid}", cities={"bonn": 60}
    )
    notes = "\n".join(report_of(path).read().notes.footnotes)
    assert f"{small_streets}: 60 images; {other}: 60 images" in notes


def test_needed_seeds_are_those_of_the_whole_study(tmp_path: Path, small_streets: Path) -> None:
    """Before anything is trained, whatever part of it `--only` selects."""
    published = "reference: {miou: MIOU, source: Table 1}"
    text = PLAIN.replace("a: {}", f"a: {{{published.replace('MIOU', '77.3')}}}")
    text = text.replace("b: {set", f"b: {{{published.replace('MIOU', '78.8')}, set")
    variants = "".join(f"  {name}: {{set: {{model: {{flows: [detail]}}}}}}\n" for name in "cdef")
    path = write_study(tmp_path, small_streets, f"{text}{variants}seeds: [0, 1]\n")
    whole = report_of(path).read().seed_caveats
    store = report_of(path).store
    part = StudyReport(load_study(path, only=["a*", "b*"]), store).read()
    assert len(part.rows) == 2
    assert part.seed_caveats == whole
    assert len(whole) == 1

"""Warnings about rows that were trained or scored in different ways."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.report.notes.caveats import caveats, seed_caveats
from orchestrator.report.rows.comparisons import compare_rows
from orchestrator.report.rows.row import Row, build_rows
from orchestrator.report.statistics.power import seeds_warning
from orchestrator.study.study import Study
from tests.support.known_results import known_counts, known_result, study_of


def warnings(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the warnings about rows a and b with two seeds. runs: changed fields of runs."""
    study = study_of(variants={"a": {}, "b": {"set": {"model": {"ppm": False}}}}, seeds=[0, 1])
    results = [
        known_result(trial, 70.0 + index, **runs.get(trial.name, {}))
        for index, trial in enumerate(study.trials)
    ]
    return list(caveats(study, build_rows(study, results)))


def test_equal_trainings_have_no_warning() -> None:
    assert warnings({}) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"workers": "2"},
            "Trials were trained by different numbers of workers (2, 4). Their steps are the same",
        ),
        (
            {"data": "f" * 64},
            "Rows were trained on different versions of /streets (fingerprints 000000000000, ffff",
        ),
        ({"precision": "bf16"}, "Rows were trained with different precisions (bf16, fp32); "),
    ],
    ids=["workers", "data", "precision"],
)
def test_rows_trained_in_different_ways_are_named(changed: dict[str, str], expected: str) -> None:
    same = {"workers": "4", "data": "0" * 64}
    names = ("a, seed 0", "a, seed 1", "b, seed 0", "b, seed 1")
    runs = {name: same | (changed if name[0] == "b" else {}) for name in names}
    assert any(line.startswith(expected) for line in warnings(runs))
    assert warnings(dict.fromkeys(names, same)) == []


@pytest.mark.parametrize("changed", [{"data": "another"}, {"precision": "bf16"}])
def test_seeds_of_a_row_that_differ_are_named(changed: dict[str, str]) -> None:
    lines = warnings({"b, seed 1": changed})
    assert any("Seeds of b differ in data version, code version or precision" in e for e in lines)


def test_code_of_other_rows_and_runs_without_an_epoch_have_no_warning() -> None:
    """A row with a module of its own has a version of its own."""
    names = ("a, seed 0", "a, seed 1", "b, seed 0", "b, seed 1")
    code = {name: {"code": name[0], "workers": "4"} for name in names}
    assert warnings(code) == []
    assert warnings(code | {"b, seed 1": {"code": "b", "workers": ""}}) == []


def test_data_sets_of_a_grid_have_their_own_versions() -> None:
    datasets = ["/streets", "/roads"]
    study = study_of(variants={"a": {}}, grid={"data.dataset": datasets}, seeds=[0, 1])
    results = [
        known_result(trial, 70.0, data=trial.experiment.data.dataset) for trial in study.trials
    ]
    lines = list(caveats(study, build_rows(study, results)))
    assert not any("different versions" in line for line in lines)


def compared(study: Study, **times: tuple[float, float]) -> list[Row]:
    """Return the compared rows. times: start and end of trials, by variant and seed."""
    scores = np.random.default_rng(0).normal(70, 0.3, len(study.trials))
    results = []
    for trial, score in zip(study.trials, scores, strict=True):
        key = f"{trial.variant}{trial.experiment.seed}"
        started, closed = times.get(key, (0.0, 10.0))
        results.append(known_result(trial, score, started_at=started, closed_at=closed))
    return compare_rows(study, build_rows(study, results)).rows


LATER = (20.0, 30.0)


@pytest.mark.parametrize(
    ("times", "added"),
    [
        ({"a2": LATER, "b2": LATER, "c2": LATER}, True),
        ({"b2": LATER}, False),  # a trial was repeated
        # A trial ended early, before those of the next seed started.
        ({"a0": (0.0, 1.0), "a2": (5.0, 9.0), "b2": (5.0, 9.0), "c2": (5.0, 9.0)}, False),
    ],
)
def test_seeds_that_started_after_others_had_ended_are_named(
    times: dict[str, tuple[float, float]], added: bool
) -> None:
    variants = {name: {"set": {"training": {"epochs": 100 + i}}} for i, name in enumerate("abc")}
    study = study_of(variants=variants, seeds=[0, 1, 2])
    lines = list(caveats(study, compared(study, **times)))
    assert any(line.startswith("Seeds were added") for line in lines) == added
    single = study_of(variants={"a": {}}, seeds=[0, 1, 2])  # without p
    assert list(caveats(single, compared(single, **times))) == []


@pytest.mark.parametrize(
    ("labeled", "consequence"),
    [
        ([True, True, False], "differences between rows cannot show what was learned."),
        ([True, True, True], "differences come from the other 2."),
    ],
)
def test_class_of_no_correct_pixel_is_named_if_it_has_labels(
    labeled: Sequence[bool], consequence: str
) -> None:
    """Class `car` has labels in one of two folds."""
    study = study_of(variants={"a": {}}, folds=2)
    results = []
    for trial in study.trials:
        here = np.array(labeled) & (
            (trial.experiment.data.fold == 0) | np.array([True, False, True])
        )
        iou = np.where(here, [0.7, 0.0, 0.6], np.nan)
        counts = replace(known_counts(70.0), classes=("road", "car", "sky"), iou=iou, labeled=here)
        results.append(known_result(trial, 70.0, counts))
    (line,) = caveats(study, build_rows(study, results))
    assert line == (
        "IoU is 0 in every row for: car. mIoU is the mean over all "
        f"{sum(labeled)} classes in the labels; {consequence}"
    )


def zero_lines(iou: Mapping[str, Sequence[Sequence[float]]]) -> list[str]:
    """Return the warnings about rows with seeds of these IoUs in seven classes, c0 to c6."""
    variants = {name: {"set": {"training": {"epochs": 100 + i}}} for i, name in enumerate(iou)}
    study = study_of(variants=variants, seeds=[0, 1])
    classes = tuple(f"c{index}" for index in range(7))
    results = []
    for trial in study.trials:
        values = np.array(iou[trial.variant][trial.experiment.seed])
        labeled = np.arange(7) < 6  # c6 has no labels
        counts = replace(known_counts(70.0), classes=classes, iou=values, labeled=labeled)
        miou = 100 * float(values[:6].mean())
        results.append(known_result(trial, miou, counts, metrics={"val/miou": miou}))
    return [line for line in caveats(study, build_rows(study, results)) if "IoU is 0" in line]


def test_classes_of_no_correct_pixel_in_one_row_are_named() -> None:
    good, last = [0.5] * 6 + [0.0], [0.9] * 5 + [0.0] * 2
    assert zero_lines({"a": [good, good], "b": [last, good]}) == []
    assert zero_lines({"a": [good, good], "b": [last, last]}) == [
        "IoU is 0 in every trial of b for c5. Other rows are above 0 there."
    ]
    # The best row is named first; what all rows have at 0 is a warning of its own.
    weak = [0.4] + [0.0] * 6
    lines = zero_lines({"a": [weak, weak], "b": [last, last], "c": [last, last]})
    assert [line.partition(". ")[0] for line in lines] == [
        "IoU is 0 in every row for: c5",
        "IoU is 0 in every trial of a for c1, c2, c3 and 1 more",
    ]
    weaker = [0.4, 0.4] + [0.0] * 5
    rows = {"a": [weaker] * 2, "b": [weak] * 2, "c": [last] * 2, "d": [last] * 2, "e": [good] * 2}
    assert zero_lines(rows) == [
        "IoU is 0 in every trial of c, d for c5; in every trial of a for c2, c3, c4 and 1 more; "
        "in every trial of b for c1, c2, c3 and 2 more. Other rows are above 0 there."
    ]
    single = [[float(index != hole) for index in range(7)] for hole in range(5)]
    (line,) = zero_lines({"abcde"[index]: [iou] * 2 for index, iou in enumerate(single)})
    assert "in every trial of c for c2; in 2 more rows for other classes. Other" in line


def test_seeds_needed_count_the_rows_of_a_cell_and_all_comparisons() -> None:
    variants = {name: {"set": {"training": {"epochs": 100 + i}}} for i, name in enumerate("abc")}
    study = study_of(
        variants=variants,
        grid={"training.batch": [8, 16]},
        seeds=[0, 1],
        report={"expected_difference": 0.5},
    )
    rows = build_rows(study, [])
    assert rows == []
    rows = compared(study)
    planned = [replace(row, difference=None) for row in rows]
    source = "`report.expected_difference`"
    assert list(seed_caveats(study, planned)) == [seeds_warning(2, 0.5, source, 3, 6)]
    assert list(seed_caveats(study, rows)) == []  # the spread is known

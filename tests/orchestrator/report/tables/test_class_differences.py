"""Differences by class, against scipy's paired t-test."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.tables.class_differences import class_differences


def test_intervals_and_colors_are_those_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(60, 2, (5, 4))
    iou = base + [4.0, 0.2, -3.0, 0.0] + rng.normal(0, 0.4, (5, 4))
    cells = class_differences(["road", "pole", "sky", "car"], iou, base)
    tests = [stats.ttest_rel(iou[:, index], base[:, index]) for index in range(4)]
    for cell, test in zip(cells, tests, strict=True):
        interval = test.confidence_interval(0.95)
        assert cell.interval == pytest.approx((interval.low, interval.high))
    p_values = np.array([test.pvalue for test in tests])
    order = np.argsort(p_values)
    adjusted = np.empty(4)
    adjusted[order] = np.maximum.accumulate(p_values[order] * [4, 3, 2, 1])  # Holm
    assert [cell.significant for cell in cells] == (adjusted < 0.05).tolist()
    assert cells[0].significant
    assert not cells[3].significant
    assert cells[0].text.startswith("+")


def test_one_seed_has_no_interval_and_absent_classes_no_text() -> None:
    iou, base = np.array([[50.0, np.nan]]), np.array([[40.0, np.nan]])
    present, absent = class_differences(["road", "train"], iou, base)
    assert (present.text, present.interval, present.significant) == ("+10.00", None, False)
    assert (absent.text, absent.interval, absent.significant) == ("", None, False)


def test_class_that_one_row_alone_predicts_has_no_text() -> None:
    """No label has the class, so its IoU is 0 where it is predicted and undefined elsewhere."""
    zero, undefined = np.zeros((2, 1)), np.full((2, 1), np.nan)
    for iou, base in ((zero, undefined), (undefined, zero)):
        (cell,) = class_differences(["train"], iou, base)
        assert cell.text == ""
        assert not cell.significant


def test_equal_seeds_are_no_evidence() -> None:
    """A class with IoU 0 in all trainings differs by 0 with a spread of 0."""
    (cell,) = class_differences(["pole"], np.zeros((3, 1)), np.zeros((3, 1)))
    assert cell.text == "0.00"
    assert not cell.significant

"""Warnings about rows that were trained or scored in different ways."""

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.report.caveats import caveats
from orchestrator.report.rows import build_rows
from tests.support.known_results import known_result, study_of


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


def test_seeds_of_a_row_that_differ_are_named() -> None:
    lines = warnings({"b, seed 1": {"data": "another"}})
    assert any("Seeds of b differ in data version, code version or precision" in e for e in lines)

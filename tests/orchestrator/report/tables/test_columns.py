"""The columns of metrics and costs: units, decimals, and which are left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.documents.formats import for_paper
from orchestrator.report.rows.row import build_rows
from orchestrator.report.statistics.significance import Difference
from orchestrator.report.tables.columns import Column, metric_columns
from orchestrator.report.tables.table import Table
from orchestrator.study.model_cost import ModelCost
from tests.support.known_results import known_result, study_of
from tests.support.own_metric import WRONG

METRICS = {
    "a": {"val/dice": 0.8, "val/Wrong": 1.25, "memory_gib": 4.0},
    "b": {"val/dice": 0.9, "val/Wrong": 1.5, "memory_gib": 5.0},
}

IN_PIXELS = "class Wrong(Metric):\n    in_percent = False\n"


def columns_of(requested: list[str], differences: dict[str, Any], **keys: Any) -> dict[str, Column]:
    """Return the requested columns, by key, of two rows of two seeds with `METRICS`; the second
    seed has a tenth more."""
    study = study_of(
        variants={"a": {}, "b": {"set": {"training": {"epochs": 9}}}},
        seeds=[0, 1],
        report={"columns": requested},
        **keys,
    )
    results = []
    for trial in study.trials:
        factor = 1 + 0.1 * trial.experiment.seed
        metrics = {name: factor * value for name, value in METRICS[trial.variant].items()}
        results.append(known_result(trial, 70.0, metrics=metrics))
    first, second = build_rows(study, results)
    columns = metric_columns(study.config, [first, replace(second, differences=differences)], ())
    return {column.key: column for column in columns}


def test_metrics_are_in_percent_or_in_their_own_unit(
    user_module: Callable[[str, str], Path],
) -> None:
    user_module("own_distance", WRONG.replace("class Wrong(Metric):", IN_PIXELS))
    base = {"data": {"dataset": "/streets"}, "evaluation": {"metrics": ["own_distance:Wrong"]}}
    found = Difference("a", 0.2749, {0: 0.25, 1: 0.2998}, interval=(0.12344, 0.42634))
    requested = ["miou", "dice", "Wrong", "memory_gib", "iou/pole"]
    differences = {"dice": replace(found, mean=10.5, interval=(1, 2)), "Wrong": found}
    requested += [f"difference/{key}" for key in differences]
    columns = columns_of(requested, differences, base=base)
    assert columns["dice"].values == ("84.0 ± 5.7", "94.5 ± 6.4")
    assert columns["Wrong"].values == ("1.312 ± 0.088", "1.575 ± 0.106")
    assert columns["memory_gib"].values == ("4.2", "5.25")
    assert columns["difference/dice"].values == ("-", "+10.50 [+1.00, +2.00]")
    assert columns["difference/Wrong"].values == ("-", "+0.2749 [+0.1234, +0.4263]")
    names = [columns[key].name for key in ("dice", "Wrong")]
    assert names == ["Dice %", "Wrong"]
    assert "iou/pole" not in columns  # no run has it


@pytest.mark.parametrize(
    ("sizes", "header"),
    [(((32, 64), (32, 64)), "GFLOPs at 32x64"), (((32, 64), (64, 32)), "GFLOPs")],
)
def test_size_of_all_rows_is_in_the_header(sizes: Any, header: str) -> None:
    study = study_of(variants={"a": {}, "b": {"set": {"training": {"epochs": 9}}}})
    costs = {
        trial.name: ModelCost(8.125, 12.5, size)
        for trial, size in zip(study.trials, sizes, strict=True)
    }
    results = [known_result(trial, 70.0) for trial in study.trials]
    columns = metric_columns(study.config, build_rows(study, results, costs), ())
    (column,) = (column for column in columns if column.key == "gflops")
    assert (column.name, column.values) == (header, ("12.5", "12.5"))


def test_requested_columns_are_in_papers_too() -> None:
    (column,) = columns_of(["hours", "memory_gib", "best"], {}).values()
    assert column.key == "memory_gib"  # the others have no values
    study = study_of(variants={"a": {}}, report={"columns": ["hours"]})
    result = known_result(study.trials[0], 70.0, metrics={"trial/seconds": 3600.0})
    (column,) = metric_columns(study.config, build_rows(study, [result]), ())
    assert column.values == ("1.0",)
    assert for_paper(Table((column,))).columns == (column,)

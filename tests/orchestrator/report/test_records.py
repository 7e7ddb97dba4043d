"""The columns of a report's records, against the dtypes that are declared for them."""

from orchestrator.report.comparisons import compare_rows
from orchestrator.report.records import INTEGERS, TEXTS, table_records, trial_records
from orchestrator.report.rows import build_rows
from tests.support.known_results import known_result, study_of


def test_columns_of_texts_and_of_whole_numbers_are_declared() -> None:
    study = study_of(
        variants={"a": {"reference": {"miou": 70, "source": "Table 1"}}, "b": {}, "c": {}},
        seeds=[0, 1, 2],
        published=[{"label": "other", "miou": 71.5, "source": "Table 2"}],
    )
    results = [
        known_result(trial, 60.0 + (index * 7 % 5) / 10) for index, trial in enumerate(study.trials)
    ]
    rows = compare_rows(study, build_rows(study, results)).rows
    found: dict[type, set[str]] = {int: set(), str: set()}
    for line in (*table_records(study, rows, study.config.published), *trial_records(study, rows)):
        for name, value in line.items():
            if type(value) in found:
                found[type(value)].add(name)
    assert found[int] <= INTEGERS
    assert found[str] <= TEXTS
    assert {"n", "comparisons", "published_elsewhere", "stale", "seed"} <= found[int]
    assert {"compared_to", "difference_method", "runs", "state"} <= found[str]

"""The columns of a report's records: their values, and the dtypes that are declared for them."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.documents.records import INTEGERS, TEXTS, table_records, trial_records
from orchestrator.report.rows.comparisons import compare_rows
from orchestrator.report.rows.row import build_rows
from tests.support.known_results import GRID_SCORES, known_grid, known_result, study_of


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


def test_lines_have_the_values_of_known_scores() -> None:
    study, found = known_grid()
    lines = table_records(study, found.rows, study.config.published)
    by_row = {(line["variant"], line["training.batch"]): line for line in lines}
    base, line, lacking, last = (
        by_row[key] for key in (("a", "8"), ("b", "8"), ("b", "16"), ("c", "16"))
    )
    scores = np.array(GRID_SCORES[8]["b"])
    pairs = scores - GRID_SCORES[8]["a"]
    assert line == {**line, **{f"miou_seed_{seed}": scores[seed] for seed in range(3)}}
    assert line["miou_mean"] == pytest.approx(scores.mean())
    assert line["miou_sd"] == pytest.approx(scores.std(ddof=1))
    assert line["best_miou_mean"] == pytest.approx(scores.mean() + 0.25)
    assert (base["entered_miou_mean"], line["entered_miou_mean"]) == (None, 69.5)
    assert line["difference"] == pytest.approx(pairs.mean())
    assert line["difference_sd"] == pytest.approx(pairs.std(ddof=1))
    # The interval is Student's of the pooled spread: the images do not vary.
    (difference,) = (
        row.difference for row in found.rows if (row.variant, row.grid_cell) == ("b", ("8",))
    )
    assert difference is not None
    error = line["difference_sd_used"] / np.sqrt(3)
    width = stats.t.ppf(0.975, difference.freedom) * error
    assert line["interval_low"] == pytest.approx(pairs.mean() - width, abs=1e-3)
    assert line["interval_high"] == pytest.approx(pairs.mean() + width, abs=1e-3)
    assert line["smallest_detectable"] > width
    p = 2 * stats.t.sf(pairs.mean() / error, difference.freedom)
    assert line["p"] == pytest.approx(p, rel=0.01)
    assert line["p_holm"] == pytest.approx(5 * line["p"])  # one of the means has a lower p
    assert line["comparisons"] == 6
    published = ("published_miou", "published_elsewhere", "published_parameters_m")
    published += ("published_gflops", "published_difference", "source")
    assert [base[name] for name in published] == [70, 0, 8.5, 0.5, None, ""]
    assert [line[name] for name in published] == [71.5, 0, None, None, 1.5, "T1"]
    assert [by_row[variant, "16"]["published_elsewhere"] for variant in "abc"] == [1, 1, None]
    assert (line["images_per_second"], line["hours"], line["unfinished"]) == (21.0, 0.5, "")
    names = ("n", "seeds_requested", "difference_n", "images_per_second", "hours", "unfinished")
    assert [lacking[name] for name in names] == [2, 3, 2, 20.5, 0.375, "failed"]
    assert [last[name] for name in names] == [3, 3, 2, 21.0, 0.5, ""]
    assert (lines[-1]["label"], lines[-1]["training.batch"], lines[-1]["n"]) == ("X", "8", None)
    trial = trial_records(study, found.rows)[1]
    assert (trial["trial"], trial["miou"], trial["best_miou"]) == ("a, 8, seed 1", 70.6, 70.85)


def test_lines_have_the_folds_and_the_protocol_of_their_scores() -> None:
    study = study_of(
        variants={"a": {}},
        seeds=[0, 1],
        folds=3,
        protocols={"slid": {"window": [32, 64]}},
        report={"protocol": "slid", "columns": ["miou", "dice"]},
    )
    results = [
        known_result(trial, 70.0, metrics={"eval/slid/dice": 0.8 + trial.experiment.seed / 100})
        for trial in study.trials
    ]
    (line,) = table_records(study, build_rows(study, results), [])
    dice = np.array([80.0, 81.0]).repeat(3)
    assert line["dice_mean"] == pytest.approx(dice.mean())
    assert line["dice_sd"] == pytest.approx(dice.std(ddof=1))
    assert not {"p", "p_holm", "interval_low", "image_interval_low"} & line.keys()
    assert (line["n"], line["seeds_requested"], line["folds_requested"]) == (6, 2, 3)
    assert str(line["protocol"]).startswith("window-32x64")

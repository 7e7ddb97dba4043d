"""`--plan` prints a study's forecast without training."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.planning.estimate import Estimate
from orchestrator.planning.forecast import (
    Forecaster,
)
from orchestrator.planning.overhead import Overhead
from orchestrator.planning.plan import StudyPlan
from orchestrator.planning.plan_table import duration, show_plan
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.scheduling.launch import HourlyPrice, Launch
from orchestrator.study.trial_state import TrialState
from tests.support.planned_study import forecast_of, resolved, timed


def plan_of(file: Path) -> StudyPlan:
    """Return the plan of a study of which nothing is trained yet."""
    study, trials = resolved(file)
    forecast = forecast_of(study, trials)
    forecaster = Forecaster.of(
        trials, study.config.resources, [timed(trials[0], study)], "cpu", "device"
    )
    placement = plan_placement(study.config.resources, [{"CPU": 2.0, "trial_driver": 9.0}])
    states = {trial.name: TrialState.MISSING for trial in trials}
    return StudyPlan(
        study,
        states,
        forecast,
        forecaster.weakest,
        Overhead(start=10.0, preflight=20.0, end=30.0, measured=True),
        placement,
        "device",
        None,
    )


def printed(plan: StudyPlan, width: int = 120) -> str:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        show_plan(plan, console)
    return capture.get()


@given(
    value=st.floats(0, 1e6),
    below=st.floats(0, 1),
    above=st.floats(1, 10),
    price=st.floats(0.01, 100),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_interval_has_equal_ends(
    file: Path, value: float, below: float, above: float, price: float
) -> None:
    plan = plan_of(file)
    estimate = Estimate(value, value * below, value * above)
    forecast = replace(
        plan.forecast,
        wall=estimate,
        device_hours=estimate.scaled(1 / 3600),
        cost=estimate.scaled(price / 3600),
        trials=tuple(replace(each, estimate=estimate) for each in plan.forecast.trials),
    )
    text = printed(replace(plan, forecast=forecast), 200)
    assert not re.findall(r"(?<![\d.])(\d[\d.]*(?: \w+)?(?: \d+ min)?) to \1(?![\d.])", text)


def test_an_interval_without_a_width_is_its_value(file: Path) -> None:
    plan = plan_of(file)
    exact = Estimate(130.0, 128.0, 133.0)
    trials = tuple(replace(each, estimate=exact) for each in plan.forecast.trials)
    forecast = replace(plan.forecast, wall=exact, device_hours=exact, trials=trials)
    overhead = Overhead(start=0.0, preflight=0.0, end=0.0, measured=True)
    lines = printed(replace(plan, forecast=forecast, overhead=overhead), 200).splitlines()
    words = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    assert words["wall"] == "wall time 2 min for the whole command"
    (row,) = [line for line in lines if "full, seed 1" in line]
    assert " 2 min 2 min " in " ".join(row.split())  # the time, and its interval


@pytest.mark.parametrize("width", [80, 120, 200])
def test_plan_fits_the_terminal(file: Path, width: int) -> None:
    text = printed(plan_of(file), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for name in ("identity", "GFLOPs", "epochs", "steps", "time", "wall time", "longest", "disk"):
        assert name in text
    assert "limits.gpu_hours will stop the study early" in " ".join(text.split())
    assert "outside trials 60 s" in " ".join(text.split())
    (row,) = [line for line in text.splitlines() if "full, seed 1" in line]
    assert {"missing", "10", "30"} <= set(row.split())


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (0.0, ""),
        (7.0, "limit 10 limits.gpu_hours may stop the study early; it has used 7.00 of them"),
        (9.5, "limit 10 limits.gpu_hours will stop the study early; it has used 9.50 of them"),
    ],
)
def test_hours_that_the_study_has_used_count(file: Path, used: float, expected: str) -> None:
    file.write_text(file.read_text().replace("gpu_hours: 0.5", "gpu_hours: 10"))
    plan = plan_of(file)
    forecast = replace(plan.forecast, device_hours=Estimate(3, 2, 4))
    text = " ".join(printed(replace(plan, forecast=forecast, used_hours=used)).split())
    assert expected in text
    assert ("limits.gpu_hours" in text) == bool(expected)


@pytest.mark.parametrize(("method", "later"), [("random", False), ("tpe", True)])
def test_plan_lists_the_samples_of_a_search(file: Path, method: str, later: bool) -> None:
    text = file.read_text().replace("compare_to: strong", "kind: search")
    samples = f"samples: {{count: 5, method: {method}, startup: 3}}"
    file.write_text(f"{text}sample: {{training.learning_rate: {{log: [1e-3, 1]}}}}\n{samples}\n")
    lines = printed(plan_of(file)).splitlines()
    listed = [line for line in lines if line.startswith("sample ")]
    drawn = 3 if later else 5
    assert [line.split(":")[0] for line in listed] == [f"sample {n}" for n in range(drawn)]
    assert all(": training.learning_rate 0." in line for line in listed)
    # Three rows with two seeds each.
    assert ("6 more samples (12 trials) are drawn later" in "\n".join(lines)) == later


@pytest.mark.parametrize(
    ("limit", "bound", "reason"),
    [
        (None, "$7.00 3 h 00 min", "limits.wall_hours would ensure it"),
        (4, "$7.00 3 h 00 min", "the upper end of the wall time)"),
        (2, "$5.00 2 h 00 min", "(limits.wall_hours)"),
    ],
)
def test_price_is_bounded_by_the_wall_time_or_its_limit(
    file: Path, limit: float | None, bound: str, reason: str
) -> None:
    if limit is not None:
        file.write_text(file.read_text().replace("gpu_hours: 0.5", f"wall_hours: {limit}"))
    plan = plan_of(file)
    forecast = replace(plan.forecast, wall=Estimate(3600, 1800, 10800 - plan.overhead.seconds))
    price = HourlyPrice(2.0, "one machine", unused_hours=0.5)
    plan = replace(plan, forecast=forecast, launch=Launch({"large": 1}, price))
    text = " ".join(printed(plan).split())
    assert "price $2.00 per hour one machine" in text
    assert f"- at most {bound}" in text
    assert reason in text
    unknown = replace(plan, launch=Launch({"large": 1}, replace(price, dollars=None)))
    assert "price unknown" in " ".join(printed(unknown).split())
    assert "at most" not in printed(unknown)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (100, "2 min"),
        (5340, "89 min"),
        (5400, "1 h 30 min"),
        (36000, "10 h"),
        (400000, "111 h"),
    ],
)
def test_durations_are_rounded_for_readers(seconds: float, text: str) -> None:
    assert duration(seconds) == text

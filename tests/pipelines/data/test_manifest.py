"""Names of classes under which MLflow can record scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from pipelines.data.manifest import metric_name, name_problem

PROTOCOL = "p" * 50  # the longest one


@given(st.text(st.sampled_from("aé漢/. -_+?"), min_size=1) | st.text(min_size=1, max_size=300))
def test_names_without_a_problem_can_be_recorded(name: str) -> None:
    if name_problem([name]) is None:
        for start in ("val/iou", f"eval/{PROTOCOL}/boundary_f"):
            metric = metric_name(f"{start}/{name}")
            _validate_metric_name(metric)
            assert len(metric) <= MAX_ENTITY_KEY_LENGTH


@pytest.mark.parametrize("name", ["road", "road/lane", "a.b", ".hidden", "road..", "x" * 180])
def test_usual_names_have_no_problem(name: str) -> None:
    assert name_problem([name]) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("road/", "the name 'road/' cannot be recorded, because a part between slashes is empty"),
        ("./road", "the name './road' cannot be recorded"),
        ("a//b", "the name 'a//b' cannot be recorded"),
        ("a/../b", "the name 'a/../b' cannot be recorded"),
        ("/road", "the name '/road' cannot be recorded"),
        ("x" * 181, "the name 'xxxxxxxxxxxxxxxxxxxx'... has 181 characters, more than the 180"),
    ],
)
def test_names_that_mlflow_refuses_are_problems(name: str, problem: str) -> None:
    assert (name_problem(["tree", name]) or "").startswith(problem)

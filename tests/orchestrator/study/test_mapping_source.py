"""A study given as a mapping in Python."""

from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.study.mapping_source import mapping_source
from orchestrator.study.yaml_source import StudyError


class Choice(StrEnum):
    A = "dfnet1"


class Level(IntEnum):
    LOW = 3


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (np.float32(0.001), 0.001),
        (np.float16(0.1), 0.1),
        (np.array([[0.001, 1.0]], np.float32), [[0.001, 1.0]]),
        (torch.tensor([0.001, 0.3]), [0.001, 0.3]),
        (np.float64(0.001), 0.001),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (Choice.A, "dfnet1"),
        (Level.LOW, 3),
    ],
)
def test_array_is_the_shortest_decimal(given: Any, plain: Any) -> None:
    value = mapping_source({"grid": {"training.learning_rate": given}}, "the study").value
    assert value == {"grid": {"training.learning_rate": plain}}
    assert type(value["grid"]["training.learning_rate"]) is type(plain)


class Mixed(str, Enum):  # noqa: UP042
    """Enumerations of text had this form before `StrEnum`; its `str` is its name."""

    A = "dfnet1"


def test_members_of_enumerations_are_keys() -> None:
    source = mapping_source({"variants": {Mixed.A: 1, Choice.A.upper(): 2, Level.LOW: 3}}, "study")
    assert source.value == {"variants": {"dfnet1": 1, "DFNET1": 2, "3": 3}}


def test_long_double_is_reported() -> None:
    with pytest.raises(StudyError, match="`base` is a longdouble; use text, a number"):
        mapping_source({"base": np.longdouble(0.1)}, "the study")


def test_tensor_without_values_is_reported() -> None:
    with pytest.raises(StudyError, match="`base` cannot be read: "):
        mapping_source({"base": torch.empty(2, device="meta")}, "the study")


def test_value_that_contains_itself_is_reported() -> None:
    base: dict[str, Any] = {"seeds": [0]}
    base["base"] = {"data": base}
    seeds = base["seeds"]
    seeds.append(seeds)
    with pytest.raises(StudyError) as raised:
        mapping_source(base, "the study")
    assert sorted(map(str, raised.value.problems)) == [
        "the study: `base.data` contains itself; write its values out",
        "the study: `seeds.1` contains itself; write its values out",
    ]


def test_keys_that_become_the_same_text_are_reported() -> None:
    with pytest.raises(StudyError) as raised:
        mapping_source({1: "x", "1": "y", "a": {2: "x", "2": "y"}}, "the study")
    assert sorted(map(str, raised.value.problems)) == [
        "the study: duplicate key `1`; keep one of them",
        "the study: duplicate key `a.2`; keep one of them",
    ]


def test_value_may_occur_twice() -> None:
    shared = {"epochs": 3}
    assert mapping_source({"a": shared, "b": shared}, "the study").value == {
        "a": shared,
        "b": shared,
    }


def nested(depth: int) -> list[Any]:
    """Return `depth` lists, each in the next."""
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\0b", "the study: `base.data`: the character #x00 is not allowed; remove it"),
        ("a\ud800", "the study: `base.data`: the character #xd800 is not allowed; remove it"),
        ({"a\0": 1}, "the study: a key of `base.data`: the character #x00 is not allowed"),
        (Path("a\0b"), "the study: `base.data`: the character #x00 is not allowed; remove it"),
        (10**4300, r"the study: `base\.data`: a number of more than 308 digits is too long"),
        (-(10**309), r"the study: `base\.data`: a number of more than 308 digits is too long"),
        ({10**4300: 1}, r"the study: a key of `base\.data`: a number of more than 308 digits"),
        (nested(200), "the study: `base` is nested too deeply to be read"),
    ],
    ids=["NUL", "surrogate", "key", "path", "digits", "no float", "number as key", "depth"],
)
def test_value_that_no_file_can_have_is_reported(value: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        mapping_source({"base": {"data": value}}, "the study")
    with pytest.raises(StudyError, match=r"^set: a key: the character #x00 is not allowed"):
        mapping_source({"a\0b": 1}, "set")
    assert mapping_source({"base": nested(90)}, "the study").value == {"base": nested(90)}

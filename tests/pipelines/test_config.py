"""Conversion of plain values to dataclasses, compared with pydantic."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from models import FENetConfig
from pipelines.config import ConfigurationError, CoreLoader, configure, dump_yaml, load_yaml
from pipelines.data.config import AugmentationConfig, DataConfig
from pipelines.network.config import NetworkConfig
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment

ADAPTERS = {kind: TypeAdapter(kind) for kind in (DataConfig, FENetConfig, TrainingConfig)}
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(-1, 3, allow_nan=False)
    | st.sampled_from(["poly", "cosine", "bf16", "auto", "detail", "resnet18", "dfnet1", "x"])
    | st.lists(st.integers(0, 512), max_size=3)
    | st.lists(st.sampled_from(["detail", "semantic"]), max_size=3)
)


@given(st.sampled_from(sorted(ADAPTERS, key=str)), st.data())
def test_configure_accepts_the_same_values_as_pydantic(kind: type, data: st.DataObject) -> None:
    names = [name for name, value in asdict(kind()).items() if not isinstance(value, dict)]
    values = data.draw(st.dictionaries(st.sampled_from([*names, "unknown"]), VALUES, max_size=3))
    try:
        expected = ADAPTERS[kind].validate_json(json.dumps(values), strict=True)
    except (ValidationError, ValueError):
        with pytest.raises(ConfigurationError):
            configure(kind, values)
    else:
        assert configure(kind, values) == expected


def test_configure_builds_a_nested_experiment() -> None:
    values = {
        "data": {"crop": [64, 128], "augmentation": {"blur": [0, 0]}},
        "model": {"backbone": "dfnet1", "flows": []},
        "training": {"loss": {"share": 0.1}, "learning_rate": 1},
        "seed": 4,
    }
    assert configure(Experiment, values) == replace(
        Experiment(),
        data=DataConfig(crop=(64, 128), augmentation=AugmentationConfig(blur=(0, 0))),
        model=FENetConfig(backbone="dfnet1", flows=()),
        training=replace(
            TrainingConfig(learning_rate=1.0), loss=replace(TrainingConfig().loss, share=0.1)
        ),
        seed=4,
    )
    custom = configure(Experiment, {"model": {"network": "a.b:C", "arguments": {"width": 3}}})
    assert custom.model == NetworkConfig("a.b:C", {"width": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainig": {}}, "unknown key trainig; known: data, model, training"),
        ({"training": {"epoch": 3}}, r"unknown key training\.epoch; known: epochs, steps, batch"),
        ({"training": {"epochs": "3"}}, r"training\.epochs must be int, received '3'"),
        ({"training": {"epochs": True}}, r"training\.epochs must be int, received True"),
        ({"training": {"epochs": 0}}, "training: epochs must be at least 1, received 0"),
        ({"training": 3}, "training must be a mapping, received 3"),
        ({"data": {"crop": [1]}}, r"data\.crop must have 2 values, received \[1\]"),
        ({"data": {"crop": 1}}, r"data\.crop must be a list, received 1"),
        (
            {"training": {"schedule": "linear"}},
            "training: schedule is 'linear'; known: cosine, one-",
        ),
        (
            {"training": {"optimizer": {"nam": "adamw"}}},
            r"unknown key training\.optimizer\.nam; known: name, arguments",
        ),
    ],
)
def test_error_names_the_invalid_key_or_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configure(Experiment, values)


TEXTS = st.text() | st.sampled_from(
    [
        *("1e-4", "1e3", "1_000", "0x10", "010", "12:30", "1.", ".5", "+1", "-.inf", ".nan", "="),
        *("no", "on", "yes", "off", "y", "n", "null", "~", "", "true", "2001-01-01", "<<", "- a"),
        *("\x85", "a\u2028 b", "a\n\n b\n", " a", "a: b", "#", "\ufeff", "\r\n", "\t"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def typed(value: object) -> object:
    """Return `value` such that 1, 1.0 and True are not equal."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return type(value), value


@given(TREES, st.integers(20, 100), st.booleans())
def test_values_and_types_survive_writing_and_reading(
    tree: object, width: int, flow_lists: bool
) -> None:
    assert typed(load_yaml(dump_yaml(tree, width, flow_lists))) == typed(tree)


@given(TEXTS)
def test_other_yaml_readers_read_the_same_text(text: str) -> None:
    assert yaml.safe_load(dump_yaml({"label": text})) == {"label": text}


def test_a_value_that_occurs_twice_is_written_in_full() -> None:
    crop = (64, 128)
    assert dump_yaml({"crop": crop, "window": crop}, flow_lists=True) == (
        "crop: [64, 128]\nwindow: [64, 128]\n"
    )


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2", "data: {crop: 1, crop: 2}", "1: a\n01: b"])
def test_duplicate_keys_are_rejected(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"the key .* occurs twice; keep one of them"):
        yaml.load(text, CoreLoader)

"""Study files as values with source locations."""

import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.study.yaml_source import (
    Source,
    SourceLocation,
    StudyError,
    parse_yaml,
    read_yaml,
    single_value,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=5,
)


class _Quoting(yaml.SafeDumper):
    """Quote all strings, so that YAML 1.1 and 1.2 read them alike; PyYAML follows 1.1."""


_Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@pytest.mark.slow
@given(TREES)
def test_values_survive_a_round_trip(tree: dict[str, object]) -> None:
    assert parse_yaml(yaml.dump(tree, Dumper=_Quoting), "study.yaml").value == tree


@given(TREES)
@pytest.mark.slow
def test_every_node_has_a_location(tree: dict[str, object]) -> None:
    source = parse_yaml(yaml.dump(tree, Dumper=_Quoting), "study.yaml")

    def visit(value: object, keys: tuple[str | int, ...]) -> None:
        assert keys in source.locations
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(inner, (*keys, key))
        if isinstance(value, list):
            for index, inner in enumerate(value):
                visit(inner, (*keys, index))

    visit(tree, ())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("010", 10),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("~", None),
        ("'8'", "8"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    value_read = parse_yaml(f"key: {text}", "study.yaml").value["key"]
    assert value_read == value
    assert type(value_read) is type(value)


def test_locations_are_lines_and_columns_of_keys() -> None:
    source = parse_yaml("base:\n  training:\n    epochs: 3\nseeds: [0, 1]\n", "s.yaml")
    assert source.location(("base", "training", "epochs")) == SourceLocation("s.yaml", 3, 5)
    assert source.location(("seeds", 1)) == SourceLocation("s.yaml", 4, 12)
    assert source.location(("base", "training", "absent")) == SourceLocation("s.yaml", 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"s\.yaml:3:1: duplicate key `a`"),
        ("a: [1, 2", r"s\.yaml:1:\d+: not valid YAML"),
        ("a: !!python/object:os.system x", r"s\.yaml:1:4: not valid YAML: could not determine"),
        ("? [a]\n: b", r"s\.yaml:1:3: a key must be plain text"),
        ("a: &x {b: *x}", r"s\.yaml:1:4: this value contains itself"),
        ("a: [" + ", ".join(["9" * 5000] * 2) + "]", r"s\.yaml:1:5: a number of 5000 digits"),
        (f"a: 1\nb: {10**309}", r"s\.yaml:2:4: a number of more than 308 digits is too long"),
        ("a: 1\nb: \x07", r"s\.yaml:2:4: not valid YAML: the character #x07"),
        ('a: 1\nb: "x\\0"', r"s\.yaml:2:4: the character #x00 is not allowed; remove it"),
        ('"x\\0": 1', r"s\.yaml:1:1: the character #x00 is not allowed; remove it"),
        ("a: " + "[" * 3000, r"s\.yaml:1:1: nested too deeply"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{k}: &{k} [{','.join(['*' + chr(ord(k) - 1)] * 9)}]\n" for k in "bcdef"),
            r"s\.yaml:\d+:\d+: more than 200000 values",
        ),
        ("a:\n  <<: {b: 1}", r"s\.yaml:2:3: merge keys"),
    ],
)
def test_invalid_yaml_is_reported_with_its_location(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_yaml(text, "s.yaml")


def test_unreadable_file_is_reported(tmp_path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.yaml: there is no such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(StudyError, match=r"cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(StudyError, match=r"latin\.yaml:2:7: not UTF-8 \(byte 0xe9\)"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * 5 * 2**20)
    with pytest.raises(StudyError, match="the file has 5 MiB; a study file may have at most 4 MiB"):
        read_yaml(tmp_path / "large.yaml")


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(tmp_path / "s.yaml").value == {"a": 1, "b": 2}


def _reference_merge(base: dict, override: dict) -> dict:
    result = dict(base)
    for key, value in override.items():
        both_mappings = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _reference_merge(result[key], value) if both_mappings else value
    return result


@pytest.mark.slow
@given(TREES, TREES)
def test_merged_tree_overrides_values_and_keeps_locations(base: dict, override: dict) -> None:
    first = parse_yaml(yaml.dump(base, Dumper=_Quoting), "below.yaml")
    second = parse_yaml(yaml.dump(override, Dumper=_Quoting), "above.yaml")
    merged = first.merged(second)
    assert merged.value == _reference_merge(base, override)
    for key in override:
        assert merged.location((key,)).name == "above.yaml"
    for key in base.keys() - override.keys():
        assert merged.location((key,)).name == "below.yaml"


def test_single_value_is_nested_under_its_dotted_key() -> None:
    location = SourceLocation("--set training.epochs=5")
    source = single_value("training.epochs", 5, location)
    assert source.value == {"training": {"epochs": 5}}
    assert source.location(("training", "epochs")) == location


def test_subtree_keeps_its_locations() -> None:
    source: Source = parse_yaml("base:\n  seed: 3\n", "s.yaml").subtree(("base",))
    assert source.value == {"seed": 3}
    assert source.location(("seed",)) == SourceLocation("s.yaml", 2, 3)

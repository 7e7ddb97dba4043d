"""Tables take the values of a search by what a row sets, also under another name."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.study import search_match
from orchestrator.study.load import load_study
from orchestrator.study.search_match import settings_of
from orchestrator.study.search_result import FoundSample, SearchResult
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import StudyError

RATE = "training.learning_rate"
NETWORK = "examples.unet:UNet"
BASE: dict[str, Any] = {
    "data": {"dataset": "data/streets", "crop": [32, 32]},
    "model": {"channels": 8},
    "training": {"epochs": 3, "precision": "fp32", "gradient_clip": 1},
}
NO_FLOWS = {"model": {"flows": []}}
#: Rows that set different things; each is written in two ways.
CONTENTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"model": {"flows": ["detail", "semantic"]}}),
    (NO_FLOWS, {"model": {"flows": [], "ppm": True}}),
    ({"model": {"supervision": [3, 4]}}, {"model": {"supervision": [3, 4], "channels": 8}}),
    ({"training": {"optimizer": "adamw"}}, {"training": {"optimizer": {"name": "adamw"}}}),
    ({"training": {"steps": 50}}, {"training": {"steps": 50, "batch": 8}}),
    ({"training": {"momentum": 0}}, {"training": {"momentum": 0.0}}),
    ({"training": {"gradient_clip": None}}, {"training": {"gradient_clip": None, "epochs": 3}}),
    ({"evaluation": {"flip": True}}, {"evaluation": {"flip": True, "batch": 9}}),
]


def search_of(rows: Mapping[str, dict[str, Any]], **keys: Any) -> SearchResult:
    """Return what a search of these rows found: another rate in each row and cell of the grid."""
    study = load_study(
        {
            "study": "tune",
            "kind": "search",
            "base": BASE,
            "variants": {name: {"set": each} for name, each in rows.items()},
            "sample": {RATE: {"log": [1e-4, 1]}},
            "samples": 1,
            **keys,
        }
    )
    found = [
        FoundSample(t.variant, {RATE: 0.01 * (1 + n)}, 0, 50.0, 1, axes=t.axes, set=t.own)
        for n, t in enumerate(study.trials)
    ]
    result = SearchResult(
        "tune", "random", 1, "miou", "val", (0,), study.config.sample, tuple(found), base=study.base
    )
    content = yaml.safe_load(result.as_yaml())  # as a table reads it
    assert content["base"] == study.base
    return result


def table_of(
    result: SearchResult, rows: Mapping[str, dict[str, Any]], base: Any = BASE, **keys: Any
) -> Study:
    overrides: Sequence[tuple[str, str]] = keys.pop("overrides", ())
    return load_study(
        {
            "study": "table",
            "base": base,
            "variants": {name: {"set": each} for name, each in rows.items()},
            "from_search": yaml.safe_load(result.as_yaml()),
            **keys,
        },
        overrides,
    )


def rates(study: Study) -> dict[str, float]:
    return {trial.name: trial.experiment.training.learning_rate for trial in study.trials}


def messages(study: Study) -> list[str]:
    return [each.message for each in study.warnings]


def changed_base(**changes: Any) -> dict[str, Any]:
    base = copy.deepcopy(BASE)
    for key, value in changes.items():
        group, _, name = key.partition("__")
        base[group][name] = value
    return base


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_row_takes_the_values_of_what_it_sets(data: st.DataObject) -> None:
    chosen = data.draw(
        st.lists(st.sampled_from(range(len(CONTENTS))), min_size=1, max_size=5, unique=True)
    )
    names = data.draw(st.permutations([f"row {n}" for n in range(len(chosen))]))
    search = dict(zip(names, chosen, strict=True))
    result = search_of({name: CONTENTS[each][0] for name, each in search.items()})
    expected = {search[row.variant]: row.values[RATE] for row in result.rows}

    others = [*names, "other", "new"]
    renamed = data.draw(st.permutations(others))
    table = dict(zip(renamed[: len(chosen)], chosen, strict=True))
    ways = data.draw(st.lists(st.integers(0, 1), min_size=len(chosen), max_size=len(chosen)))
    rows = {
        name: CONTENTS[each][way] for (name, each), way in zip(table.items(), ways, strict=True)
    }
    epochs = data.draw(st.sampled_from([3, 30]))
    study = table_of(result, rows, changed_base(training__epochs=epochs), seeds=[1])
    assert rates(study) == {f"{name}, seed 1": expected[each] for name, each in table.items()}
    assert messages(study) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_row_that_sets_something_else_takes_nothing(data: st.DataObject) -> None:
    tuned, other, edited = data.draw(
        st.lists(st.sampled_from(range(len(CONTENTS))), min_size=3, max_size=3, unique=True)
    )
    result = search_of({"a": CONTENTS[tuned][0], "b": CONTENTS[other][0]})
    rows = {"a": CONTENTS[edited][0], "b": CONTENTS[other][1]}
    with pytest.raises(StudyError, match=r"`variants.a` is another row than 'a' of search 'tune'"):
        table_of(result, rows)
    study = table_of(result, {"b": rows["b"], "c": rows["a"]})
    assert [trial.tuned is None for trial in study.trials] == [False, True]
    assert "has no values for c, so rows that were tuned" in messages(study)[0]


def test_an_edited_row_is_an_error_that_says_what_differs() -> None:
    result = search_of({"a": {}, "b": NO_FLOWS})
    with pytest.raises(StudyError) as caught:
        table_of(result, {"a": {}, "b": {"model": {"flows": ["detail"]}}})
    (problem,) = caught.value.problems
    assert problem.message == (
        "`variants.b` is another row than 'b' of search 'tune': `model.flows` is [] there and "
        '["detail"] here. Run the search again, or rename the row, which is then not tuned; to '
        "take the values anyway, remove `set` of 'b' from the file of `from_search`"
    )
    rows = tuple(replace(row, set=None) if row.variant == "b" else row for row in result.rows)
    study = table_of(replace(result, rows=rows), {"a": {}, "b": {"model": {"flows": ["detail"]}}})
    assert rates(study) == {"a": 0.01, "b": 0.02}
    assert messages(study) == [
        "the file of search 'tune' does not say what its rows set, so they were matched by name "
        "alone (b); the report of the search writes it anew"
    ]


def test_many_differences_are_counted() -> None:
    keys = ("brightness", "contrast", "saturation", "hue", "flip")
    result = search_of({"a": {"data": {"augmentation": dict.fromkeys(keys, 0.0)}}})
    with pytest.raises(StudyError, match=r"0\.25 here, 2 other settings differ\. Run the search"):
        table_of(result, {"a": {}})


def test_a_file_without_a_record_matches_by_name() -> None:
    result = search_of({"a": {}, "b": NO_FLOWS})
    old = replace(result, base=None, rows=tuple(replace(row, set=None) for row in result.rows))
    assert "set:" not in old.as_yaml()
    assert "base:" not in old.as_yaml()
    study = table_of(old, {"a": NO_FLOWS, "b": {}})
    assert rates(study) == {"a": 0.01, "b": 0.02}
    assert "matched by name alone (a, b)" in messages(study)[0]


def test_settings_that_no_row_changes_may_differ() -> None:
    result = search_of({"a": {}, "b": NO_FLOWS})
    later = changed_base(training__epochs=30, data__validation_split="test")
    later["evaluation"] = {"flip": True, "batch": 2}
    assert messages(table_of(result, {"a": {}, "b": NO_FLOWS}, later)) == []
    study = table_of(result, {"a": {}, "b": NO_FLOWS}, changed_base(data__crop=[64, 64]))
    assert rates(study) == {"a": 0.01, "b": 0.02}
    assert messages(study) == [
        "search 'tune' had other settings than this table: `data.crop` is [32, 32] there and "
        "[64, 64] here"
    ]
    moved = changed_base(data__dataset="/elsewhere/streets")
    assert messages(table_of(result, {"a": {}, "b": NO_FLOWS}, moved)) == []


def test_what_the_rows_set_may_move_to_the_base() -> None:
    result = search_of({"a": {}, "b": NO_FLOWS})
    rows = {"a": {"model": {"flows": ["detail", "semantic"]}}, "b": {}}
    study = table_of(result, rows, changed_base(model__flows=[]))
    assert rates(study) == {"a": 0.01, "b": 0.02}
    assert messages(study) == []


def test_the_grid_of_the_search_is_part_of_a_row_that_sets_it() -> None:
    axis = "model.backbone"
    result = search_of({"a": {}}, grid={axis: ["dfnet1", "resnet18"]})
    rows = {
        "small": {"model": {"backbone": "dfnet1"}},
        "large": {"model": {"backbone": "resnet18"}},
    }
    assert rates(table_of(result, rows)) == {"small": 0.01, "large": 0.02}
    back = search_of({"small": rows["small"]})
    with pytest.raises(StudyError, match=r'`model.backbone` is "dfnet1" there and "resnet18"'):
        table_of(back, {"small": {}}, grid={axis: ["resnet18"]})


def test_rows_that_another_part_names_are_told_apart_by_it() -> None:
    def when(name: str, batch: int) -> list[dict[str, Any]]:
        return [{"if": {"variant": name}, "set": {"training": {"batch": batch}}}]

    result = search_of({"a": {}, "b": {}}, when=when("b", 4))
    assert [row.set for row in result.rows] == [{}, {"training.batch": 4}]
    study = table_of(result, {"a": {}, "b": {}}, when=when("a", 4))
    assert rates(study) == {"a": 0.02, "b": 0.01}
    with pytest.raises(StudyError, match=r"`training.batch` is 4 there and 2 here"):
        table_of(result, {"a": {}, "b": {}}, when=when("b", 2))
    # A part for some cells of all rows is no part of a row.
    of_cells = [{"if": {"model.channels": 8}, "set": {"training": {"batch": 2}}}]
    assert rates(table_of(search_of({"a": {}, "b": NO_FLOWS}), {"a": {}}, when=of_cells)) == {
        "a": 0.01
    }


def test_networks_of_the_users_own() -> None:
    own = {"model": {"network": NETWORK, "arguments": {"width": 16}}}
    result = search_of({"a": {}, "b": {"model": NETWORK}, "c": own})
    rows = {"x": {"model": {"network": NETWORK}}, "y": own, "z": {}}
    study = table_of(result, rows, changed_base(model__channels=8, training__epochs=9))
    assert rates(study) == {"x": 0.02, "y": 0.03, "z": 0.01}
    assert messages(study) == []
    study = table_of(result, {"y": own}, changed_base(model__channels=16))
    assert messages(study) == ["search 'tune' has values for rows that this study lacks: a, b"]


def test_rows_with_the_same_settings_and_other_values_need_a_name() -> None:
    result = search_of({"a": {}, "b": {}})
    assert rates(table_of(result, {"b": {}, "a": {}})) == {"b": 0.02, "a": 0.01}
    with pytest.raises(StudyError, match=r"sets what 'a' and 'b' of search 'tune' set, which have"):
        table_of(result, {"c": {}})
    same = replace(result, rows=tuple(replace(row, values={RATE: 0.5}) for row in result.rows))
    assert rates(table_of(same, {"c": {}})) == {"c": 0.5}


@pytest.mark.parametrize("names", [("small", "large"), ("large", "small")])
def test_the_grid_of_the_table_decides_between_rows_that_set_the_same(
    names: tuple[str, str],
) -> None:
    backbones = {"small": "dfnet1", "large": "resnet18"}  # resnet18 is the default
    rows = {name: {"model": {"backbone": backbones[name]}} for name in names}
    result = search_of(rows)
    found = {row.variant: row.values[RATE] for row in result.rows}
    grid = {"model.backbone": ["dfnet1", "resnet18"]}
    for name in ("net", "large"):
        study = table_of(result, {name: {}}, grid=grid)
        assert rates(study) == {
            f"{name}, dfnet1": found["small"],
            f"{name}, resnet18": found["large"],
        }
    # An axis that the search did not have decides nothing.
    crops = {"data.crop": [[64, 64], [32, 32]]}
    assert set(rates(table_of(result, {"large": {}}, grid=crops)).values()) == {found["large"]}
    twins = search_of({"a": {}, "b": {}})
    assert set(rates(table_of(twins, {"b": {}}, grid=crops)).values()) == {0.02}
    with pytest.raises(StudyError, match="sets what 'a' and 'b' of search 'tune' set"):
        table_of(twins, {"c": {}}, grid=crops)


def test_many_renamed_rows_need_the_settings_of_the_base_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {f"row {n}": {"training": {"weight_decay": n * 1e-6}} for n in range(6)}
    result = search_of(rows)
    resolved = []

    def counted(experiment: Mapping[str, Any]) -> dict[str, Any]:
        resolved.append(experiment)
        return settings_of(experiment)

    monkeypatch.setattr(search_match, "settings_of", counted)
    study = table_of(result, {f"renamed {name}": each for name, each in rows.items()})
    assert list(rates(study).values()) == [row.values[RATE] for row in result.rows]
    assert len(resolved) == 1


def test_the_command_line_changes_all_rows_alike() -> None:
    result = search_of({"a": {}, "b": {"model": {"channels": 16}}})
    rows = {"a": {}, "b": {"model": {"channels": 16}}}
    study = table_of(result, rows, overrides=[("model.channels", "4"), ("training.epochs", "1")])
    assert rates(study) == {"a": 0.01, "b": 0.02}
    assert study.trials[1].experiment.model.channels == 4


def test_the_file_may_nest_its_keys(tmp_path: Path) -> None:
    result = search_of({"a": {}, "b": NO_FLOWS})
    nested = result.as_yaml().replace("model.flows: []", "model: {flows: []}")
    assert nested != result.as_yaml()
    (tmp_path / "found.yaml").write_text(nested)
    table = {"study": "table", "base": BASE, "variants": {"c": {"set": NO_FLOWS}}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({**table, "from_search": "found.yaml"}))
    assert rates(load_study(tmp_path / "table.yaml")) == {"c": 0.02}

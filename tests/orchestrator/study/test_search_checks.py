"""Tables that take the best samples of a search by `from_search`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.study.load import load_study
from orchestrator.study.sampling import RangeConfig
from orchestrator.study.search_result import FoundSample, SearchResult
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import StudyError

TABLE = """\
study: table
compare_to: a
base:
  data: {crop: [32, 32]}
  model: {channels: 8}
  training: {epochs: 3, precision: fp32, learning_rate: 0.5}
variants: {a: {}, b: {set: {model: {flows: []}}}}
grid: {model.backbone: [dfnet1, resnet18]}
seeds: [1, 2]
from_search: results/found.yaml
"""
RATE, OPTIMIZER = "training.learning_rate", "training.optimizer"
BACKBONE = "model.backbone"


def found(**changes: Any) -> SearchResult:
    adamw = {"name": "adamw", "arguments": {"eps": 1e-6}}
    rows = tuple(
        FoundSample(
            variant=variant,
            set={} if variant == "a" else {"model.flows": []},
            axes={BACKBONE: backbone},
            values={RATE: rate, OPTIMIZER: optimizer},
            sample=3,
            score=50.0,
            tried=8,
        )
        for variant, backbone, rate, optimizer in (
            ("a", "dfnet1", 0.1, "sgd"),
            ("a", "resnet18", 0.02, adamw),
            ("b", "dfnet1", 0.003, adamw),
            ("b", "resnet18", 0.0004, "sgd"),
        )
    )
    values: dict[str, Any] = {
        "search": "tune",
        "method": "random",
        "samples": 8,
        "metric": "miou",
        "split": "val",
        "seeds": (0,),
        "base": {
            "data.crop": [32, 32],
            "model.channels": 8,
            "training.epochs": 3,
            "training.precision": "fp32",
        },
        "ranges": {
            RATE: RangeConfig(log=(1e-4, 1.0)),
            OPTIMIZER: RangeConfig(choice=("sgd", adamw)),
        },
        "rows": rows,
    }
    return SearchResult(**(values | changes))


def load(tmp_path: Path, result: SearchResult | str, text: str = TABLE, **options: Any) -> Study:
    (tmp_path / "results").mkdir(exist_ok=True)
    content = result if isinstance(result, str) else result.as_yaml()
    (tmp_path / "results/found.yaml").write_text(content)
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return load_study(path, **options)


def problems(tmp_path: Path, result: SearchResult | str, text: str = TABLE) -> str:
    with pytest.raises(StudyError) as caught:
        load(tmp_path, result, text)
    return "\n".join(map(str, caught.value.problems))


def test_each_cell_takes_its_own_sample(tmp_path: Path) -> None:
    study = load(tmp_path, found())
    assert study.config.search_result == found()
    rates = {
        (t.variant, t.axes[BACKBONE]): t.experiment.training.learning_rate for t in study.trials
    }
    assert rates == {
        ("a", "dfnet1"): 0.1,
        ("a", "resnet18"): 0.02,
        ("b", "dfnet1"): 0.003,
        ("b", "resnet18"): 0.0004,
    }
    names = {
        (t.variant, t.axes[BACKBONE]): t.experiment.training.optimizer_config for t in study.trials
    }
    assert names["a", "dfnet1"].name == "sgd"
    assert names["b", "dfnet1"].arguments == {"eps": 1e-6}
    assert not study.warnings


def test_the_same_training_written_out_has_the_same_experiment(tmp_path: Path) -> None:
    tuned = load(tmp_path, found(), overrides=[("grid.model.backbone", "[dfnet1]")]).trials[0]
    by_hand = TABLE.replace("from_search: results/found.yaml", "").replace("0.5", "0.1")
    overrides = [("grid.model.backbone", "[dfnet1]"), (OPTIMIZER, "sgd")]
    written = load(tmp_path, found(), by_hand, overrides=overrides).trials[0]
    assert tuned.experiment == written.experiment


def test_the_resolved_study_needs_no_other_file(tmp_path: Path) -> None:
    study = load(tmp_path, found())
    alone = tmp_path / "elsewhere.yaml"
    alone.write_text(study.resolved)
    assert [t.experiment for t in load_study(alone).trials] == [t.experiment for t in study.trials]
    assert load_study(yaml.safe_load(study.resolved)).config.search_result == found()


def test_the_command_line_names_a_file_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = found(
        rows=tuple(replace(row, values={RATE: 0.9}) for row in found().rows),
        ranges={RATE: RangeConfig(log=(1e-4, 1.0))},
    )
    (tmp_path / "other.yaml").write_text(other.as_yaml())
    monkeypatch.chdir(tmp_path)
    study = load(tmp_path, found(), overrides=[("from_search", "other.yaml")])
    assert {trial.experiment.training.learning_rate for trial in study.trials} == {0.9}
    study = load(tmp_path, found(), overrides=[("from_search", "null")])
    assert {trial.experiment.training.learning_rate for trial in study.trials} == {0.5}
    study = load(tmp_path, found(), overrides=[("from_search", "null"), (RATE, "0.3")])
    assert {trial.experiment.training.learning_rate for trial in study.trials} == {0.3}
    with pytest.raises(StudyError, match="is taken from search 'tune'; add --set from_search=null"):
        load(tmp_path, found(), overrides=[(RATE, "0.3")])
    with pytest.raises(StudyError, match=r"none\.yaml, which does not exist"):
        load(tmp_path, found(), overrides=[("from_search", "none.yaml")])


def test_a_table_may_extend_its_search(tmp_path: Path) -> None:
    search = TABLE.replace("study: table", "study: tune\nkind: search")
    search = search.replace("from_search: results/found.yaml", "samples: 8")
    (tmp_path / "tune.yaml").write_text(f"{search}sample: {{{RATE}: {{log: [1e-4, 1]}}}}\n")
    text = "study: table\nextends: tune.yaml\nkind: table\nsample: null\nsamples: null\n"
    study = load(tmp_path, found(), f"{text}from_search: results/found.yaml\n")
    assert not study.config.sample
    assert len(study.trials) == 8
    assert study.trials[0].experiment.training.learning_rate == 0.1


def test_rows_that_were_not_tuned_alike_are_named(tmp_path: Path) -> None:
    one = found().rows
    fewer = replace(found().rows[2], tried=5)
    study = load(tmp_path, found(rows=(one[0], one[1], fewer)))
    text = "\n".join(each.message for each in study.warnings)
    assert "search 'tune' has no values for b, resnet18" in text
    assert "different numbers of samples (5: b, dfnet1; 8: a, dfnet1, a, resnet18)" in text
    other = FoundSample("c", {RATE: 0.1}, 0, 1.0, tried=8)
    study = load(tmp_path, found(rows=(*found().rows, other)))
    assert [each.message for each in study.warnings] == [
        "search 'tune' has values for rows that this study lacks: c"
    ]


def test_a_search_without_a_grid_tunes_all_cells(tmp_path: Path) -> None:
    a, _, b, _ = found().rows
    rows = (replace(a, values={RATE: 0.25}, axes={}), replace(b, values={RATE: 0.75}, axes={}))
    study = load(tmp_path, found(rows=rows, base={**(found().base or {}), BACKBONE: "dfnet1"}))
    assert [t.experiment.training.learning_rate for t in study.trials] == [0.25] * 4 + [0.75] * 4
    assert [each.message for each in study.warnings] == [
        "search 'tune' had other settings than this table: "
        '`model.backbone` is "dfnet1" there and "resnet18" here'
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("results/found.yaml", "results/none.yaml", "none.yaml, which does not exist"),
        ("results/found.yaml", "results", "results, which is a directory"),
        ("results/found.yaml", "x" * 300, "which fails: "),
        ("results/found.yaml", '"~no-such-user/x"', "which fails: "),
        ("results/found.yaml", "study.yaml", "is not a found.yaml"),
        ("compare_to: a", "kind: search", "`from_search` needs `kind: table`"),
        ("{model.backbone: [dfnet1, resnet18]}", f"{{{RATE}: [1, 2]}}", "an axis of the grid"),
        ("a: {}", "a: {set: {training: {learning_rate: 1}}}", "which is taken from a search"),
    ],
)
def test_wrong_tables(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TABLE
    assert message in problems(tmp_path, found(), TABLE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sample: 3", "sampel: 3", "sampel"),
        (f"{RATE}: 0.1", "training.learning_rat: 0.1", "did you mean `training.learning_rate`"),
        (f"{RATE}: 0.1", f"{RATE}: fast", "learning_rate"),
        (f"{RATE}: 0.1", "data.dataset: cityscapes", "decides how trials are scored"),
        ("name: adamw", "nam: adamw", "unknown key `training.optimizer.nam`"),
        ("search: tune", "serach: tune", "serach"),
        ("sample: 3", "sample: -1", "sample -1 of 8 that were tried is impossible"),
        ("tried: 8", "tried: 0", "sample 3 of 0 that were tried is impossible"),
        ("variant: b", "variant: a", "`rows` has 'a' twice with the same axes"),
        (
            "samples: 8",
            "samples: 3",
            "sample 3 of 8 that were tried is impossible with `samples: 3`",
        ),
        (f"{RATE}: 0.1", "training.epochs: 1", "`training.epochs` is not among the `ranges`"),
        (f"{RATE}: 0.1", f"{RATE}: 5.0", "is 5.0, which the search's range"),
        ("log: [0.0001, 1.0]", "integer: [0, 1]", "is 0.1, which the search's range"),
        (f"{RATE}: 0.1, {OPTIMIZER}: sgd", "", "values must have the values that the search found"),
        ("samples: 8", "samples: 0", "samples must be at least 1, received 0"),
        ("seeds: [0]", "seeds: []", "seeds must have at least one seed"),
        ("method: random", "method: magic", "known: random, tpe"),
        ("base:", "bas:", "bas"),
        (found().as_yaml().partition("ranges:")[0].partition("base:")[2], " null\n", "`base`"),
    ],
)
def test_wrong_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    content = found().as_yaml()
    assert old in content
    text = problems(tmp_path, content.replace(old, new))
    assert message in text
    assert "found.yaml:" in text  # the line of the file

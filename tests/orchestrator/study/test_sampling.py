"""What a search samples: values within their ranges, and the trials of a study with `sample`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.forecast import priorities
from orchestrator.planning.preflight_choice import distinct
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.sampling import RangeConfig, SearchSample, random_sample, value_text
from orchestrator.tracking.descriptions import run_name
from tests.support.study_files import SEARCH, load, problems

STUDY = (
    SEARCH
    + """\
sample:
  training.learning_rate: {log: [1e-3, 1]}
  data.augmentation.hue: {uniform: [0, 0.3]}
  training.warmup_steps: {integer: [0, 5]}
  training.optimizer: {choice: [sgd, {name: adamw, arguments: {eps: 1e-6}}]}
samples: 4
"""
)
RANGES = {
    "log": RangeConfig(log=(1e-4, 10.0)),
    "uniform": RangeConfig(uniform=(-0.2, 0.7)),
    "integer": RangeConfig(integer=(-1, 4)),
    "choice": RangeConfig(choice=("a", 2, False)),
}


@given(st.sampled_from(sorted(RANGES)), st.floats(0, 1, exclude_max=True))
def test_every_value_is_in_its_range(kind: str, quantile: float) -> None:
    limits = RANGES[kind]
    assert limits.contains(limits.at(quantile))


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_logarithmic_range_is_uniform_in_the_logarithm(
    low: float, factor: float, quantile: float
) -> None:
    limits = RangeConfig(log=(low, low * factor))
    exact = low * factor**quantile
    value = limits.at(quantile)
    assert low <= value <= low * factor
    assert value == pytest.approx(exact, rel=0.006)  # three significant digits
    assert value in (float(f"{value:.3g}"), low, low * factor)


def moments(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (("training", "{learning_rate: 0.5}"), "sampled `training.learning_rate` is "),
        (("training.optimizer.name", "adamw"), 'sampled `training.optimizer` is "sgd"'),
        (("training.optimizer.arguments.eps", "1e-3"), 'sampled `training.optimizer` is {"name"'),
    ],
)
def test_sample_of_another_value_is_reported(
    tmp_path: Path, override: tuple[str, str], expected: str
) -> None:
    text = "\n".join(problems(tmp_path, STUDY, overrides=[override]))
    assert expected in text
    assert "`when` or `--set` changes it to " in text


@pytest.mark.parametrize(
    ("kind", "transform", "mean", "deviation"),
    [
        ("log", math.log, math.log(1e-4 * 10) / 2, math.log(1e5) / math.sqrt(12)),
        ("uniform", float, 0.25, 0.9 / math.sqrt(12)),
        ("integer", float, 1.5, math.sqrt(35 / 12)),
    ],
)
def test_samples_have_the_distribution_of_the_range(
    kind: str, transform: Callable[[Any], float], mean: float, deviation: float
) -> None:
    values = [transform(random_sample(RANGES, number, 3).values[kind]) for number in range(4000)]
    measured = moments(values)
    assert measured[0] == pytest.approx(mean, abs=0.06 * deviation)
    assert measured[1] == pytest.approx(deviation, rel=0.03)


def test_all_choices_are_drawn_alike() -> None:
    drawn = [random_sample(RANGES, number, 0).values["choice"] for number in range(3000)]
    for value in ("a", 2, False):
        assert drawn.count(value) == pytest.approx(1000, abs=90)


def test_choices_that_are_equal_in_python_are_different() -> None:
    values = (0, False, 0.0, {"nesterov": 0}, {"nesterov": False}, [1], [True], math.nan)
    limits = RangeConfig(choice=values)
    assert [limits.position(value) for value in values] == list(range(len(values)))
    assert limits.position(1) is None


def test_a_value_depends_on_key_number_and_seed_only() -> None:
    sample = random_sample(RANGES, 5, 0)
    fewer = {key: RANGES[key] for key in ("integer", "log")}
    assert random_sample(fewer, 5, 0).values == {key: sample.values[key] for key in fewer}
    assert random_sample(RANGES, 6, 0).values != sample.values
    assert random_sample(RANGES, 5, 1).values != sample.values
    # Fixed, so that no later version trains other samples.
    assert sample == SearchSample(
        5, {"log": 0.218, "uniform": 0.402, "integer": -1, "choice": False}
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "set one of log, uniform, integer, choice, received none of them"),
        ({"log": [1, 2], "uniform": [1, 2]}, "received log and uniform"),
        ({"log": [0, 1]}, "log must be above 0, received [0.0, 1.0]"),
        ({"uniform": [2, 1]}, "must be a lower and a higher value"),
        ({"integer": [3, 3]}, "must be a lower and a higher value"),
        ({"integer": [0.5, 3]}, "whole number"),
        ({"choice": [1]}, "two or more different values"),
        ({"choice": [1, 1]}, "two or more different values"),
        ({"normal": [0, 1]}, "normal"),
    ],
)
def test_wrong_ranges(tmp_path: Path, limits: Any, message: str) -> None:
    text = STUDY.replace("{log: [1e-3, 1]}", repr(limits))
    assert message in "\n".join(problems(tmp_path, text))


def test_every_row_has_the_same_samples(tmp_path: Path) -> None:
    study = load(tmp_path, f"{STUDY}seeds: [0, 7]\n")
    names = [f"{row}, sample {n}, seed {seed}" for row in "ab" for n in range(4) for seed in (0, 7)]
    assert [trial.name for trial in study.trials] == names
    by_row = {row: [t.sample for t in study.trials if t.variant == row] for row in "ab"}
    assert by_row["a"] == by_row["b"]
    for trial in study.trials:
        assert trial.sample is not None
        values, training = trial.sample.values, trial.experiment.training
        assert training.learning_rate == values["training.learning_rate"]
        assert training.warmup_steps == values["training.warmup_steps"]
        assert trial.experiment.data.augmentation.hue == values["data.augmentation.hue"]
        chosen = values["training.optimizer"]
        name = chosen["name"] if isinstance(chosen, dict) else chosen
        assert training.optimizer_config.name == name
    assert len({trial.sample.values["training.learning_rate"] for trial in study.trials}) == 4


def test_more_samples_leave_the_first_as_they_are(tmp_path: Path) -> None:
    few = load(tmp_path, STUDY).trials
    many = load(tmp_path, STUDY, overrides=[("samples", "9")]).trials
    assert {trial.name: trial for trial in few}.items() <= {t.name: t for t in many}.items()


@pytest.mark.parametrize(("startup", "drawn"), [(9, 4), (3, 3)])
def test_tpe_draws_no_more_random_samples_than_count(
    tmp_path: Path, startup: int, drawn: int
) -> None:
    samples = f"samples: {{count: 4, method: tpe, startup: {startup}}}"
    assert len(load(tmp_path, STUDY.replace("samples: 4", samples)).trials) == 2 * drawn


def test_a_key_set_on_the_command_line_is_not_sampled(tmp_path: Path) -> None:
    study = load(tmp_path, STUDY, overrides=[("training.learning_rate", "0.5")])
    assert {trial.experiment.training.learning_rate for trial in study.trials} == {0.5}
    assert all(len(trial.sample.values) == 3 for trial in study.trials)
    assert study.overridden == ("training.learning_rate=0.5",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: search", "kind: table", "`sample` needs `kind: search`"),
        ("samples: 4", "samples: 0", "`samples` must be at least 1 and at most 1000, received 0"),
        ("samples: 4", "samples: {count: 4, method: grid}", "grid"),
        ("samples: 4", "samples: {count: 4, metric: dise}", "did you mean `dice`"),
        ("samples: 4", "samples: {count: 4, round: 0}", "round must be at least 1"),
        ("samples: 4", "compare_to: a", "`sample` needs `samples`"),
        ("training.warmup_steps", "seed", "list seeds under `seeds`"),
        ("training.warmup_steps", "training.warmup_step", "did you mean `training.warmup_steps`"),
        ("training.warmup_steps", "evaluation.every", "decides how samples are scored"),
        ("training.warmup_steps", "training.optimizer.name", "part of another sampled key"),
        ("samples: 4", "samples: 4\ngrid: {training.learning_rate: [1, 2]}", "also an axis"),
        ("a: {}", "a: {set: {training: {learning_rate: 1}}}", "sets `training.learning_rate`"),
        ("[1e-3, 1]", "[-2, -1]", "log must be above 0"),
        ("[0, 0.3]", "[0, 3]", "hue"),
        ("samples: 4", "samples: 4\nreport: {protocol: x}\nprotocols: {x: {}}", "report.protocol"),
        ("crop: [32, 32]", "validation_split: null", "has no validation split"),
        ("samples: 4", "samples: 1000000000", "at most 1000, received 1000000000"),
        ("{name: adamw,", "{nam: adamw,", "unknown key `training.optimizer.nam`"),
        ("[sgd, {", "[sgd, {name: nothing}, {", "nothing"),
        ("{uniform: [0, 0.3]}", "{uniform: [-1e308, 1e308]}", "must be within"),
        # No drawn value is below 0 or above 0.5, and all choices but one are valid.
        ("{uniform: [0, 0.3]}", "{uniform: [-1e-9, 0.3]}", "hue must be"),
        ("{uniform: [0, 0.3]}", "{uniform: [0, 0.5000001]}", "hue must be"),
        ("{uniform: [0, 0.3]}", "{choice: [0, 0.7, 0.3]}", "hue must be"),
        (
            "samples: 4",
            "samples: {count: 9, method: tpe}\nearly_stopping: {grace_epochs: 1}",
            "`samples.method: tpe` cannot be used with `early_stopping`",
        ),
    ],
)
def test_wrong_searches(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY
    assert message in "\n".join(problems(tmp_path, STUDY.replace(old, new, 1)))


def test_samples_without_ranges(tmp_path: Path) -> None:
    text = STUDY[: STUDY.index("sample:")] + "samples: 4\n"
    assert "`samples` needs `sample`" in "\n".join(problems(tmp_path, text))


def test_each_choice_of_numbers_has_a_preflight_run(tmp_path: Path, small_streets: Path) -> None:
    """It may change the memory that a network needs."""
    text = STUDY[: STUDY.index("sample:")].replace("crop:", f"dataset: {small_streets}, crop:")
    sampled = "sample: {model.dropout: {choice: [0.1, 0.5]}}\nsamples: 4\n"
    study = load(tmp_path, text + sampled)
    trials = resolve_trials(study.trials, "cpu", tmp_path)
    assert {t.sample.values["model.dropout"] for t in trials if t.sample} == {0.1, 0.5}
    assert len(distinct(trials, study.config.sample)) == 2 * 2


def test_preflight_and_order(tmp_path: Path, small_streets: Path) -> None:
    text = f"{STUDY}seeds: [0, 1]\n".replace("crop:", f"dataset: {small_streets}, crop:")
    study = load(tmp_path, text)
    trials = resolve_trials(study.trials, "cpu", tmp_path)
    # One run for each row and optimizer; rates and steps change neither memory nor shapes.
    drawn = {value_text(t.sample.values["training.optimizer"]) for t in trials}
    assert len(distinct(trials, study.config.sample)) == 2 * len(drawn)
    first = [t.name for t in trials if priorities(study.config, trials)[t.identity] == 0]
    assert first == ["a, sample 0, seed 0", "b, sample 0, seed 0"]
    assert run_name(trials[3]) == f"a, dfnet1, {trials[3].dataset.manifest.name}, sample 1, seed 1"


def test_values_as_text() -> None:
    assert value_text(0.0003) == "0.0003"
    assert value_text([0.5, "x"]) == "[0.5, x]"
    assert value_text({"name": "adamw", "arguments": {"eps": 1e-6}}) == "adamw (eps 1e-06)"
    assert value_text({"name": "sgd"}) == "sgd"
    assert value_text({}) == "{}"

"""Loading study files: `extends`, values by cell, and `--set`."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.study.identity import trial_identity
from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import StudyError
from tests.support.study_files import RECIPE, STUDY, load, problems


def test_steps_and_epochs_replace_each_other(tmp_path: Path) -> None:
    """Also where another file, a variant or the command line sets the other one."""
    text = """\
study: lengths
extends: recipe.yaml
base: {training: {steps: 40}}
variants:
  plain: {}
  longer: {set: {training: {epochs: 7}}}
  shorter: {set: {training: {steps: 9}}}
"""
    files = {"recipe.yaml": RECIPE, "study.yaml": text}

    def lengths(**options: Any) -> list[tuple[int | None, int | None]]:
        trainings = [trial.experiment.training for trial in load(tmp_path, files, **options).trials]
        return [(training.epochs, training.steps) for training in trainings]

    assert lengths() == [(None, 40), (7, None), (None, 9)]
    assert lengths(overrides=[("training.epochs", "1")]) == [(1, None)] * 3
    assert lengths(overrides=[("training.steps", "2")]) == [(None, 2)] * 3
    with pytest.raises(StudyError, match=r"`training\.epochs` and `training\.steps` replace each"):
        lengths(overrides=[("training.steps", "2"), ("training.epochs", "1")])
    both = {"study.yaml": text.replace("{steps: 40}", "{steps: 40, epochs: 5}")}
    assert problems(tmp_path, files | both) == [
        "study.yaml:3:19: `training`: steps must not be set together with epochs, received 40 and "
        "5; remove one of them"
    ]


def test_study_overrides_the_files_it_extends(tmp_path: Path) -> None:
    study = load(tmp_path, {"recipe.yaml": RECIPE, "study.yaml": STUDY})
    assert list(study.config.variants) == ["strong", "full"]
    assert study.config.description == ""
    assert study.config.protocols["flip"].flip
    assert len(study.config.when) == 2  # lists replace
    first = study.trials[0].experiment
    assert (first.data.crop, first.training.epochs) == ((64, 64), 3)
    resolved = yaml.safe_load(study.resolved)
    assert "extends" not in resolved
    assert resolved["base"]["training"] == {"epochs": 3, "batch": 4}
    assert study.text == STUDY


def test_conditional_values_depend_on_the_cell(tmp_path: Path) -> None:
    trials = load(tmp_path, {"recipe.yaml": RECIPE, "study.yaml": STUDY}).trials
    values = {
        (trial.variant, trial.axes["data.class_uniform"], trial.experiment.seed): (
            trial.experiment.training.learning_rate,
            trial.experiment.training.batch,
            trial.published_miou,
            trial.entered.miou if trial.entered else None,
        )
        for trial in trials
    }
    assert values == {
        ("strong", 0.0, 0): (0.01, 4, 71.1, None),
        ("strong", 0.0, 1): (0.01, 4, 71.1, None),
        ("strong", 0.5, 0): (0.01, 4, 70.1, None),
        ("strong", 0.5, 1): (0.01, 4, 70.1, None),
        ("full", 0.0, 0): (0.2, 4, None, None),
        ("full", 0.0, 1): (0.2, 4, None, None),
        ("full", 0.5, 0): (0.2, 2, None, None),
        ("full", 0.5, 1): (0.2, 2, None, 69.5),
    }


def test_set_takes_precedence_and_applies_before_conditions(tmp_path: Path) -> None:
    files = {"recipe.yaml": RECIPE, "study.yaml": STUDY}
    study = load(tmp_path, files, overrides=[("training.learning_rate", "0.3")])
    batches = [t.experiment.training.batch for t in study.trials]
    assert {t.experiment.training.learning_rate for t in study.trials} == {0.3}
    assert batches == [4, 4, 2, 2, 4, 4, 2, 2]


def test_resolved_study_contains_the_overrides(tmp_path: Path) -> None:
    overrides = [("training.epochs", "7"), ("seeds", "[3]")]
    files = {"recipe.yaml": RECIPE, "small.yaml": STUDY}
    study = load(tmp_path, files, overrides=overrides)
    assert study.resolved.startswith("# --set training.epochs=7\n# --set seeds=[3]\nbase:")
    again = tmp_path / "again.yaml"
    again.write_text(study.resolved)
    assert load_study(again, overrides).trials == study.trials
    assert study.text in files.values()


def test_overrides_that_change_no_result_keep_the_page(tmp_path: Path) -> None:
    overrides = [("notify.command", "[echo]"), ("resources.workers", "2"), ("seeds", "[3]")]
    overrides.append(("mirror.tensorboard", "events"))
    files = {"recipe.yaml": RECIPE, "small.yaml": STUDY}
    assert load(tmp_path, files, overrides=overrides).overridden == ("seeds=[3]",)


@pytest.mark.parametrize("key", ["compare_to", "from_search", "training.init", "model.backbone"])
@pytest.mark.parametrize("text", ["", "  ", "# a comment"])
def test_set_needs_a_value(tmp_path: Path, key: str, text: str) -> None:
    """As of a variable of the shell that is not set. No value at all is written as `null`."""
    files = {"recipe.yaml": RECIPE, "study.yaml": STUDY}
    with pytest.raises(StudyError) as caught:
        load(tmp_path, files, overrides=[(key, text)])
    (problem,) = caught.value.problems
    message = f"the value is empty; use {key}=null for no value, or {key}=\"''\" for empty text"
    assert str(problem) == f"--set {key}={text}: {message}"


@given(st.text(st.sampled_from(" \t\n#a'~\"nul"), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_only_a_written_null_removes_a_setting(tmp_path: Path, text: str) -> None:
    files = {"recipe.yaml": RECIPE, "study.yaml": STUDY}
    try:
        study = load(tmp_path, files, overrides=[("compare_to", text)])
    except StudyError:
        return
    assert study.config.compare_to is None
    without_comments = " ".join(line.partition("#")[0] for line in text.splitlines())
    assert without_comments.strip() in ("null", "~")


def test_set_of_an_axis_leaves_one_column(tmp_path: Path) -> None:
    files = {"recipe.yaml": RECIPE, "study.yaml": STUDY}
    study = load(tmp_path, files, overrides=[("data.class_uniform", "0.25"), ("seeds", "[7]")])
    assert study.config.grid == {"data.class_uniform": [0.25]}
    assert [t.name for t in study.trials] == ["strong, 0.25, seed 7", "full, 0.25, seed 7"]
    # Conditions on values outside the grid are warnings, not errors.
    messages = [problem.message for problem in study.warnings]
    assert [text.startswith("matches no cell") for text in messages].count(True) == 3
    assert "`variants.full.entered`: seed 1 is not in `seeds`" in messages
    several = load(tmp_path, files, overrides=[("grid.model.backbone", "[dfnet1, resnet18]")])
    assert len(several.trials) == 16


@pytest.mark.parametrize("by_command", [False, True])
def test_column_matches_the_settings_of_its_trials(tmp_path: Path, by_command: bool) -> None:
    """Also if an axis sets several values and another setting changes one of them."""
    axis = "grid: {training.loss: [{threshold: 0.5}, {threshold: 0.6}]}"
    study = STUDY.replace("grid: {data.class_uniform: [0.0, 0.5]}", axis)
    study = study.replace("data.class_uniform: 0.5", "training.loss.threshold: 0.5")
    files = {"recipe.yaml": RECIPE, "study.yaml": study}
    override = ("training.loss.share", "0.1")
    losses = [
        t.experiment.training.loss for t in load(tmp_path, files, overrides=[override]).trials
    ]
    assert {(loss.threshold, loss.share) for loss in losses} == {(0.5, 0.1), (0.6, 0.1)}
    options = {}
    if by_command:
        options["overrides"] = [("training.loss.threshold", "0.9")]
    else:
        files["study.yaml"] = study.replace("{batch: 2}", "{loss: {threshold: 0.9}}")
    message = r'axis `training\.loss` is {"threshold": 0\.5}, but .*{"threshold": 0\.9'
    with pytest.raises(StudyError, match=message):
        load(tmp_path, files, **options)


@pytest.mark.parametrize(
    ("axis", "when", "overrides", "expected"),
    [
        ("training.epochs: [10, 20]", "{training: {steps: 5}}", [], "is 10, but .* to null"),
        (
            "training.optimizer: [sgd, adamw]",
            "{training: {optimizer: {name: adamw}}}",
            [],
            'is "sgd", but .* to {"name": "adamw"',
        ),
        ("training.steps: [10]", "{}", [("training.epochs", "1")], "is 10, but .* to null"),
        (
            "model.backbone: [dfnet1]",
            "{}",
            [("model", "{backbone: resnet50}")],
            'is "dfnet1", but .* to "resnet50"',
        ),
        ("model.backbone_arguments: [{a: 1}]", "{model: {backbone: dfnet2}}", [], ".* to null"),
    ],
)
def test_column_of_another_value_is_reported(
    tmp_path: Path, axis: str, when: str, overrides: list[tuple[str, str]], expected: str
) -> None:
    text = f"""\
study: columns
base: {{model: {{backbone: dfnet1}}}}
variants: {{a: {{}}}}
grid: {{{axis}}}
when: [{{if: {{variant: a}}, set: {when}}}]
"""
    with pytest.raises(StudyError, match=f"axis `{axis.split(':')[0]}` {expected}"):
        load(tmp_path, {"study.yaml": text}, overrides=overrides)


def test_name_with_arguments_remains_a_column(tmp_path: Path) -> None:
    text = """\
study: columns
base: {model: {backbone: dfnet1}}
variants: {a: {}}
grid: {training.optimizer: [sgd, adamw], training.epochs: [null], training.steps: [9]}
when:
  - if: {training.optimizer: adamw}
    set: {training: {optimizer: {arguments: {eps: 1e-6}}}}
"""
    trials = load(tmp_path, {"study.yaml": text}).trials
    names = [trial.experiment.training.optimizer_config.name for trial in trials]
    assert names == ["sgd", "adamw"]


def test_validation_on_training_data_causes_a_warning(tmp_path: Path) -> None:
    text = SAME + "  two: {set: {data: {train_split: train+val}}}\n"
    (warning,) = load(tmp_path, {"study.yaml": text.replace("{one: {}}", "\n  one: {}")}).warnings
    assert "split val is used for validation and also for training (train+val)" in str(warning)


BACKBONES = ["dfnet1", "dfnet2", "resnet18"]
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 9),
        "batch": st.integers(1, 9),
        "momentum": st.sampled_from([0.5, 0.8]),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    base=PARTS,
    variants=st.dictionaries(st.sampled_from("abc"), PARTS, min_size=1),
    backbones=st.lists(st.sampled_from(BACKBONES), unique=True, min_size=1),
    seeds=st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=2),
    parts=st.lists(st.tuples(st.sampled_from(BACKBONES), PARTS), max_size=3),
)
@pytest.mark.slow
def test_expansion_is_the_naive_product(
    tmp_path: Path,
    base: dict[str, Any],
    variants: dict[str, dict[str, Any]],
    backbones: list[str],
    seeds: list[int],
    parts: list[tuple[str, dict[str, Any]]],
) -> None:
    parts = [(backbone, part) for backbone, part in parts if part and backbone in backbones]
    study = {
        "study": "product",
        "base": {"training": base},
        "variants": {name: {"set": {"training": part}} for name, part in variants.items()},
        "grid": {"model.backbone": backbones},
        "when": [
            {"if": {"model.backbone": backbone}, "set": {"training": part}}
            for backbone, part in parts
        ],
        "seeds": seeds,
    }
    trials = load(tmp_path, {"study.yaml": yaml.safe_dump(study, sort_keys=False)}).trials
    expected = []
    for (name, part), backbone, seed in itertools.product(variants.items(), backbones, seeds):
        training = {"epochs": 300, "batch": 8, "momentum": 0.9} | base | part
        for condition, conditional in parts:
            training |= conditional if condition == backbone else {}
        expected.append((name, backbone, seed, training))
    expanded = []
    for trial in trials:
        experiment = trial.experiment
        training = {
            key: asdict(experiment.training)[key] for key in ("epochs", "batch", "momentum")
        }
        expanded.append((trial.variant, experiment.model.backbone, experiment.seed, training))
    assert expanded == expected


def test_resolved_study_defines_the_same_trials(tmp_path: Path) -> None:
    """Text that looks like a number stays text; `studies resume` and submissions read this file."""
    text = SAME.replace(
        "{one: {}}",
        """
  one: {label: "1e-4"}
  "on": {label: "1_000", reference: {miou: 70, source: "12:30"}, set: {training: {momentum: 0.5}}}
  network:
    label: "no"
    set: {model: {network: "examples.unet:UNet", arguments: {width: 4}}}
""",
    ).replace("study: same", "study: same\ndescription: |\n  First line: 1e3\n\n  # second")
    study = load(tmp_path, {"study.yaml": text})
    resolved = load(tmp_path, {"resolved.yaml": study.resolved})
    assert resolved.config == study.config
    assert resolved.trials == study.trials
    assert [variant.label for variant in resolved.config.variants.values()] == [
        "1e-4",
        "1_000",
        "no",
    ]


def test_resolved_study_lacks_inherited_entries_of_no_cell(tmp_path: Path) -> None:
    """They would be errors there, because they would no longer be inherited."""
    variant = """
  strong:
    entered: {when: {training.batch: 8}, miou: 69.5, source: server}
    reference:
      - {when: {training.batch: 8}, miou: 70.1, source: "Table 9"}
      - {miou: 71.1, source: "Table 9"}
"""
    inherited = RECIPE.replace("\nprotocols:", f"{variant}protocols:")
    text = "study: small\nextends: recipe.yaml\ncompare_to: strong\n"
    study = load(tmp_path, {"recipe.yaml": inherited, "study.yaml": text})
    resolved = load(tmp_path, {"resolved.yaml": study.resolved})
    assert resolved.trials == study.trials
    assert resolved.config.when == ()
    strong = resolved.config.variants["strong"]
    assert ([each.miou for each in strong.references], strong.entered) == ([71.1], None)


def identities(study: Study) -> list[str]:
    values = []
    for trial in study.trials:
        assert trial.experiment.training.precision == "fp32"
        values.append(trial_identity(trial.experiment, "0" * 64))
    return values


SAME = """\
study: same
base:
  training: {epochs: 3, precision: fp32}
  model: {backbone: dfnet1}
variants: {one: {}}
"""


@pytest.mark.parametrize(
    "text",
    [
        "# A comment\n" + SAME,
        SAME.replace("{epochs: 3, precision: fp32}", "{precision: fp32, epochs: 3}"),
        SAME.replace("epochs: 3", "epochs: 3, batch: 8, schedule: poly"),
        SAME + "resources: {workers: 4, price_per_gpu_hour: 2, accelerator: T4}\n",
        SAME + "limits: {gpu_hours: 3}\nfirst: [one]\ndescription: x\n",
        SAME + "protocols: {flip: {flip: true}}\nreport: {protocol: flip, images: 2}\n",
        SAME + "published: [{label: X, miou: 50.0}]\ncompare_to: one\n",
        SAME.replace("{one: {}}", "{one: {label: x, reference: {miou: 70}, entered: "
                     "{miou: 70, source: x}}}"),
        SAME.replace("  model: {backbone: dfnet1}\n", "")
        + "when: [{if: {variant: one}, set: {model: {backbone: dfnet1}}}]\n",
        SAME.replace("study: same", "study: other\nkind: search\nearly_stopping: {}"),
    ],
)  # fmt: skip
def test_identity_depends_only_on_what_is_computed(tmp_path: Path, text: str) -> None:
    assert identities(load(tmp_path, {"study.yaml": text})) == identities(
        load(tmp_path, {"same.yaml": SAME})
    )


def test_a_power_without_the_schedule_poly_is_a_warning(tmp_path: Path) -> None:
    """Finished studies stay readable: the power never had an effect."""
    text = "study: s\nbase: {training: {power: 0.9}}\ngrid: {training.schedule: [poly, cosine]}\n"
    (warning,) = load(tmp_path, {"study.yaml": text + "variants: {one: {}}\n"}).warnings
    assert "power is 0.9, but only the schedule poly has it" in warning.message
    assert "trials with cosine" in warning.message

"""Expansion of a study into trials, and the messages for invalid studies."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.network.config import NetworkConfig
from tests.support.study_files import load, problems

MINIMAL = """\
study: small
base:
  training: {epochs: 3, learning_rate: 1e-2}
  model: {backbone: dfnet1}
variants:
  strong:
    set: {model: {flows: []}}
    reference: {miou: 77.3}
  full: {label: FENet}
compare_to: strong
"""


def test_variants_override_the_base(tmp_path: Path) -> None:
    strong, full = load(tmp_path, MINIMAL).trials
    assert (strong.name, strong.label, full.label) == ("strong", "strong", "FENet")
    assert strong.experiment.model.flows == ()
    assert full.experiment.model.flows == ("detail", "semantic")
    assert strong.experiment.model.backbone == full.experiment.model.backbone == "dfnet1"
    assert strong.experiment.training.learning_rate == 0.01
    assert strong.reference is not None
    assert strong.reference.miou == 77.3
    assert full.reference is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    backbones=st.lists(st.sampled_from(["resnet18", "dfnet1"]), unique=True, min_size=1),
    epochs=st.lists(st.integers(1, 50), unique=True, min_size=1, max_size=3),
)
def test_expansion_is_the_product_of_variants_grid_and_seeds(
    tmp_path: Path, seeds, backbones, epochs
) -> None:
    text = f"""{MINIMAL}
seeds: {seeds}
grid:
  model.backbone: {backbones}
  training.epochs: {epochs}
"""
    trials = load(tmp_path, text).trials
    expanded = [
        (
            trial.variant,
            trial.experiment.model.backbone,
            trial.experiment.training.epochs,
            trial.experiment.seed,
        )
        for trial in trials
    ]
    assert expanded == list(itertools.product(["strong", "full"], backbones, epochs, seeds))
    assert len({trial.name for trial in trials}) == len(trials)


def test_overrides_take_precedence_over_variants_and_grid(tmp_path: Path) -> None:
    text = MINIMAL + "grid: {training.epochs: [5]}\n"
    study = load(
        tmp_path,
        text,
        overrides=[
            ("training.epochs", "7"),
            ("model.flows", "[detail]"),
            ("resources.workers", "2"),
            ("seeds", "[4]"),
        ],
    )
    assert study.config.resources.workers == 2
    for trial in study.trials:
        assert trial.experiment.training.epochs == 7
        assert trial.experiment.model.flows == ("detail",)
        assert trial.experiment.seed == 4


@pytest.mark.parametrize(("first", "last"), [("5", "7"), ("7", "5")])
def test_last_override_of_a_key_wins(tmp_path: Path, first: str, last: str) -> None:
    overrides = [("training.epochs", first), ("training.epochs", last)]
    for trial in load(tmp_path, MINIMAL, overrides=overrides).trials:
        assert trial.experiment.training.epochs == int(last)


@pytest.mark.parametrize(("scales", "epochs"), [("[1.0]", 9), ("[0.5, 1.0]", 3)])
def test_condition_on_a_list_that_is_a_default(tmp_path: Path, scales: str, epochs: int) -> None:
    condition = f"if: {{evaluation.scales: [{scales}, [2.0]]}}, set: {{training: {{epochs: 9}}}}"
    text = MINIMAL + f"when: [{{{condition}}}]\n"
    if epochs == 3:
        assert "matches no cell" in str(problems(tmp_path, text))
        return
    assert {trial.experiment.training.epochs for trial in load(tmp_path, text).trials} == {epochs}


def test_only_keeps_matching_trials(tmp_path: Path) -> None:
    assert [t.name for t in load(tmp_path, MINIMAL, only=["f*"]).trials] == ["full"]
    (problem,) = problems(tmp_path, MINIMAL, only=["x*"])
    assert problem == "--only x*: matches no trial; the study has: strong; full"


def test_only_keeps_a_trial_of_a_name_with_brackets(tmp_path: Path) -> None:
    text = MINIMAL + "grid: {data.crop: [[64, 64], [32, 32]]}\n"
    name = "full, [64, 64]"
    assert [trial.name for trial in load(tmp_path, text, only=[name]).trials] == [name]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "epochs: 3",
            "epoch: 3",
            "study.yaml:3:14: unknown key `training.epoch`; did you mean `training.epochs`?",
        ),
        (
            "epochs: 3",
            "epochs: three",
            'study.yaml:3:14: `training.epochs` must be a whole number, received "three"',
        ),
        *(
            (
                "study: small",
                f"study: small\nlatency: {{size: {size}}}",
                f"study.yaml:2:11: `latency.size` needs 2 values, received {size}",
            )
            for size in ([1], [1, 2, 3])
        ),
        ("epochs: 3", "epochs: 0", "study.yaml:3:14: `training`: epochs must be at least 1"),
        ("epochs: 3", "epochs: 2.5", "study.yaml:3:14: `training.epochs` must be a whole number"),
        (
            "epochs: 3",
            "precision: bf17",
            'study.yaml:3:14: `training.precision` is "bf17"; did you',
        ),
        ("dfnet1", "resnet81", "study.yaml:4:11: `model`: backbone"),
        ("flows: []", "flows: [details]", "study.yaml:7:19: `model`: flows has 'details'"),
        ("compare_to: strong", "compare_to: stong", "study.yaml:10:1: `compare_to` is 'stong'"),
        (
            "label: FENet",
            "compare_to: stong",
            "study.yaml:9:10: `variants.full.compare_to` is 'stong', which is not a variant",
        ),
        (
            "label: FENet",
            "compare_to: full",
            "study.yaml:9:10: `variants.full.compare_to` is the variant itself",
        ),
        (
            "study: small",
            "study: small\nreport: {published_setting: {data.datset: x}}",
            "study.yaml:2:30: unknown key `data.datset`; did you mean `data.dataset`?",
        ),
        ("study: small", "study: a/b", "study.yaml:1:1: `study` is 'a/b'"),
        ("study: small\n", "", "study.yaml:1:1: `study` is missing"),
        ("label: FENet", "lable: FENet", "study.yaml:9:10: unknown key `variants.full.lable`; did"),
        (
            "miou: 77.3",
            "miou: high",
            "study.yaml:8:17: `variants.strong.reference.miou` must be a number",
        ),
        ("base:", "bases:", "study.yaml:2:1: unknown key `bases`; did you mean `base`?"),
        (
            "variants:",
            "variants: 3\nx:",
            "study.yaml:5:1: `variants` must be a mapping, received 3",
        ),
        ("model: {backbone: dfnet1}", "model: dfnet1", "study.yaml:4:3: `model` must be a mapping"),
        (
            "study: small",
            "study: small\nseeds: [1, 1]",
            "study.yaml:2:1: `seeds` has a duplicate entry",
        ),
        ("study: small", "study: small\nseeds: []", "study.yaml:2:1: `seeds` must have at least"),
        (
            "study: small",
            "study: small\nresources: {workers: 0}",
            "study.yaml:2:13: `resources`: workers must be at least 1, received 0",
        ),
        (
            "study: small",
            "study: small\ngrid: {model.bakbone: [dfnet1]}",
            "study.yaml:2:8: unknown key `model.bakbone`; did you mean `model.backbone`?",
        ),
        (
            "study: small",
            "study: small\nreport: {columns: []}",
            "study.yaml:2:10: `report`: columns must not be empty; leave it out",
        ),
        (
            "study: small",
            "study: small\nreport: {columns: [miou, iou/]}",
            "study.yaml:2:26: `report.columns` has 'iou/', which lacks a name before or after "
            "the slash",
        ),
        (
            "study: small",
            "study: small\nreport: {expected_difference: 1e300}",
            "study.yaml:2:10: `report`: expected_difference must be above 0 and at most 100 points",
        ),
        (
            "study: small",
            "study: small\nreport: {published_setting: {data.dataset: [cityscapes, 5]}}",
            "study.yaml:2:30: `report.published_setting.data.dataset` is 5; write a value that",
        ),
        (
            "study: small",
            "study: small\nreport: {published_setting: {model.backbone: []}}",
            "study.yaml:2:30: `report.published_setting.model.backbone` is []; write a value that",
        ),
        (
            "study: small",
            'study: small\nprotocols: {test: {split: ""}}',
            "study.yaml:2:20: `protocols.test`: split must name a split, or different splits",
        ),
        (
            "study: small",
            "study: small\nsubmission: {benchmark: cityscapes, split: ' '}",
            "study.yaml:2:37: `submission`: split must name a split, or different splits",
        ),
        (
            "study: small",
            f"study: {'x' * 300}",
            'study.yaml:1:1: `study` may have 100 characters, received 300: "xxx',
        ),
        (
            "full: {",
            f"{'x' * 101}: {{",
            "study.yaml:9:3: a variant's name may have 100 characters, received 101",
        ),
        (
            "set: {model: {flows: []}}",
            "compare_to: full\n    set: {model: {flows: []}}",
            "study.yaml:7:5: `variants.strong.compare_to` closes a cycle: strong -> "
            "full -> strong; remove it",
        ),
        (
            "study: small",
            "study: small\ngrid: {training.optimizer: [{name: adamw, no_decy: [norm]}]}",
            "study.yaml:2:29: unknown key `training.optimizer.no_decy`; did you mean",
        ),
        ("study: small", "study: small\ngrid: {seed: [1]}", "study.yaml:2:8: list seeds under"),
        (
            "learning_rate: 1e-2",
            "learning_rate: .inf",
            "study.yaml:3:25: `base.training.learning_rate` must be finite",
        ),
    ],
)
def test_invalid_study_is_reported(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    messages = problems(tmp_path, MINIMAL.replace(old, new, 1))
    assert any(problem.startswith(expected) for problem in messages), messages


@pytest.mark.parametrize(
    "setting",
    [
        "{data.dataset: cityscapes, model.backbone: [resnet18, resnet101]}",
        "{data.crop: [1024, 1024]}",
        "{data.crop: [[1024, 1024], [512, 512]], training.init: null}",
        "{model.network: a.b:C, variant: full}",
    ],
)
def test_published_setting_has_a_value_or_a_list_of_values(tmp_path: Path, setting: str) -> None:
    text = MINIMAL + f"report: {{published_setting: {setting}}}\n"
    assert load(tmp_path, text).config.report.published_setting


def test_rows_may_be_compared_in_a_chain(tmp_path: Path) -> None:
    text = MINIMAL + "grid: {training.epochs: [1, 2]}\n"
    text = text.replace("full: {", "last: {compare_to: full}\n  full: {")
    config = load(tmp_path, text).config
    assert [config.compared_to(name) for name in config.variants] == [None, "full", "strong"]


def test_all_problems_are_reported_once(tmp_path: Path) -> None:
    text = MINIMAL.replace("epochs: 3", "epoch: 3, batch: none").replace("[]", "[detial]")
    messages = problems(tmp_path, text)
    assert len(messages) == 3
    assert [problem.split(":")[1] for problem in messages] == ["3", "3", "7"]


def test_bad_override_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, MINIMAL, overrides=[("training.epoch", "7")])
    assert problem.startswith("--set training.epoch=7: unknown key `training.epoch`; did you mean")


CUSTOM_NETWORK = """\
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, classes: int, width: int = 8, name: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, 4), nn.Conv2d(width, classes, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)
"""


@pytest.fixture
def custom_network(tmp_path: Path, user_module: Callable[[str, str], Path]) -> str:
    name = f"own_network_{tmp_path.name.replace('-', '_')}"
    return user_module(name, CUSTOM_NETWORK).stem


def test_custom_network(tmp_path: Path, custom_network: str) -> None:
    text = MINIMAL.replace(
        "full: {label: FENet}",
        f"""short: {{set: {{model: "{custom_network}:Small"}}}}
  long: {{set: {{model: {{network: "{custom_network}:Small", arguments: {{width: 16}}}}}}}}""",
    )
    _, short, long = load(tmp_path, text).trials
    assert short.experiment.model == NetworkConfig(f"{custom_network}:Small")
    assert long.experiment.model == NetworkConfig(f"{custom_network}:Small", {"width": 16})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("MODULE:Large", "network MODULE:Large: MODULE has no torch.nn.Module Large"),
        ("MODULE_:Small", "network MODULE_:Small: cannot import MODULE_"),
        ("MODULE:nn", "network MODULE:nn: MODULE has no torch.nn.Module nn"),
        (
            "{network: 'MODULE:Small', arguments: {with: 3}}",
            "unknown argument `with`; known: width",
        ),
        (
            "{network: 'MODULE:Small', arguments: {width: wide}}",
            "`width` must be a whole number, received",
        ),
        (
            "{network: 'MODULE', arguments: {}}",
            "network is 'MODULE'; it must be hf:NAME or package",
        ),
        (
            "{network: 'MODULE:Small', width: 3}",
            "unknown key `model.width`; known: network, arguments",
        ),
    ],
)
def test_invalid_custom_network_is_reported(
    tmp_path: Path, custom_network: str, model: str, expected: str
) -> None:
    text = MINIMAL.replace(
        "label: FENet", f"set: {{model: {model.replace('MODULE', custom_network)}}}"
    )
    messages = problems(tmp_path, text)
    assert len(messages) == 1
    assert expected.replace("MODULE", custom_network) in messages[0]
    assert messages[0].startswith("study.yaml:9:")


def test_failed_import_is_reported_with_its_location(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, MINIMAL + "imports: [json, not_there.at_all]\n")
    assert problem.startswith("study.yaml:11:17: cannot import not_there.at_all")


def test_module_that_exits_when_imported_is_reported(
    tmp_path: Path, user_module: Callable[[str, str], Path]
) -> None:
    user_module("exits_when_imported", "raise SystemExit(2)\n")
    for text in (
        MINIMAL + "imports: [exits_when_imported]\n",
        MINIMAL.replace("label: FENet", "set: {model: {network: 'exits_when_imported:Net'}}"),
    ):
        (problem,) = problems(tmp_path, text)
        assert "cannot import exits_when_imported (SystemExit: 2)" in problem

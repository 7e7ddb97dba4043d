"""Optimizers, schedules, losses and transforms in a study: arguments, inheritance, identity, user
code."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import LossConfig, LossTermConfig
from orchestrator.study.identity import trial_identity
from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.study.user_code import modules_of, modules_of_network
from orchestrator.study.yaml_source import StudyError
from pipelines.data.config import TransformConfig
from pipelines.network.build import build_network
from pipelines.training.config import LayerDecay, OptimizerConfig, ScheduleConfig

STUDY = """\
study: small
base:
  training: {precision: fp32, TRAINING}
variants:
  plain: {}
  other: {set: {training: {OTHER}}}
"""
OWN = """\
import torch

class Slow(torch.optim.SGD):
    def __init__(self, params, lr: float, weight_decay: float = 0.0, factor: float = 0.5):
        super().__init__(params, lr * factor, weight_decay=weight_decay)

class Constant:
    def __call__(self, progress):
        return 1.0

class Distance(torch.nn.Module):
    def forward(self, logits, labels):
        return logits.square().mean()
"""
TRANSFORMS = """\
import torch

class Darker(torch.nn.Module):
    def __init__(self, factor: float = 0.5):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return images * self.factor
"""
PARTS = """\
import torch
from models import FEM, Backbone

class Tiny(Backbone):
    channels = (8, 8)
    strides = (4, 8)
    lateral_channels = 8

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 4, stride=4)
        self.second = torch.nn.Conv2d(8, 8, 2, stride=2)

    def forward(self, images):
        first = self.first(images)
        return [first, self.second(first)]

class Plain(FEM):
    auxiliary = "finer"

    def forward(self, target, auxiliary):
        return self.theta(target + self.oper(target, auxiliary))
"""


def load(tmp_path: Path, training: str, other: str = "epochs: 3", more: str = "") -> Study:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("TRAINING", training).replace("OTHER", other) + more)
    return load_study(file)


def only_problem(tmp_path: Path, training: str, other: str = "epochs: 3") -> str:
    """Load an invalid study; return its only problem."""
    with pytest.raises(StudyError) as raised:
        load(tmp_path, training, other)
    (problem,) = {str(problem) for problem in raised.value.problems}
    return problem


def test_optimizer_is_typed_to_the_last_key(tmp_path: Path) -> None:
    optimizer = (
        "optimizer: {name: adamw, arguments: {betas: [0.9, 0.95]}, no_decay: [norm, bias], "
        "rate_factors: {backbone.*: 1}, layer_decay: {factor: 0.9, layers: ['backbone.layer#.*']}}"
    )
    plain, other = load(tmp_path, f"{optimizer}, schedule: one-cycle").trials
    assert plain.experiment.training.optimizer == OptimizerConfig(
        "adamw",
        {"betas": [0.9, 0.95]},
        ("norm", "bias"),
        {"backbone.*": 1.0},
        LayerDecay(0.9, ("backbone.layer#.*",)),
    )
    assert other.experiment.training.schedule == "one-cycle"


@pytest.mark.parametrize(
    ("training", "other", "expected"),
    [
        # Another class inherits no arguments, but the groups, which depend on the network.
        (
            "optimizer: {arguments: {nesterov: true}, no_decay: [bias]}",
            "optimizer: {name: adamw}",
            OptimizerConfig("adamw", no_decay=("bias",)),
        ),
        (
            "optimizer: {name: adamw, arguments: {eps: 1e-6}}",
            "optimizer: {arguments: {amsgrad: true}}",
            OptimizerConfig("adamw", {"eps": 1e-6, "amsgrad": True}),
        ),
        (
            "optimizer: adamw",
            "optimizer: {no_decay: [norm]}",
            OptimizerConfig("adamw", {}, ("norm",)),
        ),
        ("optimizer: {name: adamw, arguments: {eps: 1e-6}}", "optimizer: sgd", "sgd"),
        (
            "optimizer: {name: adamw, arguments: {eps: 1e-6}, no_decay: [bias]}",
            "optimizer: sgd",
            OptimizerConfig("sgd", no_decay=("bias",)),
        ),
        # Another network has other parameters.
        (
            "optimizer: {rate_factors: {backbone.*: 0.1, head.*: 2}}",
            "optimizer: {rate_factors: {backbone.*: null, model.*: 0.5}}",
            OptimizerConfig(rate_factors={"head.*": 2.0, "model.*": 0.5}),
        ),
    ],
)
def test_variant_overrides_the_optimizer_of_the_base(
    tmp_path: Path, training: str, other: str, expected: object
) -> None:
    assert load(tmp_path, training, other).trials[1].experiment.training.optimizer == expected


def test_grid_may_name_the_optimizer_within_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: a\nbase: {training: {optimizer: {name: adamw, no_decay: [norm]}}}\n"
        "variants: {a: {}}\ngrid: {training: [{optimizer: sgd}]}\n"
    )
    (trial,) = load_study(path).trials
    assert trial.experiment.training.optimizer == OptimizerConfig("sgd", no_decay=("norm",))


def test_schedule_with_arguments(tmp_path: Path) -> None:
    schedule = "schedule: {name: step, arguments: {milestones: [0.5], gamma: 0.2}}"
    _, other = load(tmp_path, "schedule: cosine", schedule).trials
    assert other.experiment.training.schedule == ScheduleConfig(
        "step", {"milestones": [0.5], "gamma": 0.2}
    )


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            "optimizer: adam",
            "3:31: `training`: optimizer is 'adam'; known: adamw, sgd; or package.module:",
        ),
        (
            "optimizer: {nam: adamw}",
            "3:43: unknown key `training.optimizer.nam`; did you mean `training.optimizer.name`",
        ),
        ("optimizer: 3", "3:31: `training.optimizer` must be text or a mapping with name, "),
        (
            "optimizer: {no_decay: norm}",
            '3:43: `training.optimizer.no_decay` must be a list, received "norm"',
        ),
        (
            "optimizer: {rate_factors: {head.*: fast}}",
            "3:58: `training.optimizer.rate_factors.head.*` must be a number, received",
        ),
        (
            "optimizer: {layer_decay: {factor: 2, layers: [a]}}",
            "`training.optimizer.layer_decay`: factor must be above 0 and at most 1, received 2",
        ),
        (
            "optimizer: {name: adamw, arguments: {beta: 1}}",
            "3:31: optimizer adamw: unknown argument `beta`; known: betas, eps",
        ),
        (
            "optimizer: {name: adamw, arguments: {eps: tiny}}",
            '3:68: `eps` must be a number, received "tiny"',
        ),
        (
            "schedule: {name: one-cycle, arguments: {pct_start: early}}",
            '3:71: `pct_start` must be a number, received "early"',
        ),
        ("schedule: absent.module:Own", "schedule absent.module:Own: cannot import absent.module"),
        ("optimizer: adamw, momentum: 0.8", "`training`: momentum is 0.8, but only the optimizer"),
    ],
)
def test_invalid_optimizer_or_schedule_is_one_error_with_its_location(
    tmp_path: Path, training: str, message: str
) -> None:
    assert message in only_problem(tmp_path, training)


def test_terms_of_a_loss(tmp_path: Path) -> None:
    terms = (
        "[{name: dice, weight: 0.5}, {name: cross-entropy}, {name: focal, arguments: {gamma: 3}}]"
    )
    plain, other = load(tmp_path, f"loss: {{terms: {terms}}}", "loss: {terms: [lovasz]}").trials
    assert plain.experiment.training.loss.terms == (
        LossTermConfig("dice", weight=0.5),
        "cross-entropy",
        LossTermConfig("focal", {"gamma": 3}),
    )
    assert other.experiment.training.loss == LossConfig(terms=("lovasz",))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            "[cross_entropy]",
            "`training.loss`: terms is 'cross_entropy'; known: boundary, cross-ent",
        ),
        ("dice", '3:38: `training.loss.terms` must be a list, received "dice"'),
        ("[{name: dice, wight: 1}]", "unknown key `training.loss.terms.0.wight`; did you mean"),
        ("[dice, {name: dice, weight: 0}]", "`training.loss.terms.1`: weight is 0.0; it must be a"),
        (
            "[dice, {name: focal, arguments: {gama: 2}}]",
            "loss focal: unknown argument `gama`; known: gamma, class_weights",
        ),
        (
            "[{name: focal, arguments: {gamma: much}}]",
            '`gamma` must be a number, received "much"',
        ),
        ("[dice], share: 0.1", "share is 0.1, but it belongs to mined-cross-entropy"),
    ],
)
def test_invalid_loss_is_one_error(tmp_path: Path, terms: str, message: str) -> None:
    assert message in only_problem(tmp_path, f"loss: {{terms: {terms}}}")


def with_transforms(transforms: str) -> str:
    # The last brace is that of `training` in STUDY.
    return f"epochs: 3}}, data: {{augmentation: {{transforms: {transforms}}}"


def test_transforms_are_typed_and_checked(
    tmp_path: Path, user_module: Callable[[str, str], Path]
) -> None:
    user_module("own_transforms", TRANSFORMS)
    erasing = "{name: 'kornia.augmentation:RandomErasing', arguments: {p: 0.3}}"
    transforms = f"[{erasing}, 'own_transforms:Darker', {{name: 'own_transforms:Darker'}}]"
    plain, other = load(tmp_path, "epochs: 2", with_transforms(transforms)).trials
    assert other.experiment.data.augmentation.transforms == (
        TransformConfig("kornia.augmentation:RandomErasing", {"p": 0.3}),
        "own_transforms:Darker",
        "own_transforms:Darker",
    )
    assert [m.__name__ for m in modules_of(other.experiment, ())] == ["own_transforms"]
    assert modules_of_network(other.experiment, ()) == []
    kornia = load(tmp_path, "epochs: 2", with_transforms(f"[{erasing}]")).trials[1].experiment
    assert modules_of(kornia, ()) == []
    off = load(tmp_path, "epochs: 2", with_transforms("[], vertical_flip: 0, rotate90: 0"))
    identities = [
        trial_identity(replace(each, training=plain.experiment.training), "0")
        for each in (plain.experiment, off.trials[1].experiment, kornia, other.experiment)
    ]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ("[flip]", "`data.augmentation`: transforms is 'flip'; it must be package.module:Class"),
        (
            "[{name: 'a:B', argument: {}}]",
            "unknown key `data.augmentation.transforms.0.argument`; did",
        ),
        ("['absent.module:Own']", "transform absent.module:Own: cannot import absent.module"),
        (
            "[{name: 'kornia.augmentation:RandomErasing', arguments: {scala: 1}}]",
            "6:75: transform kornia.augmentation:RandomErasing: unknown argument `scala`; known: ",
        ),
        (
            "[{name: 'kornia.augmentation:RandomElasticTransform', arguments: {alpha: [a, 1]}}]",
            '`alpha` must be a number, received "a"',
        ),
        ("['kornia.augmentation:RandomMixUpV2']", "RandomMixUpV2 mixes the samples of a batch"),
    ],
)
def test_invalid_transform_is_one_error(tmp_path: Path, transforms: str, message: str) -> None:
    assert message in only_problem(tmp_path, "epochs: 2", with_transforms(transforms))


def test_conditions_match_both_forms(tmp_path: Path) -> None:
    conditions = """\
when:
  - if: {training.optimizer: sgd, training.schedule.name: poly}
    set: {training: {epochs: 5}}
  - if: {training.optimizer: adamw}
    set: {training: {epochs: 7}}
"""
    other = "optimizer: {name: adamw, no_decay: [norm]}"
    trials = load(tmp_path, "epochs: 2", other, conditions).trials
    assert [trial.experiment.training.epochs for trial in trials] == [5, 7]


def test_both_forms_of_the_default_have_the_identity_of_the_default(tmp_path: Path) -> None:
    defaults = "optimizer: {name: sgd, arguments: {}}, schedule: {name: poly}"
    plain, other = load(tmp_path, "epochs: 2", defaults).trials
    assert trial_identity(plain.experiment, "0") == trial_identity(other.experiment, "0")
    ema = load(tmp_path, "epochs: 2, ema: 0.99").trials[0]
    assert trial_identity(plain.experiment, "0") != trial_identity(ema.experiment, "0")


def test_own_classes_are_user_code_of_the_training(
    tmp_path: Path, user_module: Callable[[str, str], Path]
) -> None:
    user_module("own_optimization", OWN)
    own = "optimizer: {name: 'own_optimization:Slow', arguments: {factor: FACTOR}}"
    training = own.replace("FACTOR", "0.25") + ", schedule: 'own_optimization:Constant'"
    training += ", loss: {terms: ['own_optimization:Distance']}"
    trial = load(tmp_path, training).trials[0]
    assert [module.__name__ for module in modules_of(trial.experiment, ())] == ["own_optimization"]
    assert modules_of_network(trial.experiment, ()) == []
    with pytest.raises(StudyError, match="`factor` must be a number"):
        load(tmp_path, own.replace("FACTOR", "half"))
    nadam = load(tmp_path, "optimizer: 'torch.optim:NAdam'").trials[0]
    assert modules_of(nadam.experiment, ()) == []


def test_backbone_and_fem_are_named_as_classes(
    tmp_path: Path, user_module: Callable[[str, str], Path]
) -> None:
    user_module("own_parts_of_fenet", PARTS)
    text = "epochs: 2"
    other = (
        "epochs: 3}, model: {backbone: 'own_parts_of_fenet:Tiny', "
        "flows: [detail, 'own_parts_of_fenet:Plain', 'own_parts_of_fenet:Plain']"
    )
    model = load(tmp_path, text, other).trials[1].experiment.model
    network = build_network(model, classes=3, seed=0)
    assert list(network.flows) == ["detail", "Plain", "Plain2"]  # type: ignore[arg-type]
    assert network.backbone.built_as.startswith("backbone: own_parts_of_fenet:Tiny")  # type: ignore
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 8, 8)
    experiment = load(tmp_path, text, other).trials[1].experiment
    assert [m.__name__ for m in modules_of_network(experiment, ())] == ["own_parts_of_fenet"]
    with pytest.raises(StudyError, match=r"own_parts_of_fenet has no models\.Backbone Plain"):
        load(tmp_path, text, other.replace("Tiny", "Plain"))

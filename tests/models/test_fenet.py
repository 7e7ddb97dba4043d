"""Behavior required of every backbone and every variant of FENet."""

import copy
import functools
import math
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import (
    Backbone,
    ChannelDropout,
    FENet,
    FENetConfig,
    LossConfig,
    SegmentationLoss,
    register_backbone,
    set_sample_keys,
    split_output,
)
from models.backbones import BACKBONES
from models.initialization import KeyedConstruction
from models.layers import ConvNormReLU, fuse_by_addition, fuse_by_concatenation
from models.resampling import resize

CLASSES = 7

# Narrow levels keep the tests fast; no test depends on the width.
VARIANTS = {
    "baseline": FENetConfig("dfnet1", channels=8, ppm=False, flows=()),
    "strong": FENetConfig("dfnet1", channels=8, flows=()),
    "strong+df": FENetConfig("dfnet1", channels=8, flows=("detail",)),
    "strong+sf": FENetConfig("dfnet1", channels=8, flows=("semantic",)),
    "low-pass": FENetConfig(
        channels=8,
        flows=("semantic", "detail"),
        structure_start="low-pass",
        extractor_kernel=5,
    ),
    "three-flows": FENetConfig("dfnet1", channels=8, flows=("detail", "semantic", "detail")),
    "ss4": FENetConfig("dfnet1", channels=8, supervision=(1, 2, 3, 4)),
    "plain-stem": FENetConfig("resnet18", channels=8, stem="plain", supervision=(4,)),
    "narrow-stem": FENetConfig("resnet18", channels=8, stem="32-32-64", dilation=False),
    "dilated-baseline": FENetConfig("resnet18", channels=8, dilation=True, ppm=False, flows=()),
}
FENETS = {name: FENetConfig(name, channels=8, supervision=(3, 4)) for name in sorted(BACKBONES)}
CASES = {**VARIANTS, **FENETS}


@register_backbone("two-levels")
class TwoLevels(Backbone):
    """A minimal custom backbone with two levels instead of four."""

    channels = (6, 10)
    strides = (4, 8)
    lateral_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [ConvNormReLU(3, 6, 7, stride=4), ConvNormReLU(6, 10, 3, stride=2)]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            images = stage(images)
            levels.append(images)
        return levels


CASES["custom-backbone"] = FENetConfig("two-levels", supervision=(1, 2))


# For tests that compile or export.
SHALLOW_BACKBONES = "tests.support.shallow_backbones"
SHALLOW = {
    "low-pass": replace(VARIANTS["low-pass"], backbone=f"{SHALLOW_BACKBONES}:ShallowResNet18"),
    "narrow-stem": replace(
        VARIANTS["narrow-stem"], backbone=f"{SHALLOW_BACKBONES}:ShallowResNet18"
    ),
    "resnet50": replace(FENETS["resnet50"], backbone=f"{SHALLOW_BACKBONES}:ShallowResNet50"),
    "dfnet1": replace(FENETS["dfnet1"], backbone=f"{SHALLOW_BACKBONES}:ShallowDFNet1"),
    "baseline": replace(VARIANTS["baseline"], backbone=f"{SHALLOW_BACKBONES}:ShallowDFNet1"),
    "custom-backbone": CASES["custom-backbone"],
}


@functools.cache
def cached_network(case: str) -> FENet:
    return FENet(CASES[case], CLASSES)


def shallow_network(case: str) -> FENet:
    return FENet(SHALLOW[case], CLASSES)


# ResNet-101 is slow and only has more blocks of the same kind than ResNet-50.
@pytest.fixture(
    params=[
        pytest.param(case, marks=pytest.mark.slow) if case == "resnet101" else case
        for case in CASES
    ]
)
def model(request: pytest.FixtureRequest) -> FENet:
    return copy.deepcopy(cached_network(request.param))


def images(height: int = 64, width: int = 96, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


CRITERION = SegmentationLoss(LossConfig())


def training_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the total loss of one training step on synthetic labels."""
    labels = torch.zeros(batch.shape[0], *batch.shape[2:], dtype=torch.int64, device=batch.device)
    labels[:, ::3] = CLASSES - 1
    labels[:, 5] = 255
    terms = CRITERION(model(batch), labels)
    return CRITERION.total(terms.statistics, terms.sizes)[0]


class TestEveryNetwork:
    @pytest.mark.slow
    def test_logits_have_the_size_of_the_image_in_evaluation_only(self, model: FENet) -> None:
        batch = images()
        with torch.no_grad():
            assert model.eval()(batch).shape == (2, CLASSES, 64, 96)
            logits, auxiliary = split_output(model.train()(batch))
        finest = model.backbone.strides[0]
        assert logits.shape == (2, CLASSES, 64 // finest, 96 // finest)
        strides = {f"stage{s}": model.backbone.strides[s - 1] for s in model.config.supervision}
        assert {name: tuple(a.shape) for name, a in auxiliary.items()} == {
            name: (2, CLASSES, 64 // stride, 96 // stride) for name, stride in strides.items()
        }

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [(1, 1), (33, 47), (65, 31)], ids=str)
    def test_logits_match_odd_image_sizes(self, model: FENet, size: tuple[int, int]) -> None:
        with torch.no_grad():
            assert model.eval()(images(*size, batch=1)).shape == (1, CLASSES, *size)

    @pytest.mark.slow
    def test_backbone_levels_match_declared_channels_and_strides(self, model: FENet) -> None:
        height, width = 70, 101
        with torch.no_grad():
            levels = model.eval().backbone(images(height, width))
        assert [tuple(level.shape) for level in levels] == [
            (2, channels, math.ceil(height / stride), math.ceil(width / stride))
            for channels, stride in zip(
                model.backbone.channels, model.backbone.strides, strict=True
            )
        ]

    @pytest.mark.slow
    def test_gradients_reach_every_parameter(self, model: FENet) -> None:
        training_loss(model.train(), images()).backward()
        unreached = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        ]
        assert unreached == []

    @pytest.mark.slow
    def test_training_on_one_value_per_channel_stays_finite(self, model: FENet) -> None:
        training_loss(model.train(), images(32, 32, batch=1)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all(buffer.isfinite().all() for buffer in model.buffers())

    @pytest.mark.slow
    def test_training_step_reads_no_values_on_the_host(self, model: FENet) -> None:
        # Meta tensors have no values, so `.item()`, `nonzero` and similar calls raise.
        model = model.to("meta").train()
        set_sample_keys(model, torch.empty(2, dtype=torch.int64, device="meta"))
        training_loss(model, images().to("meta")).backward()

    @pytest.mark.slow
    def test_channels_last_is_kept_throughout(self, model: FENet) -> None:
        model.train().to(memory_format=torch.channels_last)
        batch = images().contiguous(memory_format=torch.channels_last)
        with ConvolutionInputs() as inputs, torch.no_grad():
            logits, auxiliary = split_output(model(batch))
        assert inputs.seen > 10
        assert inputs.in_another_format == 0
        for output in (logits, *auxiliary.values()):
            assert output.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.slow
    def test_features_match_the_forward_pass(self, model: FENet) -> None:
        batch = images()
        with torch.no_grad():
            features = model.eval().features(batch)
            logits = model(batch)
            fuse = fuse_by_concatenation if model.config.flows else fuse_by_addition
            last = list(features.values())[-1]
            torch.testing.assert_close(resize(model.head(fuse(last)), batch), logits)
        assert list(features) == ["backbone", "neck", *model.flows]
        for levels in list(features.values())[1:]:
            assert [tuple(level.shape) for level in levels] == [
                (2, 8, 64 // stride, 96 // stride) for stride in model.backbone.strides
            ]

    @pytest.mark.slow
    def test_trains_in_bfloat16(self, model: FENet) -> None:
        # Small images, because some processors emulate bfloat16.
        with torch.autocast("cpu", torch.bfloat16):
            loss = training_loss(model.train(), images(33, 40, batch=1))
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class ConvolutionInputs(TorchFunctionMode):
    """Count all convolutions and those whose input is not channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.in_another_format = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            self.seen += 1
            channels_last = args[0].is_contiguous(memory_format=torch.channels_last)
            self.in_another_format += not channels_last
        return func(*args, **(kwargs or {}))


# One case for each kind of block, fusion, FEM and stem.
@pytest.mark.slow
@pytest.mark.parametrize("case", SHALLOW)
def test_exported_network_matches_the_original(case: str) -> None:
    model, batch = shallow_network(case).eval(), images()
    exported = torch.export.export(model, (batch,)).module()
    with torch.no_grad():
        # An exported network resizes with torch's own operator, which rounds differently.
        torch.testing.assert_close(exported(batch), model(batch), rtol=1e-4, atol=1e-4)


# torch's compiler creates an instance of every autograd function, and warns about it.
IGNORE_COMPILER = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compare_evaluation(model: FENet, backend: str) -> None:
    """Assert that the compiled network matches the plain one in evaluation."""
    model.eval()
    batch = images()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=backend)(batch)
        torch.testing.assert_close(compiled, model(batch), rtol=1e-4, atol=1e-4)


def compare_training(model: FENet, backend: str) -> None:
    """Assert that loss and plain network match when compiled once for all sample keys."""
    model.train()
    batch = images()
    compiled = torch.compile(training_loss, fullgraph=True, backend=backend)
    for position in range(3):
        set_sample_keys(model, torch.tensor([position, 7 * position + 1]))
        with torch.compiler.set_stance("fail_on_recompile" if position else "default"):
            loss = compiled(model, batch)
        torch.testing.assert_close(loss, training_loss(model, batch), rtol=1e-4, atol=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# "low-pass" has a ResNet-18, both kinds of FEM and pyramid pooling.
@pytest.mark.slow
@pytest.mark.parametrize("case", ["baseline", "low-pass"])
def test_evaluation_compiles_without_graph_breaks(case: str, compiler: None) -> None:
    compare_evaluation(shallow_network(case), "eager")


@IGNORE_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("case", ["low-pass", "dfnet1", "resnet50"])
def test_training_compiles_without_graph_breaks(case: str, compiler: None) -> None:
    compare_training(shallow_network(case), "eager")


@IGNORE_COMPILER
@pytest.mark.slow
def test_training_compiles_with_its_gradient(compiler: None) -> None:
    compare_training(copy.deepcopy(cached_network("custom-backbone")), "aot_eager")


@pytest.mark.slow
@IGNORE_COMPILER
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_inductor_matches_eager_results(compiler: None) -> None:
    # The whole evaluation; of training, only keyed dropout and mining, which need generated code.
    compare_evaluation(copy.deepcopy(cached_network("custom-backbone")), "inductor")

    dropout = ChannelDropout(0.5, "head").train()
    set_sample_keys(dropout, torch.tensor([-(2**40), 3]))
    logits = torch.randn(2, CLASSES, 9, 11, requires_grad=True)

    def loss_of(logits: Tensor) -> Tensor:
        return training_loss(dropout, logits)

    plain = torch.autograd.grad(loss_of(logits), logits)
    compiled = torch.autograd.grad(torch.compile(loss_of, fullgraph=True)(logits), logits)
    torch.testing.assert_close(compiled, plain)


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@example(height=1, width=1, batch=1, classes=1)
@example(height=80, width=33, batch=3, classes=160)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    batch=st.integers(1, 3),
    classes=st.integers(1, 160),
)
def test_any_image_size_and_class_count(height: int, width: int, batch: int, classes: int) -> None:
    model = FENet(FENetConfig("dfnet1", channels=4, supervision=(1, 4)), classes)
    labels = torch.full((batch, height, width), classes - 1)
    criterion = SegmentationLoss()
    terms = criterion(model(images(height, width, batch)), labels)
    total, _ = criterion.total(terms.statistics, terms.sizes)
    total.backward()
    assert total.isfinite()
    with torch.no_grad():
        assert model.eval()(images(height, width, batch)).shape == (batch, classes, height, width)


@pytest.mark.slow
def test_parts_shared_by_variants_have_equal_initial_values() -> None:
    states = [
        cached_network(case).state_dict() for case in CASES if CASES[case].backbone == "dfnet1"
    ]
    for first in states:
        for second in states:
            for name in first.keys() & second.keys():
                if first[name].shape == second[name].shape and "kernel" not in name:
                    assert torch.equal(first[name], second[name]), name


@pytest.mark.slow
def test_initial_values_depend_only_on_the_seed() -> None:
    config = CASES["ss4"]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    same_seed = FENet(config, CLASSES, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in cached_network("ss4").state_dict().items():
        assert torch.equal(same_seed.state_dict()[name], value)
    other_seed = FENet(config, CLASSES, seed=1)
    weight = "flows.semantic.fems.1.theta.conv.weight"
    assert not torch.equal(other_seed.state_dict()[weight], same_seed.state_dict()[weight])


def test_layers_have_distinct_initial_values() -> None:
    weights = [
        p.flatten()[:8]
        for p in cached_network("ss4").parameters()
        if p.dim() == 4 and p.numel() > 99
    ]
    distinct = {tuple(weight.tolist()) for weight in weights}
    kernels = sum("kernel" in name for name, _ in cached_network("ss4").named_parameters())
    assert len(distinct) >= len(weights) - kernels


def test_initialization_off_the_cpu_is_rejected() -> None:
    parameter = types.SimpleNamespace(device=torch.device("cuda"))
    module_on_gpu = types.SimpleNamespace(named_parameters=lambda: [("head.weight", parameter)])
    with pytest.raises(ValueError, match=r"head\.weight is on cuda"):
        KeyedConstruction(0).initialize(module_on_gpu)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet34"}, r"backbone is 'resnet34'; known: .*dfnet1.*resnet101"),
        ({"stem": "64"}, r"stem is '64'; with resnet18 it must be one of 64-64-128, 32-32-64"),
        ({"backbone": "dfnet1", "stem": "plain"}, r"with dfnet1 it must be left out"),
        ({"backbone": "dfnet2", "dilation": True}, r"dfnet2 does not support dilation"),
        ({"channels": 0}, r"channels is 0"),
        ({"flows": ("detail", "texture")}, r"flows has 'texture'; known: detail, .*semantic"),
        ({"supervision": (0,)}, r"supervision is \[0\]; the stages of resnet18 are 1, 2, 3, 4"),
        ({"supervision": (3, 5)}, r"the stages of resnet18 are 1, 2, 3, 4"),
        ({"supervision": (3, 3)}, r"names a stage twice"),
        ({"structure_start": "blur"}, r"it must be mean-blur or low-pass"),
        ({"extractor_kernel": 4}, r"extractor_kernel is 4; it must be odd"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
    ],
)
def test_invalid_configurations_are_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FENetConfig(**fields)


@pytest.mark.slow
def test_unset_options_get_backbone_defaults() -> None:
    assert cached_network("resnet101").config.stem == "64-64-128"
    assert FENetConfig("resnet50").resolved().channels == 256
    assert FENetConfig("resnet18").resolved().channels == 128
    dfnet = FENetConfig("dfnet2").resolved()
    assert (dfnet.channels, dfnet.stem, dfnet.dilation) == (64, None, False)
    # Section 4.2 of the paper: the strong baseline is dilated, the baseline is not.
    assert FENetConfig("resnet18", flows=()).resolved().dilation is True
    assert FENetConfig("resnet18", flows=(), ppm=False).resolved().dilation is False


def test_dilation_changes_convolutions_but_not_weight_names() -> None:
    plain = FENet(FENetConfig("resnet18", channels=8, dilation=False), CLASSES)
    dilated = FENet(FENetConfig("resnet18", channels=8, dilation=True), CLASSES)
    assert plain.state_dict().keys() == dilated.state_dict().keys()
    convolutions = {
        name: module.dilation[0]
        for name, module in dilated.backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    }
    for name, dilation in convolutions.items():
        expected = 4 if name.startswith("layer4") else 2 if name.startswith("layer3") else 1
        assert dilation == expected, name


def test_zero_classes_are_rejected() -> None:
    with pytest.raises(ValueError, match="classes is 0"):
        FENet(FENetConfig("dfnet1"), 0)

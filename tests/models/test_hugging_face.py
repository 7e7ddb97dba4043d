"""Backbones and networks of `transformers`, built and saved here; nothing is downloaded."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from models import FENet, FENetConfig, PretrainedError
from models.backbones.hugging_face import backbone_traits
from models.cost import count_multiply_adds, count_parameters
from models.hugging_face import configuration
from models.hugging_face.configuration import normalization, read_saved
from models.hugging_face.network import HuggingFaceNetwork
from models.normalization import renormalize
from pipelines.network.build import NetworkError, build_network, check_network
from pipelines.network.config import NetworkConfig
from pipelines.network.cost import multiply_adds, network_on_meta
from pipelines.network.init_weights import load_backbone_weights

pytestmark = pytest.mark.slow  # models of `transformers` take seconds to import and build

CONVNEXT = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
BACKBONES: dict[str, dict[str, Any]] = {
    "convnext": CONVNEXT,
    "swin": {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4},
    "resnet": {"embedding_size": 8, **CONVNEXT, "layer_type": "basic"},
    "dinov2": {**VIT, "patch_size": 14},
}
SEGFORMER = {
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1] * 4,
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 8,
}
UPERNET = {
    "backbone_config": {
        "model_type": "convnext",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    | CONVNEXT,
    "hidden_size": 8,
    "auxiliary_in_channels": 16,
    "auxiliary_channels": 8,
    "pool_scales": [1, 2],
}
NETWORKS = {"segformer": SEGFORMER, "upernet": UPERNET}
LAYERS = {
    **{"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64},
    "patch_size": 16,
}
AUXILIARY = {
    "upernet": UPERNET,
    "beit": {**LAYERS, "out_indices": [0, 1, 2, 3]},
    "data2vec-vision": {**LAYERS, "out_indices": [0, 1, 2, 3]},
    "dpt": {
        **LAYERS,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8] * 4,
        "fusion_hidden_size": 8,
    },
}
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def fenet(name: str, arguments: dict[str, Any], seed: int = 0) -> FENet:
    config = FENetConfig(name, backbone_arguments=arguments, channels=8, supervision=(2,))
    return FENet(config, classes=4, seed=seed)


def network(name: str, arguments: dict[str, Any], classes: int = 4, seed: int = 0) -> Any:
    return build_network(NetworkConfig(name, arguments), classes, seed)


def saved(folder: Path, model: Any, **preprocessor: Any) -> str:
    model.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return f"hf:{folder}"


def equal(one: Any, other: Any) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_declares_what_it_returns(name: str) -> None:
    backbone = fenet(f"hf:{name}", BACKBONES[name]).backbone.eval()
    strides = (3.5, 7, 14, 28) if name == "dinov2" else (4, 8, 16, 32)
    assert backbone.strides == strides
    with torch.no_grad():
        for images in (IMAGES, IMAGES[..., :50, :70]):
            levels = backbone(images)
            sizes = [[-(-size // stride) for size in images.shape[2:]] for stride in strides]
            assert [list(level.shape[2:]) for level in levels] == sizes
            assert tuple(level.shape[1] for level in levels) == backbone.channels


@pytest.mark.parametrize("name", ["convnext", "swin", "dinov2"])
def test_type_alone_is_a_backbone(name: str) -> None:
    """The library's own defaults hold tuples, which some of its models do not take."""
    traits = backbone_traits(f"hf:{name}", {})
    assert traits.channels[-1] == 768
    assert len(traits.strides) == 4


def test_model_for_images_of_one_size() -> None:
    arguments = {"image_size": [64, 48], "depths": [1] * 3, "embed_dim": 8, "num_query_pool": 2}
    config = FENetConfig("hf:hiera", backbone_arguments=arguments, channels=8)
    check_network(config, 4, (64, 48))
    with pytest.raises(NetworkError, match=r"FENet with backbone hf:hiera: failed on images of"):
        check_network(config, 4, (96, 96))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    """Otherwise data-parallel training waits for it."""
    model = fenet(f"hf:{name}", BACKBONES[name]).train()
    logits, auxiliary = model(IMAGES)
    (logits.sum() + auxiliary["stage2"].sum()).backward()
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {name for name, each in model.named_parameters() if each.grad is not None}
    frozen = {name.rpartition("model.")[2] for name, _ in model.named_parameters()} - {
        name.rpartition("model.")[2] for name in trained
    }
    expected = {"swin": {"swin.layernorm.weight", "swin.layernorm.bias"}}
    expected["dinov2"] = {"embeddings.mask_token"}
    assert frozen == expected.get(name, set())


def test_initial_values_depend_on_the_seed_only() -> None:
    state = torch.random.get_rng_state()
    first = fenet("hf:dinov2", BACKBONES["dinov2"], seed=3)
    torch.manual_seed(99)
    assert equal(first, fenet("hf:dinov2", BACKBONES["dinov2"], seed=3))
    other = fenet("hf:dinov2", BACKBONES["dinov2"], seed=4)
    for part in ("backbone.model.encoder", "backbone.pyramid", "neck"):
        assert not equal(first.get_submodule(part), other.get_submodule(part))
    torch.random.set_rng_state(state)


def test_levels_are_those_of_autobackbone_on_images_of_its_own_normalization(tmp_path) -> None:
    """A folder gives configuration, normalization and weights."""
    config = transformers.ConvNextConfig(**CONVNEXT, num_labels=7)
    original = transformers.ConvNextForImageClassification(config).eval()
    name = saved(tmp_path, original, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    model = fenet(name, {}).eval()
    report = load_backbone_weights(model, str(tmp_path))
    config.out_features = ["stage1", "stage2", "stage3", "stage4"]
    reference = transformers.ConvNextBackbone.from_pretrained(tmp_path, config=config).eval()
    pixels = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        levels = model.features(renormalize_to_imagenet(pixels))["backbone"]
        expected = reference((pixels - 0.5) / 0.25).feature_maps
    for level, other in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-5)
    assert "classifier.weight" in report.unused
    assert all("hidden_states_norms" in key for key in report.missing)
    assert report.layout == "transformers"


def renormalize_to_imagenet(pixels: Tensor) -> Tensor:
    mean, std = normalization({})
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("name", NETWORKS)
def test_network_returns_logits_of_the_library(name: str) -> None:
    model = network(f"hf:{name}", NETWORKS[name]).eval()
    check_network(NetworkConfig(f"hf:{name}", NETWORKS[name]), 4, (64, 96))
    reference = copy.deepcopy(model.model)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), reference(pixel_values=IMAGES).logits)
    output = model.train()(IMAGES)
    if name == "segformer":
        assert output.shape == (2, 4, 16, 24)
        output.sum().backward()
    else:
        logits, auxiliary = output
        # The library uses the auxiliary logits in its own loss only.
        labels = torch.zeros(2, 64, 96, dtype=torch.int64)
        torch.manual_seed(0)
        loss = reference.train()(pixel_values=IMAGES, labels=labels).loss
        entropies = [
            cross_entropy(interpolate(each, (64, 96), mode="bilinear"), labels)
            for each in (logits, auxiliary["auxiliary"])
        ]
        torch.testing.assert_close(entropies[0] + 0.4 * entropies[1], loss)
        sum(entropies).backward()
        copy.deepcopy(model)  # as an average of the weights does
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)
    assert equal(
        network(f"hf:{name}", NETWORKS[name], seed=5), network(f"hf:{name}", NETWORKS[name], seed=5)
    )
    assert not equal(
        network(f"hf:{name}", NETWORKS[name], seed=5), network(f"hf:{name}", NETWORKS[name], seed=6)
    )


@pytest.mark.parametrize("name", AUXILIARY)
def test_auxiliary_head_costs_nothing_in_evaluation(name: str) -> None:
    """The reference is the library's model without the head."""
    config = NetworkConfig(f"hf:{name}", AUXILIARY[name])
    bare = replace(config, arguments={**AUXILIARY[name], "use_auxiliary_head": False})
    model, without = (build_network(each, 4, seed=0) for each in (config, bare))
    without.load_state_dict(model.state_dict(), strict=False)
    own = sum(each.numel() for each in without.parameters())
    assert count_parameters(model) == own
    assert count_parameters(model, auxiliary=True) > own
    counted = [
        multiply_adds(network_on_meta(each, 4), each, 4, (64, 64)) for each in (config, bare)
    ]
    assert counted[0] == counted[1]

    computed = []
    for part in list(model.model.auxiliary_head.modules())[1:]:
        part.register_forward_hook(lambda *_: computed.append(1))
    copied = copy.deepcopy(model)  # as an average of the weights does
    images = IMAGES[..., :64, :64]
    with torch.no_grad():
        expected = without.eval()(images)
        assert torch.equal(model.eval()(images), expected)
        assert torch.equal(copied.eval()(images), expected)
    assert not computed
    _, auxiliary = model.train()(images)
    assert auxiliary["auxiliary"].shape[:2] == (2, 4)
    assert computed


def test_network_of_another_number_of_classes_keeps_its_initial_classifier(tmp_path) -> None:
    config = transformers.SegformerConfig(**SEGFORMER, num_labels=9)
    original = transformers.SegformerForSemanticSegmentation(config)
    name = saved(tmp_path, original)
    model = network(name, {}, classes=4)
    initial = copy.deepcopy(model.model.decode_head.classifier)
    report = load_backbone_weights(model, str(tmp_path))
    assert set(report.missing) == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    assert equal(model.model.decode_head.classifier, initial)
    assert equal(model.model.segformer, original.segformer)
    same = network(name, {}, classes=9)
    assert not load_backbone_weights(same, str(tmp_path)).missing
    assert equal(same.model, original)


def test_weights_of_another_model_are_refused(tmp_path) -> None:
    saved(tmp_path, transformers.ConvNextModel(transformers.ConvNextConfig(**CONVNEXT)))
    for arguments, problem in (
        ({**CONVNEXT, "hidden_sizes": [8, 12, 16, 32]}, r"does not fit hf:convnext: .*24"),
    ):
        model = fenet("hf:convnext", arguments)
        before = copy.deepcopy(model)
        with pytest.raises(ValueError, match=problem):
            load_backbone_weights(model, str(tmp_path))
        assert equal(model, before)
    with pytest.raises(ValueError, match="nothing in the checkpoint fits hf:segformer"):
        load_backbone_weights(network("hf:segformer", SEGFORMER), str(tmp_path))
    assert issubclass(PretrainedError, ValueError)


def test_costs_are_counted_without_weights() -> None:
    """The reference is the library's model counted by torch on real tensors."""
    from torch.utils.flop_counter import FlopCounterMode

    config = FENetConfig("hf:dinov2", backbone_arguments=BACKBONES["dinov2"], channels=8)
    model = FENet(config, 4).eval()
    model.backbone.model.set_attn_implementation("eager")  # torch does not count its fused kernel
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IMAGES[:1])
    assert count_multiply_adds(config, 4, 64, 96) == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("preprocessor", "mean", "std"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 0.5, 0.5),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_normalize": False, "do_rescale": False}, 0.0, 1 / 255),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
    ],
)
def test_normalization_is_that_of_the_preprocessor(tmp_path, preprocessor, mean, std) -> None:
    name = saved(tmp_path, transformers.ConvNextModel(transformers.ConvNextConfig(**CONVNEXT)))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    means, deviations = normalization(read_saved(name, {}).arguments)
    assert means == pytest.approx((mean,) * 3)
    assert deviations == pytest.approx((std,) * 3)
    pixels = torch.rand(1, 3, 4, 4)
    normalized = renormalize(renormalize_to_imagenet(pixels), means, deviations)
    torch.testing.assert_close(normalized, (pixels - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("hf:convnex", {}, "no backbone of type 'convnex'; did you mean hf:convnext?"),
        ("hf:segformer", {}, "no backbone of type 'segformer'"),
        ("hf:convnext", {"depth": [1]}, "unknown argument `depth`; did you mean depths?"),
        ("hf:convnext", {"depths": "many"}, "depths"),
        ("hf:convnext", {"num_labels": 3}, "unknown argument `num_labels`"),
        ("hf:convnext", {"image_std": [0, 1, 1]}, "image_std is"),
        ("hf:./nowhere", {}, "hf:./nowhere: no such folder"),
        ("resnet18", {"depths": [1]}, "only a backbone named hf:... or timm:... does"),
    ],
)
def test_errors_name_what_would_work(name: str, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("?", r"\?").replace("...", r"\.\.\.")):
        FENetConfig(name, backbone_arguments=arguments)
    if name != "resnet18":
        with pytest.raises(NetworkError):
            build_network(NetworkConfig("hf:convnext", arguments), 4, seed=0)


def test_missing_library_is_one_sentence_with_the_command(monkeypatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(configuration, "import_module", missing)
    with pytest.raises(ValueError, match="run: pip install transformers"):
        FENetConfig("hf:convnext", backbone_arguments={"depths": [9, 9, 9, 9]})


def test_network_registry_names_the_class() -> None:
    assert type(network("hf:segformer", SEGFORMER)) is HuggingFaceNetwork

"""Networks and published weights for images of other than three channels."""

import math

import pytest
import torch
import transformers

from models import FENet, FENetConfig, count_multiply_adds, load_pretrained
from models.backbones import build_backbone
from models.hugging_face.network import HuggingFaceNetwork
from models.hugging_face.weights import load_saved
from models.pretrained import adapt_filters

SMALL = {
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4},
    "swin": {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2},
}


@pytest.mark.parametrize("name", ["resnet18", "dfnet1-half", "efficientnet-lite0", "hf:convnext"])
@pytest.mark.parametrize("channels", [1, 4])
def test_backbones_take_any_number_of_channels(name: str, channels: int) -> None:
    arguments = SMALL["convnext"] if name.startswith("hf:") else {}
    config = FENetConfig(name, backbone_arguments=arguments, channels=8, flows=())
    network = FENet(config, 3, seed=1, in_channels=channels).eval()
    with torch.no_grad():
        assert network(torch.randn(1, channels, 64, 64)).shape == (1, 3, 64, 64)
    # The other parts start from the same values as with three channels.
    rgb, other = FENet(config, 3, seed=1).state_dict(), network.state_dict()
    changed = [name for name in rgb if rgb[name].shape != other[name].shape]
    assert len(changed) == 1
    equal = [torch.equal(rgb[name], other[name]) for name in rgb if name not in changed]
    assert all(equal) or name.startswith("hf:")  # the library draws in its own order


def test_multiply_adds_of_more_channels() -> None:
    config = FENetConfig("resnet18", channels=8)
    rgb, seven = (count_multiply_adds(config, 3, 64, 96, channels) for channels in (3, 7))
    assert seven - rgb == 4 * 64 * 3 * 3 * 32 * 48


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_filters_of_rgb_images_are_adapted(channels: int) -> None:
    published = build_backbone("dfnet1-half", None, dilation=False).state_dict()
    backbone = build_backbone("dfnet1-half", None, dilation=False, in_channels=channels)
    report = load_pretrained(backbone, published)
    assert not report.missing
    stem, loaded = published["stem.0.conv.weight"], backbone.state_dict()["stem.0.conv.weight"]
    for channel in range(channels):
        expected = stem[:, channel % 3] * 3 / channels if channels > 1 else stem.sum(dim=1)
        torch.testing.assert_close(loaded[:, channel], expected)
    assert f"stem.0.conv.weight: RGB filters adapted to {channels} channel" in report.note
    # Equal channels give what the same gray image gives as RGB.
    if channels in (1, 6):
        gray = torch.randn(2, 1, 32, 32)
        rgb = build_backbone("dfnet1-half", None, dilation=False)
        load_pretrained(rgb, published)
        with torch.no_grad():
            levels = backbone.eval()(gray.expand(-1, channels, -1, -1))
            for level, other in zip(levels, rgb.eval()(gray.expand(-1, 3, -1, -1)), strict=True):
                torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_saved_model_is_adapted() -> None:
    arguments = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_channels": 3}
    config = transformers.SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4)
    original = transformers.SegformerForSemanticSegmentation(config)
    network = HuggingFaceNetwork("hf:segformer", 2, {"hidden_sizes": [8] * 4, "depths": [1] * 4}, 4)
    report = load_saved(network.model, original.state_dict(), 2)
    name = next(name for name, value in original.state_dict().items() if value.shape[1:2] == (3,))
    loaded = network.model.state_dict()[name]
    torch.testing.assert_close(loaded, adapt_filters(original.state_dict()[name], 4))
    assert f"{name}: RGB filters adapted to 4 channels" in report.note
    assert math.prod(network(torch.randn(1, 4, 64, 64)).shape) == 2 * 16 * 16
    with pytest.raises(ValueError, match="num_channels is 5, but the images have 4 channels"):
        build_backbone("hf:convnext", None, False, {**arguments, "num_channels": 5}, 4)
    assert build_backbone("hf:convnext", None, False, arguments, 4).in_channels == 4

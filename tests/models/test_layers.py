"""Batch norm on one value per channel, and pyramid pooling."""

import pytest
import torch
from torch import nn

from models.layers import BatchNorm2d
from models.pyramid import PyramidPooling


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (1, 4, 3, 1), (3, 4, 5, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_matches_torch_where_torch_supports_the_shape(
    shape: tuple[int, ...], training: bool
) -> None:
    norm, reference = BatchNorm2d(4).train(training), nn.BatchNorm2d(4).train(training)
    features = torch.randn(shape)
    assert torch.equal(norm(features), reference(features))
    for name, value in reference.state_dict().items():
        assert torch.equal(norm.state_dict()[name], value)


def test_one_value_per_channel_uses_the_running_statistics() -> None:
    norm = BatchNorm2d(4)
    norm(5 + 2 * torch.randn(64, 4, 3, 3))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    features = torch.randn(1, 4, 1, 1)
    trained = norm(features)
    trained.sum().backward()
    assert torch.equal(trained, norm.eval()(features))
    for name, value in before.items():
        assert torch.equal(norm.state_dict()[name], value)
    assert norm.weight.grad is not None
    assert norm.weight.grad.any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5)])
def test_pyramid_pooling_trains_on_one_image(size: tuple[int, int]) -> None:
    pyramid = PyramidPooling(4, 3).train()
    out = pyramid(torch.randn(1, 4, *size))
    out.sum().backward()
    assert out.shape == (1, 3, *size)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pyramid.parameters())


def test_coarsest_bin_is_the_image_mean() -> None:
    pyramid = PyramidPooling(4, 3).eval()
    features = torch.rand(1, 4, 6, 6)
    mean = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
    concatenated = []
    pyramid.output.register_forward_pre_hook(lambda _, inputs: concatenated.append(inputs[0]))
    with torch.no_grad():
        pyramid(features)
        expected = pyramid.projections[0](mean)
    torch.testing.assert_close(concatenated[0][:, :4], features)
    torch.testing.assert_close(concatenated[0][:, 4:7], expected)

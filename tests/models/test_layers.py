"""Batch norm on one value, and pyramid pooling built on it."""

import pytest
import torch
from torch import nn

from models.layers import BatchNorm2d, resize
from models.pyramid import PyramidPooling


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (1, 4, 3, 1), (3, 4, 5, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs_wherever_torch_has_one(
    shape: tuple[int, ...], training: bool
) -> None:
    ours, theirs = BatchNorm2d(4).train(training), nn.BatchNorm2d(4).train(training)
    features = torch.randn(shape)
    assert torch.equal(ours(features), theirs(features))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


def test_one_value_a_channel_is_normalised_by_the_running_statistics() -> None:
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


def test_a_synchronised_norm_can_take_its_place() -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(PyramidPooling(4, 2))
    assert not any(isinstance(module, BatchNorm2d) for module in converted.modules())


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5)])
def test_pyramid_pooling_trains_on_one_image(size: tuple[int, int]) -> None:
    pyramid = PyramidPooling(4, 3).train()
    out = pyramid(torch.randn(1, 4, *size))
    out.sum().backward()
    assert out.shape == (1, 3, *size)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pyramid.parameters())


def test_the_coarsest_bin_is_the_mean_of_the_image() -> None:
    pyramid = PyramidPooling(4, 3).eval()
    features = torch.rand(1, 4, 6, 6)
    mean = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
    seen = []
    pyramid.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        pyramid(features)
        expected = pyramid.projections[0](mean)
    torch.testing.assert_close(seen[0][:, :4], features)
    torch.testing.assert_close(seen[0][:, 4:7], expected)


def test_resize_leaves_the_right_size_alone() -> None:
    features = torch.randn(1, 2, 3, 4)
    assert resize(features, torch.empty(1, 9, 3, 4)) is features

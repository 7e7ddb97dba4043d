"""Dropout by sample: its statistics, and what it must not depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import ChannelDropout, set_sample_keys


def dropped(keys: Tensor, channels: int, rate: float, layer: str = "head") -> Tensor:
    """Which channels of which samples are zero: bool `(N, channels)`."""
    dropout = ChannelDropout(rate, layer).train()
    set_sample_keys(dropout, keys)
    out = dropout(torch.ones(len(keys), channels, 2, 3))
    assert torch.equal(out.amin(dim=(2, 3)), out.amax(dim=(2, 3)))
    assert set(out.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - rate)).item()}
    return out[:, :, 0, 0] == 0


@settings(deadline=None)
@given(
    keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6),
    channels=st.integers(1, 40),
    cut=st.integers(0, 6),
)
def test_a_sample_meets_the_same_choice_in_any_batch(
    keys: list[int], channels: int, cut: int
) -> None:
    keys_tensor = torch.tensor(keys)
    whole = dropped(keys_tensor, channels, 0.5)
    parts = [dropped(part, channels, 0.5) for part in (keys_tensor[:cut], keys_tensor[cut:])]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole.flip(0), dropped(keys_tensor.flip(0), channels, 0.5))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("spacing", [1, 2**20, 2**40])
def test_channels_are_dropped_at_the_rate_and_independently(rate: float, spacing: int) -> None:
    samples, channels = 4096, 64
    out = dropped(torch.arange(samples) * spacing, channels, rate).double()
    deviation = (rate * (1 - rate)) ** 0.5
    assert out.mean().item() == pytest.approx(rate, abs=5 * deviation / (samples * channels) ** 0.5)
    if rate:
        # Neither channels nor samples know of one another: correlations are as small as by chance.
        for rows in (out.T, out[:64]):
            correlation = torch.corrcoef(rows).fill_diagonal_(0)
            assert correlation.abs().max() < 6 / rows.shape[1] ** 0.5


def test_layers_differ() -> None:
    keys = torch.arange(256)
    agree = dropped(keys, 64, 0.5, "head") == dropped(keys, 64, 0.5, "stage4")
    assert agree.double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_without_keys_it_draws_as_torch_does() -> None:
    dropout = ChannelDropout(0.5, "head").train()
    features = torch.randn(4, 16, 3, 3)
    set_sample_keys(dropout, torch.arange(4))
    set_sample_keys(dropout, None)
    torch.manual_seed(0)
    found = dropout(features)
    torch.manual_seed(0)
    assert torch.equal(found, nn.Dropout2d(0.5)(features))


def test_nothing_is_dropped_in_evaluation() -> None:
    dropout = ChannelDropout(0.5, "head").eval()
    features = torch.randn(4, 16, 3, 3)
    assert dropout(features) is features


def test_keys_of_another_batch_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ChannelDropout(0.5, "head")).train()
    set_sample_keys(model, torch.arange(3))
    with pytest.raises(ValueError, match=r"2 samples but sample keys of shape \(3,\)"):
        model(torch.randn(2, 3, 4, 4))


def test_the_gradient_is_that_of_the_kept_channels() -> None:
    dropout = ChannelDropout(0.5, "head").train()
    set_sample_keys(dropout, torch.tensor([11, 12]))
    features = torch.randn(2, 8, 2, 2, requires_grad=True)
    out = dropout(features)
    (gradient,) = torch.autograd.grad(out.sum(), features)
    assert torch.equal(gradient, torch.where(out == 0, 0.0, 2.0))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="dropout is"):
        ChannelDropout(rate, "head")

"""Keyed channel dropout: statistics, and independence from the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import ChannelDropout, set_sample_keys


def dropped_channels(keys: Tensor, channels: int, rate: float, layer: str = "head") -> Tensor:
    """Return which channels of each sample are dropped, bool `(N, channels)`."""
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
    split_index=st.integers(0, 6),
)
def test_dropped_channels_do_not_depend_on_the_batch(
    keys: list[int], channels: int, split_index: int
) -> None:
    keys_tensor = torch.tensor(keys)
    whole = dropped_channels(keys_tensor, channels, 0.5)
    parts = [
        dropped_channels(part, channels, 0.5)
        for part in (keys_tensor[:split_index], keys_tensor[split_index:])
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole.flip(0), dropped_channels(keys_tensor.flip(0), channels, 0.5))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("spacing", [1, 2**20, 2**40])
def test_channels_are_dropped_independently_at_the_rate(rate: float, spacing: int) -> None:
    samples, channels = 4096, 64
    out = dropped_channels(torch.arange(samples) * spacing, channels, rate).double()
    deviation = (rate * (1 - rate)) ** 0.5
    assert out.mean().item() == pytest.approx(rate, abs=5 * deviation / (samples * channels) ** 0.5)
    if rate:
        # Channels and samples are independent: correlations are within chance level.
        for rows in (out.T, out[:64]):
            correlation = torch.corrcoef(rows).fill_diagonal_(0)
            assert correlation.abs().max() < 6 / rows.shape[1] ** 0.5


def test_layers_drop_different_channels() -> None:
    keys = torch.arange(256)
    is_equal = dropped_channels(keys, 64, 0.5, "head") == dropped_channels(keys, 64, 0.5, "stage4")
    assert is_equal.double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_dropout_without_keys_matches_torch() -> None:
    dropout = ChannelDropout(0.5, "head").train()
    features = torch.randn(4, 16, 3, 3)
    set_sample_keys(dropout, torch.arange(4))
    set_sample_keys(dropout, None)
    torch.manual_seed(0)
    actual = dropout(features)
    torch.manual_seed(0)
    assert torch.equal(actual, nn.Dropout2d(0.5)(features))


def test_evaluation_drops_no_channels() -> None:
    dropout = ChannelDropout(0.5, "head").eval()
    features = torch.randn(4, 16, 3, 3)
    assert dropout(features) is features


def test_keys_of_another_batch_size_are_rejected() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ChannelDropout(0.5, "head")).train()
    set_sample_keys(model, torch.arange(3))
    with pytest.raises(ValueError, match=r"2 samples but sample keys of shape \(3,\)"):
        model(torch.randn(2, 3, 4, 4))


def test_gradient_flows_through_kept_channels_only() -> None:
    dropout = ChannelDropout(0.5, "head").train()
    set_sample_keys(dropout, torch.tensor([11, 12]))
    features = torch.randn(2, 8, 2, 2, requires_grad=True)
    out = dropout(features)
    (gradient,) = torch.autograd.grad(out.sum(), features)
    assert torch.equal(gradient, torch.where(out == 0, 0.0, 2.0))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_invalid_rates_are_rejected(rate: float) -> None:
    with pytest.raises(ValueError, match="dropout is"):
        ChannelDropout(rate, "head")

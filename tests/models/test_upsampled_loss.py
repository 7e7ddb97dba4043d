"""Cross-entropy in strips against upsampling everything in float64, and its memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import LossConfig, SegmentationLoss, upsampled_loss
from models.losses import mined_cross_entropy
from models.upsampled_loss import upsampled_cross_entropy
from tests.support.live_memory import PeakMemory


def plain_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsample everything, then compute the cross-entropy of every pixel."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels, ignore_index=255, reduction="none")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and a gradient of every pixel that is 0 for most, as mining makes it."""
    batch, classes = draw(st.integers(1, 3)), draw(st.integers(1, 160))
    size, upsampled = (
        (draw(st.integers(1, limit)), draw(st.integers(1, limit))) for limit in (9, 40)
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.5, 8.0]))
    logits = scale * torch.randn(batch, classes, *size, generator=generator)
    labels = torch.randint(0, classes, (batch, *upsampled), generator=generator)
    ignored = draw(st.sampled_from([0.0, 0.3, 1.0]))
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    weights = torch.randn(labels.shape, generator=generator)
    weights *= torch.rand(labels.shape, generator=generator) < draw(st.sampled_from([0.05, 1.0]))
    if draw(st.booleans()):
        logits = logits.contiguous(memory_format=torch.channels_last)
    return logits, labels, weights


@pytest.mark.slow
@settings(max_examples=100)
@given(cases(), st.sampled_from([1, 2000, 2**19]))
def test_losses_and_gradient_equal_full_upsampling(
    case: tuple[Tensor, Tensor, Tensor], strip_values: int
) -> None:
    logits, labels, weights = case
    reference = logits.double().requires_grad_()
    expected = plain_losses(reference, labels)
    (expected_gradient,) = torch.autograd.grad(expected, reference, weights.double())
    logits.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampled_loss, "_STRIP_VALUES", {"cpu": strip_values})
        losses = upsampled_cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(losses, logits, weights)
    assert losses.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=2e-5)
    # Weights of random sign cancel, so the error is relative to the sum without signs.
    scale = float(weights.abs().sum()) / logits[0, 0].numel() + 1e-6
    assert float((gradient.double() - expected_gradient).abs().max()) <= 1e-5 * scale + 1e-6


def test_bfloat16_logits_are_upsampled_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 19, 6, 8, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(0, 19, (2, 24, 32), generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = upsampled_cross_entropy(logits, labels)
        losses.sum().backward()
    reference = logits.detach().double().requires_grad_()
    expected = plain_losses(reference, labels)
    expected.sum().backward()
    assert reference.grad is not None
    assert logits.grad is not None
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.grad, reference.grad.bfloat16(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(threshold=0.3, share=0.2)])
def test_mined_pixels_are_those_of_full_upsampling(config: LossConfig) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(3, 7, 8, 8, generator=generator)
    labels = torch.randint(0, 7, (3, 32, 32), generator=generator)
    labels[:, :5] = 255
    upsampled = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
    for actual, expected in zip(
        mined_cross_entropy(logits, labels, config.threshold, config.share),
        mined_cross_entropy(upsampled, labels, config.threshold, config.share),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_memory_of_the_loss_at_150_classes() -> None:
    """Forward and backward pass for a batch of 8 images of 1024 x 1024 with two auxiliary heads.

    Runs on the meta device, where tensors have sizes but no memory.
    """
    labels = torch.zeros(8, 1024, 1024, dtype=torch.int64, device="meta")
    sizes = {"main": 256, "stage3": 128, "stage4": 128}
    logits = {
        name: torch.zeros(
            8, 150, size, size, device="meta", dtype=torch.bfloat16, requires_grad=True
        )
        for name, size in sizes.items()
    }
    with PeakMemory() as memory:
        criterion = SegmentationLoss()
        main, *auxiliary = logits.values()
        terms = criterion((main, auxiliary), labels)
        criterion.total(terms.statistics, terms.sizes)[0].backward()
    gib = memory.peak / 2**30
    with PeakMemory() as plain:
        sum(plain_losses(each.float(), labels).sum() for each in logits.values()).backward()
    assert gib < 2
    assert plain.peak / 2**30 > 20

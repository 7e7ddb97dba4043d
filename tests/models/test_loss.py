"""Mining and the total loss, against plain loops in float64."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import LossConfig, SegmentationLoss, split_output


def mine_with_loops(logits: Tensor, labels: Tensor, config: LossConfig) -> tuple[float, int]:
    """Return the loss sum and count of pixels below the threshold or among the k hardest."""
    total, count = 0.0, 0
    for image in range(logits.shape[0]):
        probabilities = []
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                label = int(labels[image, y, x])
                if label != 255:
                    scores = [math.exp(v) for v in logits[image, :, y, x].double().tolist()]
                    probabilities.append(scores[label] / sum(scores))
        probabilities.sort()
        k = max(1, round(config.share * labels[image].numel()))
        k = min(k, len(probabilities))
        for rank, probability in enumerate(probabilities):
            # In float32, a probability close to 1 rounds to 1.
            rounded = float(torch.tensor(probability, dtype=torch.float32))
            if rounded < config.threshold or rank < k:
                total -= math.log(probability)
                count += 1
    return total, count


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, LossConfig]:
    batch, classes = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # A large scale gives confident pixels, where the k hardest matter more than the threshold.
    scale = draw(st.sampled_from([0.5, 3.0, 8.0]))
    logits = scale * torch.randn(batch, classes, height, width, generator=generator)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator)
    ignored = draw(st.sampled_from([0.0, 0.3, 0.95, 1.0]))
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    config = LossConfig(
        threshold=draw(st.sampled_from([0.0, 0.2, 0.7, 1.0])),
        share=draw(st.sampled_from([0.05, 0.3, 1.0])),
    )
    return logits, labels, config


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_mining_matches_plain_loops(
    case: tuple[Tensor, Tensor, LossConfig], dtype: torch.dtype
) -> None:
    logits, labels, config = case
    logits = logits.to(dtype)
    # Whether a probability that rounds to the threshold is below it depends on the rounding.
    assume(config.threshold < 1 or logits.double().softmax(1).max() < 1 - 1e-5)
    terms = SegmentationLoss(config)(logits, labels)
    total, count = mine_with_loops(logits, labels, config)
    assert terms.names == ("main",)
    assert terms.statistics.dtype == torch.float32
    kept_sum, kept = terms.statistics.tolist()
    assert kept_sum == pytest.approx(total, rel=1e-5, abs=1e-5)
    # Exact ties (one class) may all be kept.
    assert kept >= count if logits.shape[1] == 1 else kept == count


def test_gradient_comes_from_kept_pixels_only() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 4, 5, 5, generator=generator)).double().requires_grad_()
    labels = torch.randint(0, 4, (2, 5, 5), generator=generator)
    labels[0, 0] = 255
    config = LossConfig(threshold=0.4, share=0.2)
    terms = SegmentationLoss(config)(logits, labels)
    (gradient,) = torch.autograd.grad(terms.statistics[0], logits)

    probabilities = logits.detach().softmax(dim=1)
    expected = torch.zeros_like(probabilities)
    for image in range(2):
        valid = labels[image] != 255
        label_probabilities = probabilities[image].gather(0, labels[image].clamp(max=3)[None])[0]
        kth = label_probabilities[valid].sort().values[4]
        kept = valid & ((label_probabilities < 0.4) | (label_probabilities <= kth))
        for y, x in kept.nonzero().tolist():
            expected[image, :, y, x] = probabilities[image, :, y, x]
            expected[image, labels[image, y, x], y, x] -= 1
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_images_are_mined_independently() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(4, 3, 6, 6, generator=generator)
    labels = logits.argmax(dim=1)
    criterion = SegmentationLoss(LossConfig(threshold=0.5, share=0.25))
    whole = criterion(logits, labels)
    halves = [criterion(logits[half], labels[half]) for half in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole.statistics, halves[0].statistics + halves[1].statistics)


def test_total_is_the_weighted_sum_of_cross_entropies() -> None:
    """Equation (5) of the paper."""
    logits = torch.randn(2, 3, 8, 8)
    auxiliary = {"stage3": torch.randn(2, 3, 4, 4), "stage4": torch.randn(2, 3, 2, 2)}
    labels = torch.randint(0, 3, (2, 8, 8))
    criterion = SegmentationLoss(LossConfig(threshold=1, share=1, auxiliary_weight=0.4))
    terms = criterion((logits, auxiliary), labels)
    total, means = criterion.total(terms.statistics, terms.sizes)
    expected = [
        torch.nn.functional.cross_entropy(
            torch.nn.functional.interpolate(term, (8, 8), mode="bilinear"), labels
        )
        for term in (logits, *auxiliary.values())
    ]
    assert terms.names == ("main", "stage3", "stage4")
    torch.testing.assert_close(means, torch.stack(expected))
    torch.testing.assert_close(total, expected[0] + 0.4 * (expected[1] + expected[2]))


def test_term_without_pixels_has_zero_loss_and_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    criterion = SegmentationLoss()
    terms = criterion(logits, torch.full((1, 4, 4), 255))
    total, means = criterion.total(terms.statistics, terms.sizes)
    (gradient,) = torch.autograd.grad(total, logits)
    assert (total.item(), means.tolist(), terms.statistics.tolist()) == (0, [0], [0, 0])
    assert not gradient.any()


def test_ties_with_the_kth_hardest_pixel_are_kept() -> None:
    logits = torch.zeros(1, 2, 1, 8)
    logits[0, 0, 0] = torch.tensor([3.0, 9.0, 4.0, 4.0, 9.0, 9.0, 4.0, 9.0])
    labels = torch.zeros(1, 1, 8, dtype=torch.int64)
    criterion = SegmentationLoss(LossConfig(share=0.25))
    terms = criterion(logits, labels)
    expected = math.log1p(math.exp(-3)) + 3 * math.log1p(math.exp(-4))
    assert terms.statistics.tolist() == pytest.approx([expected, 4], rel=1e-5)
    assert criterion(logits.flip(3), labels).statistics[1] == 4


@pytest.mark.parametrize(
    ("auxiliary", "names"),
    [
        ({"stage4": torch.ones(1)}, ["stage4"]),
        ((torch.ones(1), torch.ones(1)), ["auxiliary1", "auxiliary2"]),
        ([], []),
    ],
)
def test_split_output_accepts_every_supported_form(auxiliary: Any, names: list[str]) -> None:
    logits = torch.zeros(1)
    main, auxiliary_by_name = split_output((logits, auxiliary))
    assert main is logits
    assert list(auxiliary_by_name) == names


@pytest.mark.parametrize("output", [None, {"out": torch.ones(1)}, (torch.ones(1),) * 3, "logits"])
def test_unsupported_output_is_rejected(output: Any) -> None:
    with pytest.raises(TypeError, match="it must return logits"):
        split_output(output)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"share": -0.1}, "share is -0.1"),
        ({"threshold": 0, "share": 0}, "no pixel would contribute"),
        ({"auxiliary_weight": -1}, "auxiliary_weight is -1"),
        ({"auxiliary_weight": math.nan}, "auxiliary_weight is nan"),
        ({"terms": ()}, "terms is empty; name at least one loss"),
        ({"terms": ("ohem",)}, "terms is 'ohem'; known: boundary, cross-entropy, dice, focal"),
        ({"terms": ("dice",), "share": 0.1}, "share is 0.1, but it belongs to mined-cross-entropy"),
    ],
)
def test_invalid_settings_are_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**fields)

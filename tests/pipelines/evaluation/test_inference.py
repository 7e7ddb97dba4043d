"""Whole-image, windowed, multi-scale and flipped inference against plain loops in float64."""

import math
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.data.normalization import normalize
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.inference import (
    InputSizeError,
    predict,
    predict_probabilities,
    scaled_size,
    window_starts,
)
from pipelines.network.precision import Numerics

CLASSES = 5


class NeighborhoodNetwork(nn.Module):
    """Two convolutions, so that a prediction depends on neighbors, windows and scales."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.register_buffer("first", torch.randn(6, 3, 3, 3, generator=generator))
        self.register_buffer("second", torch.randn(CLASSES, 6, 3, 3, generator=generator) / 8)
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.conv2d(images, self.first, stride=self.stride, padding=1).relu()
        return nn.functional.conv2d(features, self.second, padding=1)


def bilinear(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `(channels, height, width)` to `size`, each pixel from its four neighbors."""
    channels, height, width = pixels.shape
    result = torch.zeros(channels, *size, dtype=torch.double)
    for row in range(size[0]):
        y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
        top, below = math.floor(y), min(math.floor(y) + 1, height - 1)
        for column in range(size[1]):
            x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
            left, right = math.floor(x), min(math.floor(x) + 1, width - 1)
            result[:, row, column] = (
                pixels[:, top, left] * (1 - (y - top)) * (1 - (x - left))
                + pixels[:, top, right] * (1 - (y - top)) * (x - left)
                + pixels[:, below, left] * (y - top) * (1 - (x - left))
                + pixels[:, below, right] * (y - top) * (x - left)
            )
    return result


def naive_starts(size: int, window: int, step: int) -> list[int]:
    starts = [0]
    while starts[-1] + window < size:
        starts.append(min(starts[-1] + step, size - window))
    return starts


def naive_scores(
    model: nn.Module, image: Tensor, size: tuple[int, int], config: InferenceConfig
) -> Tensor:
    """Return the mean probability over all views of one image, float64 `(classes, *size)`."""
    views = []
    for scale in config.scales:
        for mirrored in (False, True) if config.flip else (False,):
            view = bilinear(
                image.flip(-1) if mirrored else image,
                (round(scale * image.shape[1]), round(scale * image.shape[2])),
            )
            height, width = view.shape[1:]
            if config.window is None:
                logits = model(view[None])[0]
            else:
                window_height, window_width = (
                    min(config.window[0], height),
                    min(config.window[1], width),
                )
                row_step, column_step = config.step or (0, 0)
                logits = torch.zeros(CLASSES, height, width, dtype=torch.double)
                window_counts = torch.zeros(height, width)
                for top in naive_starts(height, window_height, row_step):
                    for left in naive_starts(width, window_width, column_step):
                        window_logits = model(
                            view[None, :, top : top + window_height, left : left + window_width]
                        )[0]
                        logits[:, top : top + window_height, left : left + window_width] += (
                            bilinear(window_logits, (window_height, window_width))
                        )
                        window_counts[top : top + window_height, left : left + window_width] += 1
                logits = logits / window_counts
            logits = bilinear(logits, size)
            if mirrored:
                logits = logits.flip(-1)
            exponentials = logits.exp()
            views.append(exponentials / exponentials.sum(0))
    return torch.stack(views).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "config",
    [
        InferenceConfig(),
        InferenceConfig(flip=True),
        InferenceConfig(scales=(0.5, 1, 1.5)),
        InferenceConfig(scales=(2.0,)),
        InferenceConfig(window=(8, 10), stride=(5, 7)),
        InferenceConfig(window=(100, 10)),
        InferenceConfig(scales=(0.5, 1.5), flip=True, window=(9, 9)),
    ],
    ids=lambda config: config.protocol,
)
def test_prediction_matches_plain_loops_in_float64(config: InferenceConfig, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 18, 22, generator=generator)
    size = (19, 20)  # the size of the label, not of the image
    filled = torch.empty(2, CLASSES, *size)
    predictions = predict(NeighborhoodNetwork(stride), images, size, config, filled)
    assert torch.equal(predictions, predict(NeighborhoodNetwork(stride), images, size, config))
    reference = NeighborhoodNetwork(stride).double()
    for image, prediction, probabilities in zip(
        images.double(), predictions, filled.double(), strict=True
    ):
        scores = naive_scores(reference, image, size, config)
        assert torch.allclose(probabilities, scores, atol=1e-5)
        best = scores.topk(2, dim=0)
        # Where float32 cannot separate the two best classes, either is correct.
        clear = best.values[0] - best.values[1] > 1e-5
        assert clear.float().mean() > 0.99
        assert torch.equal(prediction[clear], best.indices[0][clear])


@pytest.mark.parametrize(
    "config", [InferenceConfig(), InferenceConfig(scales=(0.5, 1.5), flip=True)]
)
def test_probabilities_are_the_mean_over_all_views(config: InferenceConfig) -> None:
    image = torch.randint(256, (10, 12, 3), dtype=torch.uint8)
    numerics = Numerics.choose(torch.device("cpu"), "fp32")
    probabilities = predict_probabilities(NeighborhoodNetwork(), image, numerics, CLASSES, config)
    normalized = normalize(image.permute(2, 0, 1)[None])[0].double()
    expected = naive_scores(NeighborhoodNetwork().double(), normalized, (10, 12), config)
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 200), st.integers(1, 80), st.integers(1, 80))
def test_windows_cover_every_pixel_and_end_flush(size: int, window: int, step: int) -> None:
    step, length = min(step, window), min(window, size)
    starts = window_starts(size, length, step)
    assert starts[0] == 0
    assert starts[-1] + length == size
    assert all(0 < later - earlier <= step for earlier, later in pairwise(starts))
    covered = {start + offset for start in starts for offset in range(length)}
    assert covered == set(range(size))
    assert starts == naive_starts(size, length, step)
    # Without the last window, the border would be uncovered.
    assert len(starts) == 1 or starts[-2] + length < size


sizes = st.integers(1, 2048)
pairs = st.tuples(sizes, sizes)


@given(pairs, st.floats(0.01, 8))
def test_scaled_size_is_rounded_and_at_least_one_pixel(size: tuple[int, int], scale: float) -> None:
    for length, scaled in zip(size, scaled_size(size, scale), strict=True):
        assert scaled >= 1
        assert abs(scaled - scale * length) <= 0.5 or scaled == 1


def test_half_a_pixel_is_rounded_up() -> None:
    assert scaled_size((5, 7), 0.5) == (3, 4)


configs = st.builds(
    InferenceConfig,
    scales=st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 2.0]), min_size=1, unique=True).map(
        tuple
    ),
    flip=st.booleans(),
    window=st.one_of(st.none(), st.tuples(st.integers(2, 64), st.integers(2, 64))),
)


@given(configs, configs)
def test_protocol_names_are_unique_by_settings(
    first: InferenceConfig, second: InferenceConfig
) -> None:
    assert (first.protocol == second.protocol) == (first == second)
    assert all(letter.isalnum() or letter in "-_." for letter in first.protocol)


def test_protocol_names_describe_the_settings() -> None:
    assert InferenceConfig().protocol == "whole"
    config = InferenceConfig(scales=(0.5, 1, 1.5), flip=True, window=(512, 512))
    assert config.protocol == "window-512x512-by-341x341_scales-0.5-1-1.5_flip"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scales": ()},
            r"scales must be different factors above 0 .* received \(\)",
        ),
        ({"scales": (1.0, 0.0)}, "scales must be different factors above 0"),
        ({"scales": (1.0, 1e9)}, "above 0 and at most 16, such as"),
        ({"scales": (1.0, math.nan)}, "scales must be different factors above 0"),
        ({"scales": (1.0, math.inf)}, "scales must be different factors above 0"),
        ({"scales": (1.0, 1.0)}, "scales must be different factors above 0"),
        ({"window": (0, 4)}, r"window must be two sizes in pixels.* received \(0, 4\)"),
        ({"stride": (4, 4)}, "stride needs a window; received stride .* without one"),
        ({"window": (8, 8), "stride": (4, 9)}, "stride must not exceed the window .* received"),
        ({"window": (8, 8), "stride": (4, 0)}, "stride must be two sizes in pixels"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InferenceConfig(**settings)


@pytest.mark.parametrize(
    ("batch", "window", "expected"),
    [(1, (512, 512), [8, 4]), (2, (512, 512), [8, 8, 8]), (1, (1024, 1024), [2, 1])],
)
def test_windows_share_a_pass_of_two_million_pixels(
    batch: int, window: tuple[int, int], expected: list[int]
) -> None:
    passes = []

    def network(images: Tensor) -> Tensor:
        passes.append(len(images))
        return nn.functional.avg_pool2d(images, 64)

    images = torch.zeros(batch, 3, 1024, 3 * 1024)
    config = InferenceConfig(window=window, stride=window)
    module = nn.Module()
    module.forward = network
    predict(module, images, (1024, 3 * 1024), config)
    assert passes == expected


class FixedNetwork(nn.Module):
    """A network of 8 x 8 pixels, which says so as `library` does."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (8, 8):
            raise self.error("must be 8 x 8\nand no more")
        return images[:, :1].expand(-1, CLASSES, -1, -1)


@pytest.mark.parametrize(
    ("size", "config", "message"),
    [
        ((8, 16), InferenceConfig(), "an image of 8 x 16 pixels .* with --window HxW"),
        ((16, 16), InferenceConfig(window=(4, 8)), "windows of 4 x 8 pixels .* of another size$"),
        (
            (4, 16),
            InferenceConfig(window=(8, 8)),
            "4 x 8 pixels of an image that is smaller than the window of 8 x 8 .*; enlarge the",
        ),
    ],
)
@pytest.mark.parametrize("error", [AssertionError, RuntimeError, ValueError])
def test_size_that_a_network_cannot_take_is_reported(
    size: tuple[int, int], config: InferenceConfig, message: str, error: type[Exception]
) -> None:
    """timm's networks raise AssertionError, torch RuntimeError and transformers' ValueError."""
    with pytest.raises(InputSizeError, match=message) as caught:
        predict(FixedNetwork(error), torch.zeros(1, 3, *size), size, config)
    assert "(must be 8 x 8)" in str(caught.value)


@pytest.mark.parametrize("text", ["CUDA out of memory", "CUDA error: unknown error"])
@pytest.mark.parametrize("config", [InferenceConfig(), InferenceConfig(window=(4, 4))])
def test_failed_device_is_no_matter_of_size(config: InferenceConfig, text: str) -> None:
    network = nn.Module()
    network.forward = Mock(side_effect=RuntimeError(text))
    with pytest.raises(RuntimeError, match=f"^{text}$") as caught:
        predict(network, torch.zeros(1, 3, 8, 8), (8, 8), config)
    assert type(caught.value) is RuntimeError

"""A model directory's network for arrays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.inference import InputSizeError
from pipelines.serving import OUTPUTS, SegmentationModel
from tests.support.fixed_size import fixed_size, write_model

SIZE = (32, 48)


@pytest.fixture
def model(tmp_path: Path, small_streets: Path) -> SegmentationModel:
    """A model of images and windows of SIZE."""
    directory = write_model(tmp_path / "model", small_streets, fixed_size(*SIZE), window=SIZE)
    return SegmentationModel(Path(directory))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels[..., ::-1],  # as OpenCV's blue, green and red
        lambda pixels: pixels[:, ::-1],
        lambda pixels: np.stack([pixels, pixels])[:, ::-1],
    ],
)
def test_views_with_negative_strides_are_taken(
    model: SegmentationModel, view: Callable[[np.ndarray], np.ndarray], output: str
) -> None:
    pixels = view(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    assert min(pixels.strides) < 0
    params = {"output": output}
    assert np.array_equal(model.predict(pixels, params), model.predict(pixels.copy(), params))


def test_image_smaller_than_the_window_is_reported(model: SegmentationModel) -> None:
    with pytest.raises(InputSizeError, match=r"smaller than the window of 32 x 48 .* enlarge the"):
        model.predict(np.zeros((32, 40, 3), np.uint8))

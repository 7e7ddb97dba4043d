"""Labels in colors, and with palettes."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.data.image_io import ImageError, open_image, to_indices
from pipelines.preparation.labels.colors import gif_levels, indices_of_colors

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
INDICES = np.array([[0, 3, 5, 11]], np.uint8)


def as_gif(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="GIF")
    return buffer.getvalue()


def test_gray_gif_labels_are_gray_levels() -> None:
    """Encoders number the palette anew: levels 0, 7 and 255 become indices 0, 1 and 2."""
    levels = RNG.choice([0, 7, 255], (6, 9)).astype(np.uint8)
    opened = open_image(as_gif(Image.fromarray(levels)))
    assert np.array_equal(to_indices(gif_levels(opened)), levels)
    with pytest.raises(ImageError, match="is a GIF in colors"):
        gif_levels(open_image(as_gif(Image.fromarray(RGB).quantize(8))))


def test_indices_instead_of_colors_are_rejected() -> None:
    pixels = np.asarray(Image.fromarray(INDICES).convert("RGB"))
    with pytest.raises(ImageError, match=r"such as \[0, 0, 0\], .*leave out `label_colors`"):
        indices_of_colors(pixels, {(9, 9, 200): 0, (200, 9, 9): 1})

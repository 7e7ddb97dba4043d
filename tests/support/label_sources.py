"""Images and labels of small fabricated sources."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (16, 18)


def write_image(path: Path) -> None:
    """Write noise, a JPEG or PNG of `SIZE` (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(sum(str(path).encode()))
    Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def write_label(
    path: Path, values: list[int], palette: list[tuple[int, int, int]] | None = None
) -> np.ndarray:
    """Write a PNG of `SIZE` that has all `values`, repeated; return its stored values.

    palette: color of each value, for a palette PNG.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.resize(np.array(values, np.uint8), SIZE)
    image = Image.fromarray(stored)
    if palette is not None:
        image.putpalette([level for color in palette for level in color])
    image.save(path)
    return stored

"""A `folder` data set of TIFF images with red, green, blue and near infrared of 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

DESCRIPTION = """\
name: field
classes: {soil: [110, 80, 60], crop: [40, 120, 40]}
splits:
  train: {images: images/train, labels: labels/train}
  val: {images: images/val, labels: labels/val}
"""
FOUR_BANDS = "bands: [1, 2, 3, 4]\nbits: 16\nrgb: [4, 3, 2]\n"


def write_tiff(
    path: Path,
    values: NDArray[np.generic],
    planar: bool = False,
    compression: str | None = "zlib",
) -> None:
    """Write (height, width, bands) as GDAL does: the first band is gray, the others are extra."""
    is_gray = values.shape[2] == 1
    if is_gray:
        values = values[..., 0]
    elif planar:
        values = np.moveaxis(values, 2, 0)
    tifffile.imwrite(
        path,
        values,
        photometric="minisblack",
        planarconfig=None if is_gray else "separate" if planar else "contig",
        compression=compression,
        metadata=None,
    )


def write_field(
    root: Path, keys: str = FOUR_BANDS, images: int = 12, size: int = 64
) -> dict[str, NDArray[np.uint16]]:
    """Write a third of the images to `val`, the others to `train`; return them by identifier."""
    generator = np.random.default_rng(0)
    written = {}
    for index in range(images):
        split = "val" if index % 3 == 0 else "train"
        label = np.zeros((size, size), np.uint8)
        label[size // 4 :, index % (size // 2) : size - 4] = 1
        soil, crop = [1500, 1400, 1300, 900], [900, 1200, 800, 3500]
        reflectance = np.where(label[..., None] == 1, crop, soil)
        noise = generator.normal(0, 120, (size, size, 4))
        values = (reflectance + noise).clip(0, 4095).astype(np.uint16)
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        write_tiff(root / f"images/{split}/{index}.tif", values, planar=index % 2 == 1)
        Image.fromarray(label).save(root / f"labels/{split}/{index}.png")
        written[str(index)] = values
    (root / "dataset.yaml").write_text(DESCRIPTION + keys)
    return written

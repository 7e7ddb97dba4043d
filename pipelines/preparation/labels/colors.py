"""Colors of labels: their class indices, palettes, and what is wrong with a label in colors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_io import Array, ImageError
from pipelines.data.manifest import ClassInfo
from pipelines.preparation.images.pixels import gray_levels
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.advice import FOLDER_ADVICE, LabelAdvice
from pipelines.wording import counted

BLACK = (0, 0, 0)


def indices_of_colors(
    pixels: Array, colors: Mapping[tuple[int, int, int], int]
) -> NDArray[np.uint16]:
    """Return the class index (or IGNORE) of each pixel's color, uint16 (height, width).

    pixels: uint8 (height, width, 3). colors: the class index (or IGNORE) of each valid color.

    Raises:
        ImageError: a color that is not in `colors`.
    """
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2)
    indices = np.full(packed.shape, 65535, np.uint16)
    for (red, green, blue), index in colors.items():
        indices[packed == (red << 16 | green << 8 | blue)] = index
    unknown = np.unique(packed[indices == 65535]).tolist()
    if unknown:
        listed = ", ".join(str([c >> 16, c >> 8 & 255, c & 255]) for c in unknown[:4])
        all_gray = all(c >> 16 == c >> 8 & 255 == c & 255 for c in unknown)
        raise ImageError(
            f"has colors of no class, such as {listed}; "
            + ("if these are indices, leave out `label_colors`; otherwise, " if all_gray else "")
            + "list colors of a class in `classes` and colors without a meaning in `ignore_colors`"
        )
    return indices


def check_opaque(
    image: Image.Image, indices: NDArray[np.uint16], classes: Sequence[ClassInfo]
) -> None:
    """Check that no transparent pixel of a label in colors belongs to a class.

    indices: class index (or IGNORE) of each pixel's color, whatever its transparency, `(H, W)`.

    Raises:
        ImageError: such a pixel is labeled, although programs show it without its color or, as at
            edges that were smoothed, with a part of it.
    """
    if not image.has_transparency_data:
        return
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    labeled = (alpha < 255) & (indices != IGNORE)
    if labeled.any():
        first = classes[int(indices[labeled][0])]
        raise ImageError(
            f"has {counted(int(labeled.sum()), 'transparent pixel')} in colors of classes, such as "
            f"{list(first.color)} of {first.name!r}, with an alpha of {alpha[labeled][0]}; save "
            "the label without transparency, with ignored pixels in a color of `ignore_colors`"
        )


def explain_colors(image: Image.Image, classes: Sequence[ClassInfo], advice: LabelAdvice) -> str:
    """Return what is wrong with a label in colors, and how to convert it."""
    problem = f"has colors (mode {image.mode}) instead of one index per pixel"
    pixels = np.asarray(image.convert("RGB"))
    if (pixels == pixels[..., :1]).all() and pixels.any():
        return (
            f"{problem}, all of them gray: probably indices saved with several channels; "
            "save a single channel (Pillow: `image.getchannel(0).save(...)`)"
        )
    unknown = set(map(tuple, np.unique(pixels.reshape(-1, 3), axis=0).tolist())) - {BLACK}
    unknown -= {entry.color for entry in classes}
    if not unknown:
        return f"{problem}: the colors of the classes; {advice.colors}"
    listed = ", ".join(str(list(each)) for each in sorted(unknown)[:3])
    return f"{problem}, such as {listed}, which no class has; {advice.colors} in its `classes`"


def check_palette(
    image: Image.Image,
    stored: NDArray[np.uint16],
    values: Mapping[int, int],
    classes: Sequence[ClassInfo],
    advice: LabelAdvice,
) -> None:
    """Raise ImageError if the palette gives an index the color of another class.

    A palette that only makes indices visible, as VOC's, says nothing about the classes, nor does
    one of which most used colors are of no class.
    """
    colors = palette_colors(image)
    used = [index for index in np.unique(stored).tolist() if index < len(colors)]
    if all(colors[index] in (voc_color(index), (index,) * 3) for index in used):
        return
    by_color: dict[tuple[int, ...], set[int]] = {BLACK: {IGNORE}}
    for number, entry in enumerate(classes):
        by_color.setdefault(entry.color, set()).add(number)
    shown = [index for index in used if colors[index] != BLACK]
    if 2 * sum(colors[index] in by_color for index in shown) <= len(shown):
        return
    for index in used:
        by_its_color = by_color.get(colors[index], {IGNORE})
        if values.get(index) not in by_its_color and by_its_color != {IGNORE}:
            name = classes[min(by_its_color - {IGNORE})].name
            by_its_index = values.get(index)
            meaning = (
                "is unknown"
                if by_its_index is None
                else "is ignored"
                if by_its_index == IGNORE
                else f"is {classes[by_its_index].name!r}"
            )
            raise ImageError(
                "is a palette image whose colors match the classes but whose indices do not: index "
                f"{index} {meaning}, but its color {list(colors[index])} is {name!r}; "
                f"{advice.colors}. If the indices are right, save it without a palette (mode L)"
            )


def palette_colors(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colors of an image's palette: red, green and blue of each index."""
    flat = image.getpalette("RGB") or []
    return [tuple(flat[start : start + 3]) for start in range(0, len(flat), 3)]


def voc_color(index: int) -> tuple[int, int, int]:
    """Return color `index` of the VOC color map: its bits alternate between the three channels."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def gif_levels(image: Image.Image, advice: LabelAdvice = FOLDER_ADVICE) -> Image.Image:
    """Return a GIF's gray levels instead of its palette indices, and any other image unchanged.

    Encoders number the palette of a GIF as they like, so that an index has no meaning of its own.

    Raises:
        ImageError: the palette has colors other than gray.
    """
    if image.format != "GIF" or image.mode != "P":
        return image
    levels = gray_levels(image)
    if levels is None:
        raise ImageError(
            f"is a GIF in colors, whose encoder may number them in any order; {advice.colors}"
        )
    return Image.fromarray(levels)

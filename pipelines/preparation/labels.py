"""From a stored label to class indices, or to what it is instead and how to convert it.

A label file holds one value per pixel. Pictures of the classes' colours, palettes that mean the
colours and not the indices, grey versions of colours and training ids in the place of label ids
all open without an error; what tells them apart is how their values and colours fit the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_io import Array, ImageError, is_index_image, to_indices
from pipelines.data.manifest import ClassInfo

IGNORE = 255
BLACK = (0, 0, 0)
CONVERT = "a `folder` data set with `label_colors: true` reads the colours"


def stored_values(
    picture: Image.Image, values: Mapping[int, int], classes: Sequence[ClassInfo]
) -> NDArray[np.uint16]:
    """uint16 (height, width) of a decoded label; `values`: class index (or IGNORE) of each.

    Raises:
        ImageError: colours instead of one value per pixel, or a palette whose colours name other
            classes than its indices do.
    """
    if not is_index_image(picture):
        raise ImageError(_what_colors_mean(picture, classes))
    stored = to_indices(picture)
    if picture.mode == "P":
        _check_palette(picture, stored, values, classes)
    return stored


def class_indices(
    stored: NDArray[np.uint16], values: Mapping[int, int], classes: Sequence[ClassInfo]
) -> Array:
    """uint8 (height, width): the class index (or IGNORE) of every stored value.

    Raises:
        ImageError: values that mean nothing; the message lists them, and says what they may be.
    """
    table = np.full(65536, -1, np.int64)
    table[list(values)] = list(values.values())
    mapped = table[stored]
    if (mapped < 0).any():
        unknown, pixels = np.unique(stored[mapped < 0], return_counts=True)
        listed = ", ".join(str(value) for value in unknown[:8].tolist())
        more = ", ..." if len(unknown) > 8 else ""
        raise ImageError(
            f"holds unknown values {listed}{more} in {pixels.sum()} pixels; "
            f"known are {_ranges(sorted(values))}{_guess(set(np.unique(stored).tolist()), classes)}"
        )
    return mapped.astype(np.uint8)


def indices_of_colors(pixels: Array, classes: Sequence[ClassInfo]) -> NDArray[np.uint16]:
    """Class index of each pixel's colour, (height, width, 3), IGNORE where it is black and black is
    no class; ImageError where a colour is no class's."""
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2)
    indices = np.full(packed.shape, 65535, np.uint16)
    indices[packed == 0] = IGNORE
    for index, entry in enumerate(classes):
        red, green, blue = entry.color
        indices[packed == (red << 16 | green << 8 | blue)] = index
    unknown = np.unique(packed[indices == 65535]).tolist()
    if unknown:
        listed = ", ".join(str([c >> 16, c >> 8 & 255, c & 255]) for c in unknown[:4])
        grey = all(c >> 16 == c >> 8 & 255 == c & 255 for c in unknown)
        raise ImageError(
            f"holds colours of no class, such as {listed}"
            + ("; if these are indices, leave out `label_colors`" if grey else "")
        )
    return indices


def _what_colors_mean(picture: Image.Image, classes: Sequence[ClassInfo]) -> str:
    """What a label in colours is, and how it is converted."""
    found = f"holds colours (mode {picture.mode}) instead of one index per pixel"
    pixels = np.asarray(picture.convert("RGB"))
    if (pixels == pixels[..., :1]).all() and pixels.any():
        return (
            f"{found}, all of them grey: indices saved as colours; "
            "save one channel of it (Pillow: `picture.getchannel(0).save(...)`)"
        )
    strange = set(map(tuple, np.unique(pixels.reshape(-1, 3), axis=0).tolist())) - {BLACK}
    strange -= {entry.color for entry in classes}
    if not strange:
        return f"{found}: the classes' own; {CONVERT}"
    listed = ", ".join(str(list(each)) for each in sorted(strange)[:3])
    return f"{found}, such as {listed}, which is no class's; {CONVERT} that its `classes` list"


def _check_palette(
    picture: Image.Image,
    stored: NDArray[np.uint16],
    values: Mapping[int, int],
    classes: Sequence[ClassInfo],
) -> None:
    """ImageError where the palette's colours are the classes', but of others than the indices.

    A palette that colours indices for viewing, as VOC's does, says nothing about the classes, and
    one that has colours of no class need not fit them.
    """
    colors = _palette(picture)
    used = np.unique(stored).tolist()
    if any(index >= len(colors) for index in used):
        return
    if all(colors[index] in (voc_color(index), (index,) * 3) for index in used):
        return
    by_color: dict[tuple[int, ...], set[int]] = {BLACK: {IGNORE}}
    for number, entry in enumerate(classes):
        by_color.setdefault(entry.color, set()).add(number)
    if any(colors[index] not in by_color for index in used):
        return
    for index in used:
        meant = by_color[colors[index]]
        if values.get(index) not in meant and meant != {IGNORE}:
            name = classes[min(meant - {IGNORE})].name
            as_index = values.get(index)
            taken = (
                "means nothing"
                if as_index is None
                else "is ignored"
                if as_index == IGNORE
                else f"is {classes[as_index].name!r}"
            )
            raise ImageError(
                f"is a palette picture whose colours are the classes', but not its indices: index "
                f"{index} {taken}, its colour {list(colors[index])} is {name!r}; {CONVERT}. If the "
                "indices are right, save it without a palette (mode L)"
            )


def _palette(picture: Image.Image) -> list[tuple[int, ...]]:
    flat = picture.getpalette("RGB") or []
    return [tuple(flat[start : start + 3]) for start in range(0, len(flat), 3)]


def _guess(found: set[int], classes: Sequence[ClassInfo]) -> str:
    """What values that are partly unknown may be."""
    greys = {_grey(entry.color) for entry in classes}
    if len(found - {0, IGNORE}) > 1 and found <= greys | {0, IGNORE}:
        return (
            ". They are the grey levels of the classes' colours, so this is a colour label turned "
            f"grey, which cannot be undone; take the label in colours: {CONVERT}"
        )
    if found == {0, IGNORE}:
        return ". It is black and white: a mask of one class?"
    return "; a `folder` data set maps other values by its `values` and `ignore`"


def _grey(color: tuple[int, int, int]) -> int:
    """As Pillow and OpenCV turn colours grey (ITU-R 601)."""
    return int(np.asarray(Image.new("RGB", (1, 1), color).convert("L"))[0, 0])


def _ranges(values: list[int]) -> str:
    """0, 1, 2, 255 as `0-2, 255`."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1][1:] = [value]
        else:
            parts.append([value])
    return ", ".join("-".join(str(end) for end in part) for part in parts)


def voc_color(index: int) -> tuple[int, int, int]:
    """Colour `index` of the VOC colour map: its bits are dealt out to red, green and blue."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]

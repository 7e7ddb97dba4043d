"""Convert stored labels to class indices, and recognize labels in the wrong form.

A label file must have one value per pixel, in a format that keeps every value. Images in the
classes' colors, palettes with the right colors but the wrong indices, colors converted to gray,
training ids instead of label ids, and values that a lossy format has changed all open without an
error; this module and `colors` recognize them by their format, and by how values and colors fit the
classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_io import Array, ImageError, is_index_image, to_indices
from pipelines.data.manifest import ClassInfo
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.advice import FOLDER_ADVICE, LabelAdvice
from pipelines.preparation.labels.colors import check_palette, explain_colors

# Formats in which a decoded value can differ from the value that was stored.
LOSSY = frozenset(("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF"))
LOSSLESS_WEBP = b"VP8L"  # the chunk with the pixels of a lossless WebP file


def check_lossless(image: Image.Image, data: bytes) -> None:
    """Check that the format of a label keeps every value.

    data: the encoded label that `image` was decoded from.

    Raises:
        ImageError: the format is lossy, so that pixels near edges have values of other classes.
    """
    compression = str(image.info.get("compression", "")) if image.format == "TIFF" else ""
    lossy_webp = image.format == "WEBP" and LOSSLESS_WEBP not in _webp_chunks(data)
    if image.format in LOSSY or lossy_webp or "jpeg" in compression or compression == "webp":
        name = f"{image.format} with {compression} compression" if compression else image.format
        raise ImageError(
            f"is a {name} file, a lossy format that changes values near edges; export the labels "
            "again as PNG (a converted copy keeps the changed values)"
        )


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the names of a WebP file's chunks, of which a color profile may be the first."""
    position = 12
    while name := data[position : position + 4]:
        yield name
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2


def stored_values(
    image: Image.Image,
    values: Mapping[int, int],
    classes: Sequence[ClassInfo],
    advice: LabelAdvice = FOLDER_ADVICE,
) -> NDArray[np.uint16]:
    """Return the stored values of a decoded label, uint16 (height, width).

    values: class index (or IGNORE) of each valid stored value. advice: for messages.

    Raises:
        ImageError: colors instead of one value per pixel, a palette in which a color and its index
            belong to different classes, or values that programs read differently.
    """
    if image.mode == "F":
        return _whole_numbers(image, values, advice)
    if not is_index_image(image):
        raise ImageError(explain_colors(image, classes, advice))
    stored = to_indices(image)
    if image.mode == "P":
        check_palette(image, stored, values, classes, advice)
    if image.mode == "L" and image.format != "PPM" and "maxval" in image.info:
        _check_few_bits(stored, image.info["maxval"], values)
    return stored


def class_indices(
    stored: NDArray[np.uint16],
    values: Mapping[int, int],
    classes: Sequence[ClassInfo],
    advice: LabelAdvice = FOLDER_ADVICE,
) -> Array:
    """Return the class index (or IGNORE) of every stored value, uint8 (height, width).

    Raises:
        ImageError: unknown values; the message lists them and guesses what the label is.
    """
    table = np.full(65536, -1, np.int64)
    table[list(values)] = list(values.values())
    mapped = table[stored]
    if (mapped < 0).any():
        unknown, pixels = np.unique(stored[mapped < 0], return_counts=True)
        listed = ", ".join(str(value) for value in unknown[:8].tolist())
        more = ", ..." if len(unknown) > 8 else ""
        guess = _guess(set(np.unique(stored).tolist()), classes, advice)
        if len(unknown) > 2 and _smoothed(stored, mapped < 0):
            guess = (
                ". They are at edges only, between the values there: edges were smoothed or the "
                "label was resized with interpolation; export the label without anti-aliasing, and "
                "resize with nearest neighbor"
            )
        raise ImageError(
            f"has unknown values {listed}{more} in {pixels.sum()} pixels; "
            f"known are {_ranges(sorted(values))}{guess}"
        )
    return mapped.astype(np.uint8)


def _whole_numbers(
    image: Image.Image, values: Mapping[int, int], advice: LabelAdvice
) -> NDArray[np.uint16]:
    """Return the values of a label of floating-point numbers, which must be whole."""
    stored = np.asarray(image)
    valid = (stored >= 0) & (stored <= 65535) & (stored == np.floor(stored))
    if valid.all():
        return stored.astype(np.uint16)
    message = (
        f"has floating-point values such as {stored[~valid][0]:g}, expected whole numbers from 0 "
        "to 65535; "
    )
    numbers = np.isfinite(stored)
    if valid[numbers].all():
        ignored = [value for value, index in values.items() if index == IGNORE]
        unused = (value for value in range(IGNORE, -1, -1) if value not in values)
        value = IGNORE if IGNORE in ignored else max(ignored) if ignored else next(unused)
        kind = "uint8" if stored.max(where=valid, initial=value) <= 255 else "uint16"
        listed = "" if ignored else f", {advice.ignored}"
        raise ImageError(
            f"{message}if they mean not labeled, store {value} in their place{listed}, and save "
            f"the values as PNG (NumPy and Pillow: `Image.fromarray(numpy.where(numpy.isfinite("
            f"values), values, {value}).astype('{kind}')).save(...)`)"
        )
    if (stored[numbers] == np.floor(stored[numbers])).all():
        raise ImageError(f"{message}store pixels to be ignored as 255 instead")
    raise ImageError(
        f"{message}fractions are no class indices: they may be indices divided by a number, "
        "probabilities, or indices resized with interpolation; export the indices themselves as "
        "an 8-bit PNG, because rounding would change classes"
    )


def _check_few_bits(stored: NDArray[np.uint16], maxval: int, values: Mapping[int, int]) -> None:
    """Raise ImageError if values of 2 or 4 bits mean something else as programs show them.

    Most programs stretch such values to 8 bits. A program that reduces the size of PNG files stores
    8-bit values in this way if they remain the same when stretched.
    """
    factor = 255 // maxval
    found = np.unique(stored).tolist()
    if not all(value * factor in values for value in found):
        return
    differing = [value for value in found if values.get(value) != values[value * factor]]
    if not differing:
        return
    value = differing[0]
    raise ImageError(
        f"stores gray in {maxval.bit_length()} bits, and programs disagree whether its value "
        f"{value} is {value} or {value * factor}; save the class indices with 8 bits per value"
    )


def _guess(values: set[int], classes: Sequence[ClassInfo], advice: LabelAdvice) -> str:
    """Return a guess what a label with some unknown values is, as the end of a sentence."""
    grays = {_gray(entry.color) for entry in classes}
    if len(values - {0, IGNORE}) > 1 and values <= grays | {0, IGNORE}:
        return (
            ". They are the gray levels of the classes' colors: a color label converted to gray, "
            f"which cannot be undone. Use the label in colors: {advice.colors}"
        )
    if values == {0, IGNORE}:
        return f". It is black and white: if it is a mask, map both values{advice.mask(classes)}"
    return f"; {advice.values}"


def _smoothed(stored: NDArray[np.uint16], unknown: NDArray[np.bool_]) -> bool:
    """Whether all unknown values of a label lie between the known ones at edges: no such pixel is
    surrounded by its own value, as pixels within a region of a class are."""
    known = stored[~unknown]
    if not known.size or not ((stored >= known.min()) & (stored <= known.max()))[unknown].all():
        return False
    alone = np.zeros(stored.shape, bool)
    for axis in (0, 1):
        for step in (1, -1):
            neighbor = np.roll(stored, step, axis)
            differs = neighbor != stored
            # The first or last row or column has no neighbor on this side.
            differs[(slice(None),) * axis + (0 if step == 1 else -1,)] = False
            alone |= differs
    return bool(alone[unknown].all())


def _gray(color: tuple[int, int, int]) -> int:
    """Convert a color to gray as Pillow and OpenCV do (ITU-R 601)."""
    return int(np.asarray(Image.new("RGB", (1, 1), color).convert("L"))[0, 0])


def _ranges(values: list[int]) -> str:
    """Format sorted numbers as ranges: 0, 1, 2, 255 as `0-2, 255`."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1][1:] = [value]
        else:
            parts.append([value])
    return ", ".join("-".join(str(end) for end in part) for part in parts)

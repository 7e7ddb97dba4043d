"""Check a record's files and convert them to a row of the prepared data set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_format import RGB, Pixels
from pipelines.data.image_io import (
    Array,
    ImageError,
    encode_channels,
    encode_png,
    open_image,
    to_rgb,
)
from pipelines.data.shards import Centroid, Sample, pixels_digest, sample_digest
from pipelines.preparation.images.files import broken_link
from pipelines.preparation.images.header import DEEP_MODES
from pipelines.preparation.images.pixels import check_single_page, read_pixels
from pipelines.preparation.images.reading import ImageReading
from pipelines.preparation.images.value_range import ValueRange
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.class_indices import check_lossless, class_indices
from pipelines.preparation.labels.forms import LabelForms, check_one_reading, label_forms
from pipelines.preparation.readers.own_reader import check_label, encoded_files, own_failures
from pipelines.preparation.readers.reader import Reader, Record

#: Side in pixels of the tiles whose class centroids are recorded.
TILE = 1024


@dataclass(frozen=True)
class CheckedSample:
    """A checked record: a sample with the sums and the sums of squares of its channels, or its
    problems.

    Both sums are of values clipped to the reading's scale.

    stored: the range of the image's stored values, if they have more than 8 bits.
    labels: what the label stores, if it stores class indices.
    """

    sample: Sample | None
    channel_sums: tuple[int, ...] = ()
    channel_squares: tuple[int, ...] = ()
    stored: ValueRange | None = None
    labels: LabelForms | None = None
    problems: tuple[str, ...] = ()


def check(
    reader: Reader,
    record: Record,
    repeated: Mapping[tuple[str, str], int],
    reading: ImageReading,
) -> CheckedSample:
    """Read and decode a record, map its label to class indices, and count its pixels.

    repeated: how often each name occurs that is not unique (see `duplicates`).
    reading: how images become pixels.

    Raises UserError if the code of the user's own reader fails.
    """
    with own_failures(type(reader)):
        return _check(reader, record, repeated, reading)


def _check(
    reader: Reader,
    record: Record,
    repeated: Mapping[tuple[str, str], int],
    reading: ImageReading,
) -> CheckedSample:
    count = repeated.get((record.split, record.identifier))
    if count is not None:
        return _invalid(record, f"{record.image}: its name occurs {count} times in the split")
    try:
        image_bytes, label_bytes = encoded_files(reader, record)
    except FileNotFoundError as error:
        file = Path(error.filename or record.image)
        return _invalid(record, broken_link(file) if file.is_symlink() else _missing(record, file))
    except OSError as error:
        return _invalid(record, f"{error.filename or record.image}: {error.strerror or error}")
    with warnings.catch_warnings():
        # Pillow warns about odd metadata only; a problem with the pixels is an error.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            return _decode(reader, record, image_bytes, label_bytes, reading)
        except MemoryError:
            advice = "use fewer --workers, or cut the image into tiles"
            return _invalid(record, f"{record.image}: not enough memory to read it; {advice}")


def _decode(
    reader: Reader,
    record: Record,
    image_bytes: bytes,
    label_bytes: bytes | None,
    reading: ImageReading,
) -> CheckedSample:
    problems = []
    label_file = record.label or record.image
    label: Array | None = None
    forms: LabelForms | None = None
    if label_bytes is not None:
        try:
            label_image = open_image(label_bytes, checksums=True)
            check_single_page(label_bytes)
            check_lossless(label_image, label_bytes)
            check_one_reading(label_image, label_bytes)
            stored = reader.indices(record, label_image)
            values = reader.values(record)
            check_label(reader, stored, values)
            label = class_indices(stored, values, reader.classes, reader.label_advice)
            if not reader.reads_colors:
                forms = label_forms(label_image, stored, label_file)
        except ImageError as error:
            problems.append(f"{label_file}: label {error}")
    try:
        label_size = None if label is None else label.shape
        image = read_pixels(image_bytes, reading, label_size, checksums=True)
    except ImageError as error:
        return _invalid(record, f"{record.image}: image {error}", *problems)
    if problems:
        return _invalid(record, *problems)
    pixels = image.pixels
    if label is not None and label.shape != pixels.shape[:2]:
        sizes = f"label of {_size(label)} pixels for an image of {_size(pixels)}"
        if image.turned and label.shape == pixels.shape[1::-1]:
            other = "ignore" if reading.exif == "apply" else "apply"
            sizes += f" that has an EXIF orientation; `exif: {other}` would fit"
        return _invalid(record, f"{label_file}: {sizes}")
    if label is not None and _same_pixels(pixels, label_image, stored):
        return _invalid(
            record,
            f"{record.image}: image has the same pixels as its label, {label_file}; put the "
            "photograph in its place",
        )
    content = image_bytes if image.as_stored and image.format == "JPEG" else pixels
    classes = len(reader.classes)
    height, width = pixels.shape[:2]
    counts = np.zeros(classes, np.int64) if label is None else _counts(label, classes)
    sums, squares = _channel_sums(pixels, reading)
    sample = Sample(
        identifier=record.identifier,
        split=record.split,
        group=record.group,
        image=image_bytes if image.as_stored else _encode(pixels),
        label=None if label is None else encode_png(label, effort=6),
        height=height,
        width=width,
        class_pixels=tuple(counts.tolist()),
        centroids=() if label is None else tuple(centroids(label, TILE)),
        digest=sample_digest(record.identifier, record.split, content, label),
        image_digest=pixels_digest(pixels),
    )
    return CheckedSample(sample, sums, squares, image.stored, forms)


def _same_pixels(pixels: Pixels, label_image: Image.Image, stored: NDArray[np.uint16]) -> bool:
    """Whether an image shows the values or the colors of its label, which has at least two.

    pixels: (height, width, channels). stored: the label's values, of the same height and width.
    """
    if stored.min() == stored.max():  # such as a black image without data
        return False
    if (pixels == stored[..., None]).all():
        return True
    is_rgb = (pixels.shape[2], pixels.dtype) == (RGB.channels, RGB.dtype)
    return (
        is_rgb
        and label_image.mode not in DEEP_MODES
        and np.array_equal(to_rgb(label_image), pixels)
    )


def _encode(pixels: Pixels) -> bytes:
    is_rgb = (pixels.shape[2], pixels.dtype) == (RGB.channels, RGB.dtype)
    return encode_png(pixels) if is_rgb else encode_channels(pixels)


def _channel_sums(pixels: Pixels, reading: ImageReading) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sum and the sum of squares of each channel."""
    values: NDArray[np.int64] = pixels.reshape(-1, pixels.shape[2]).astype(np.int64)
    if reading.bits == 16 and reading.scale is not None:
        values = values.clip(int(reading.scale[0]), int(reading.scale[1]))
    return tuple(values.sum(axis=0).tolist()), tuple((values**2).sum(axis=0).tolist())


def centroids(label: Array, tile: int) -> Iterator[Centroid]:
    """Yield the center of mass of each class in each tile of `tile` x `tile` pixels.

    Zhu et al., "Improving semantic segmentation via video propagation and label relaxation", CVPR
    2019, sample Cityscapes crops around such centroids.
    """
    height, width = label.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = label[top : top + tile, left : left + tile]
            rows, columns = (_histogram(part, axis) for axis in (1, 0))
            for index in np.flatnonzero(rows.sum(axis=1)).tolist():
                if index != IGNORE:
                    yield Centroid(index, top + _mean(rows[index]), left + _mean(columns[index]))


def _histogram(part: Array, axis: int) -> NDArray[np.int64]:
    """Count the pixels of each class per row (`axis` 1) or column (`axis` 0): (256, length)."""
    length = part.shape[1 - axis]
    line = np.arange(length)
    line = line[:, None] if axis == 1 else line[None, :]
    flat = part.astype(np.int64) * length + line
    return np.bincount(flat.ravel(), minlength=256 * length).reshape(256, length)


def _mean(histogram: NDArray[np.int64]) -> int:
    return int((histogram * np.arange(len(histogram))).sum() // histogram.sum())


def _counts(label: Array, classes: int) -> NDArray[np.int64]:
    return np.bincount(label.ravel(), minlength=256)[:classes]


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"


def _missing(record: Record, file: Path) -> str:
    """Return a sentence about a missing file, which names the file that lacks it."""
    if file == record.image and record.label is not None:
        return f"{record.label}: label has no image; expected a file such as {file}"
    if file == record.label and record.image.exists():
        return f"{record.image}: image has no label; expected a file such as {file}"
    return f"{file}: does not exist"


def _invalid(record: Record, *problems: str) -> CheckedSample:
    name = f"{record.split}/{record.identifier}"
    return CheckedSample(None, problems=tuple(f"{name}: {problem}" for problem in problems))

"""Look at all image files of a source before they are read: one decision for the whole source."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from pipelines.data.image_io import ImageError
from pipelines.data.prefetch import prefetch
from pipelines.preparation.images.deep_values import stored_range
from pipelines.preparation.images.header import (
    TRANSPOSED,
    Header,
    read_header,
    read_orientation,
)
from pipelines.preparation.images.reading import (
    Exif,
    ImageReading,
    lacks_scale,
    scale_advice,
    unreadable,
)
from pipelines.preparation.images.value_range import merged_range
from pipelines.preparation.readers.reader import Listing, Reader, Record
from pipelines.wording import counted, first_names

# Files are opened by several threads, because each open may wait for a network file system.
_THREADS = 8


@dataclass(frozen=True)
class SurveyedImage:
    """A record with what its files' headers say.

    header: None if the image cannot be opened, which is reported when it is read.
    label_size: height and width of the label; only known if the image is not upright.
    problem: why the record cannot be read, if the headers show it.
    unscaled: whether a scale would solve the problem.
    """

    record: Record
    header: Header | None = None
    orientation: int = 1
    label_size: tuple[int, int] | None = None
    problem: str | None = None
    unscaled: bool = False

    @property
    def fitting_exif(self) -> Exif | None:
        """How EXIF orientation must be read for the label's size; None if the size fits both."""
        if self.header is None or self.label_size is None or self.orientation not in TRANSPOSED:
            return None
        height, width = self.header.size
        if height == width or self.label_size not in ((height, width), (width, height)):
            return None
        return "ignore" if self.label_size == (height, width) else "apply"


def survey(reader: Reader, listing: Listing) -> tuple[Listing, ImageReading]:
    """Return the records that can be read, with all problems and notes, and how to read images.

    Images that cannot be read without loss become one problem for each cause.
    """
    reading = reader.image_reading
    if not reader.has_files:
        return listing, reading
    surveyed = prefetch(partial(_look, reading=reading), listing.records, _THREADS, 8 * _THREADS)
    result = listing.without_records()
    refused: dict[tuple[str, bool], list[Record]] = {}
    readable: list[SurveyedImage] = []
    with warnings.catch_warnings():
        # Pillow warns about odd metadata only.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for image in surveyed:
            if image.problem is None:
                readable.append(image)
            else:
                refused.setdefault((image.problem, image.unscaled), []).append(image.record)
    for (problem, unscaled), records in refused.items():
        advice = _scale_advice(records, reading) if unscaled else ""
        result.problems.append(_for_all(records, problem + advice))
    decision, unclear = _decide_exif(result, readable, reading, reader.unclear_exif)
    left_out = set(unclear)
    result.records = [image.record for image in readable if image not in left_out]
    transparent = [
        image.record.image
        for image in readable
        if image.header is not None and image.header.alpha and reading.bands is None
    ]
    if transparent:
        result.notes.append(f"{_images(transparent)} transparency, which is dropped")
    return result, replace(reading, exif=decision)


def _look(record: Record, reading: ImageReading) -> SurveyedImage:
    """Read the headers of a record's files."""
    try:
        if record.label is not None and os.path.samefile(record.image, record.label):
            problem = "is the same file as its label; name another folder or suffix for labels"
            return SurveyedImage(record, problem=problem)
        header = read_header(record.image)
        loss = unreadable(header, reading)
        if loss is not None:
            return SurveyedImage(record, header, problem=loss)
        loss = lacks_scale(header, reading)
        if loss is not None:
            return SurveyedImage(record, header, problem=loss, unscaled=True)
        number = read_orientation(record.image)
        size = None
        if number != 1 and record.label is not None:
            with Image.open(record.label) as label:
                size = label.height, label.width
        return SurveyedImage(record, header, number, size)
    except Exception:  # a damaged file, for which Pillow raises all kinds of errors
        return SurveyedImage(record)


def _scale_advice(records: list[Record], reading: ImageReading) -> str:
    """Return the end of a sentence about images without a scale: their range, and a scale."""
    ranges = []
    for record in records:
        try:
            ranges.append(stored_range(record.image.read_bytes()))
        except (ImageError, OSError) as error:
            return f"; {record.image} {error}"
    stored = merged_range(ranges)
    assert stored is not None, "records is not empty"
    return scale_advice(stored, reading)


def _for_all(records: list[Record], problem: str) -> str:
    """Return one problem of several records."""
    first = records[0]
    if len(records) == 1:
        return f"{first.split}/{first.identifier}: {first.image}: image {problem}"
    return f"{len(records)} images, such as {first.image}: each {problem}"


def _images(files: list[Path]) -> str:
    """Return the subject of a sentence about some images, with its verb."""
    have = "has" if len(files) == 1 else "have"
    return (
        f"{counted(len(files), 'image')} ({first_names((file.name for file in files), 2)}) {have}"
    )


def _decide_exif(
    listing: Listing,
    images: list[SurveyedImage],
    reading: ImageReading,
    unclear_exif: Exif | None,
) -> tuple[Exif | None, list[SurveyedImage]]:
    """Decide whether EXIF orientation is applied, and add the decision or a problem to `listing`.

    The sizes of labels decide for the whole source, unless `reading.exif` does. Returns the
    decision, None for one by the size of each label, and the images that are left out, because
    their labels may have been drawn on the stored or on the displayed pixels.
    """
    turned = [image for image in images if image.orientation != 1]
    if not turned:
        return "apply", []
    start = f"{_images([image.record.image for image in turned])} an EXIF orientation"
    ignored = [image for image in turned if image.fitting_exif == "ignore"]
    applied = [image for image in turned if image.fitting_exif == "apply"]
    unclear = [image for image in turned if image.label_size and image.fitting_exif is None]
    choice = (
        f"set `exif: ignore` (labels drawn on the pixels as stored) or `exif: apply` (on the image "
        f"as displayed) in {reading.file}"
    )
    decision: Exif | None = reading.exif
    if decision is not None:
        listing.notes.append(f"{start}, {_DONE[decision]}, as `exif: {decision}` says")
        return decision, []
    if ignored and applied:
        between = (
            f"{ignored[0].record.label} fits the pixels as stored, {applied[0].record.label} the "
            "image as displayed"
        )
        if unclear:
            listing.problems.append(
                f"{start}, and the sizes of their labels disagree: {between}, and the label of "
                f"{unclear[0].record.image} may be either; rewrite the images without an EXIF "
                "orientation"
            )
        else:
            listing.notes.append(f"{start}; the size of each label decides: {between}")
        return None, unclear
    if ignored or applied:
        decision = "ignore" if ignored else "apply"
        example = (ignored or applied)[0].record.label
        listing.notes.append(f"{start}, {_DONE[decision]}, as the size of {example} shows")
        return decision, []
    if unclear and unclear_exif is None:
        listing.problems.append(
            f"{start}, and no size shows on which pixels their labels were drawn; {choice}"
        )
        return "apply", unclear
    decision = unclear_exif or "apply"
    listing.notes.append(f"{start}, {_DONE[decision]}")
    return decision, []


_DONE: dict[Exif, str] = {"apply": "which is applied to them", "ignore": "which is ignored"}

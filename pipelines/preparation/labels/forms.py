"""Recognize labels that cannot be read as they are: files that programs read differently, and files
of one source that contradict each other."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from pipelines.data.image_io import ImageError
from pipelines.data.manifest import ClassInfo
from pipelines.preparation.images.header import DEEP_MODES, read_orientation
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.advice import FOLDER_ADVICE, LabelAdvice
from pipelines.preparation.labels.colors import palette_colors


@dataclass(frozen=True)
class UsedColor:
    """A color that pixels of a label with a palette have.

    index: the stored value of these pixels. alike: all indices to which the palette gives the
    color. file: the first label in which it occurs so.
    """

    color: tuple[int, ...]
    index: int
    alike: tuple[int, ...]
    file: str


@dataclass(frozen=True)
class LabelForms:
    """What labels store, as far as they can contradict each other.

    masks: number of labels of the values 0 and 255 only, 255 among them. indexed: number of labels
    with other values and without 255. mixed: number of labels with other values and 255. colors:
    of the palettes.
    """

    masks: int = 0
    indexed: int = 0
    mixed: int = 0
    colors: tuple[UsedColor, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the forms that `dataclasses.asdict` and JSON have made a mapping of lists."""
        colors = (
            {**each, "color": tuple(each["color"]), "alike": tuple(each["alike"])}
            for each in content["colors"]
        )
        return cls(**{**content, "colors": tuple(UsedColor(**each) for each in colors)})


def check_one_reading(image: Image.Image, data: bytes) -> None:
    """Check that all programs read the same values, at the same places, from a label.

    data: the encoded label that `image` was decoded from.

    Raises:
        ImageError: the label has an EXIF orientation, or is a TIFF with 0 as white.
    """
    number = read_orientation(io.BytesIO(data))
    if number != 1:
        raise ImageError(
            f"has EXIF orientation {number}, which some programs apply to the values and others do "
            "not; save it upright and without the orientation"
        )
    if (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.mode not in DEEP_MODES
        and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    ):
        raise ImageError(
            "is a TIFF with 0 as white (MinIsWhite), of which some programs invert the values and "
            "others do not; save it with 0 as black (MinIsBlack), or as PNG"
        )


def label_forms(image: Image.Image, stored: NDArray[np.uint16], file: Path) -> LabelForms:
    """Return what a label of class indices stores. stored: its values, (height, width)."""
    found = np.flatnonzero(np.bincount(stored.ravel())).tolist()
    has_255, has_others = IGNORE in found, bool(set(found) - {0, IGNORE})
    colors: list[UsedColor] = []
    if image.mode == "P" and image.format != "GIF":
        palette = palette_colors(image)
        for index in found:
            if index < len(palette):
                color = palette[index]
                alike = tuple(each for each, other in enumerate(palette) if other == color)
                colors.append(UsedColor(color, index, alike, str(file)))
    return LabelForms(
        masks=int(has_255 and not has_others),
        indexed=int(has_others and not has_255),
        mixed=int(has_others and has_255),
        colors=tuple(colors),
    )


def merged_forms(forms: Iterable[LabelForms | None]) -> LabelForms:
    """Return the forms of all labels together."""
    known = [each for each in forms if each is not None]
    colors: dict[tuple[tuple[int, ...], int, tuple[int, ...]], UsedColor] = {}
    for each in known:
        for used in each.colors:
            colors.setdefault((used.color, used.index, used.alike), used)
    return LabelForms(
        masks=sum(each.masks for each in known),
        indexed=sum(each.indexed for each in known),
        mixed=sum(each.mixed for each in known),
        colors=tuple(colors.values()),
    )


def palette_problem(
    forms: LabelForms, values: Mapping[int, int], advice: LabelAdvice = FOLDER_ADVICE
) -> str | None:
    """Return why the palettes contradict each other, or None if they do not.

    They do if a color has indices of different meanings in two labels, unless one of the palettes
    has the color at both. values: class index (or IGNORE) of each valid stored value.
    """
    first: dict[tuple[int, ...], list[UsedColor]] = {}
    for used in forms.colors:
        for other in first.setdefault(used.color, []):
            same = values.get(other.index, other.index) == values.get(used.index, used.index)
            if not same and other.index not in used.alike and used.index not in other.alike:
                return (
                    f"the palettes of the labels number the colors differently: {list(used.color)} "
                    f"is index {other.index} in {other.file}, but {used.index} in {used.file}, so "
                    f"that an index means nothing; {advice.colors}. If the indices are right, "
                    "save the labels without a palette (mode L)"
                )
        first[used.color].append(used)
    return None


def mask_problem(
    forms: LabelForms, values: Mapping[int, int], classes: Sequence[ClassInfo]
) -> str | None:
    """Return why masks of 0 and 255 among labels of two class indices are read wrongly, or None.

    values: class index (or IGNORE) of each valid stored value.
    """
    if len(classes) != 2 or values.get(IGNORE) != IGNORE or values.get(0, IGNORE) == IGNORE:
        return None
    if not forms.masks or not forms.indexed or forms.mixed:
        return None
    named = {value: classes[index].name for value, index in values.items() if index != IGNORE}
    named[IGNORE] = other = classes[1 - values[0]].name
    listed = ", ".join(f"{value}: {name}" for value, name in sorted(named.items()))
    labels = "1 label has" if forms.masks == 1 else f"{forms.masks} labels have"
    others = "1 other has" if forms.indexed == 1 else f"{forms.indexed} others have"
    return (
        f"{labels} only the values 0 and 255, while {others} {other!r} without 255: probably masks "
        f"of 0 and 255 among class indices, whose {other!r} would be ignored; write `values: "
        f"{{{listed}}}`, or `ignore: 255` if pixels of 255 are really to be ignored"
    )

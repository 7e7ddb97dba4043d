"""Your own folders of images and label PNGs, described by a YAML file, `dataset.yaml`:

name: orchard
classes:                    # in the order of their indices
  ground: [110, 80, 60]     # red, green, blue of the class in figures
  tree: [40, 120, 40]
values: {1: ground, 2: tree}        # stored value: class; default: the class index
ignore: [0, 255]            # stored values that are ignored; default: 255
label_colors: false         # true: labels are RGB images in the colors above, and black is
                            # ignored; then `values` and `ignore` are not allowed
splits:
  train: {images: images/train, labels: labels/train}
  val: {images: images/val, labels: labels/val, names: val.txt}
  test: {images: images/test}       # without labels
# label_suffix: _mask       # labels are named like their images with `_mask` added; also
#                           # `image_suffix`; with an ending (.png), only files that have it
# scale: [0, 4095]          # stored values that become black and white, for images of 16 bits or
#                           # of floating-point numbers
# bands: [1, 2, 3]          # the bands of a TIFF that become red, green and blue
# exif: apply               # labels were drawn on images as displayed, with their EXIF orientation;
#                           # ignore: on the pixels as stored; default: as the labels' sizes show
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from pipelines.config import CoreLoader
from pipelines.data.image_io import to_rgb
from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.image_reading import ImageReading
from pipelines.preparation.labels import IGNORE, indices_of_colors
from pipelines.preparation.readers.folder_images import (
    IMAGE_KEYS,
    check_image_keys,
    described_reading,
    described_suffixes,
)
from pipelines.preparation.readers.pairing import pair_files, select
from pipelines.preparation.readers.reader import Listing, Reader, Record

DESCRIPTION = "dataset.yaml"
KEYS = ("name", "classes", "values", "ignore", "label_colors", "splits")
SPLIT_KEYS = ("images", "labels", "names")
LARGEST_VALUE = 65535
# Split names become parts of file names, and `train+val` joins two splits.
SPLIT_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Folder(Reader):
    """Images and labels with equal names, in the folders that SOURCE/dataset.yaml lists."""

    unclear_exif = None
    help = f"your own images and label PNGs, described by SOURCE/{DESCRIPTION}"
    name = "folder"

    @cached_property
    def description(self) -> dict[str, Any]:
        """The validated content of the YAML file."""
        path = self.source / DESCRIPTION
        try:
            # Unlike PyYAML's own loader, this one reads a class named `on` or `no` as a string.
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=CoreLoader)
        except OSError as error:
            raise DatasetError(
                f"{path}: {error.strerror}; create this description of the folders as "
                "`python -m pipelines.prepare folder --help` shows"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: invalid YAML: {error}") from error
        _check_keys(path, "the file", content, (*KEYS, *IMAGE_KEYS))
        check_image_keys(path, content)
        classes, splits = content.get("classes"), content.get("splits")
        if not isinstance(classes, dict) or not 1 <= len(classes) <= IGNORE:
            raise DatasetError(
                f"{path}: classes must map 1 to {IGNORE} names to [red, green, blue]"
            )
        for name, value in classes.items():
            if not _is_color(value):
                raise DatasetError(
                    f"{path}: classes.{name} must be [red, green, blue], 0-255 each, "
                    f"received {value!r}"
                )
        if not isinstance(splits, dict) or not splits:
            raise DatasetError(f"{path}: splits must map names to {{images: DIR, labels: DIR}}")
        for name, split in splits.items():
            if not SPLIT_NAME.fullmatch(str(name)):
                raise DatasetError(
                    f"{path}: splits.{name}: a split's name may have letters, digits, _, - and ."
                )
            _check_keys(path, f"splits.{name}", split, SPLIT_KEYS)
            if "images" not in split:
                raise DatasetError(f"{path}: splits.{name} must have `images`, a folder")
            for key, value in split.items():
                if not isinstance(value, str):
                    raise DatasetError(
                        f"{path}: splits.{name}.{key} must be a path, received {value!r}; "
                        "remove the key if there is none"
                    )
        colors = content.get("label_colors", False)
        if not isinstance(colors, bool):
            raise DatasetError(f"{path}: label_colors must be true or false, received {colors!r}")
        for key in ("values", "ignore"):
            if colors and key in content:
                raise DatasetError(
                    f"{path}: {key} has no meaning with label_colors: true, where every color is "
                    "a class or black; remove it"
                )
        values = content.get("values", {})
        if not isinstance(values, dict):
            raise DatasetError(
                f"{path}: values must map stored values to classes, received {values!r}"
            )
        for value, name in values.items():
            if name not in classes or not _is_stored_value(value):
                raise DatasetError(
                    f"{path}: values.{value} must map a stored value to one of {list(classes)}, "
                    f"received {name!r}"
                )
        ignored = content.get("ignore", IGNORE)
        for value in ignored if isinstance(ignored, list) else [ignored]:
            if not _is_stored_value(value):
                raise DatasetError(f"{path}: ignore must be stored values, received {ignored!r}")
        return dict(content)

    @property
    def title(self) -> str:
        return str(self.description.get("name", self.source.name))

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        entries = self.description["classes"].items()
        return tuple(ClassInfo(str(name), tuple(value)) for name, value in entries)

    def values(self, record: Record) -> Mapping[int, int]:
        names = list(self.description["classes"])
        stored = self.description.get("values")
        if stored is None or self.description.get("label_colors"):
            indices = {index: index for index in range(len(names))}
        else:
            indices = {value: names.index(name) for value, name in stored.items()}
        ignored = self.description.get("ignore")
        if ignored is None:
            return {IGNORE: IGNORE, **indices}
        return {
            **indices,
            **dict.fromkeys(ignored if isinstance(ignored, list) else [ignored], IGNORE),
        }

    def indices(self, record: Record, picture: Image.Image) -> NDArray[np.uint16]:
        if not self.description.get("label_colors"):
            return super().indices(record, picture)
        return indices_of_colors(to_rgb(picture), self.classes)

    def listing(self) -> Listing:
        whole = Listing()
        for split, entry in self.description["splits"].items():
            images = self.source / entry["images"]
            labels = self.source / entry["labels"] if "labels" in entry else None
            paired = pair_files(str(split), images, labels, described_suffixes(self.description))
            if "names" in entry and paired.records:
                folders = [images] if labels is None else [images, labels]
                names = self.source / entry["names"]
                paired = select(paired, str(split), names, self.source, folders)
            whole.add(paired)
        return whole

    @property
    def image_reading(self) -> ImageReading:
        return described_reading(self.description)

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = __doc__

    @property
    def version(self) -> str:
        return f"{self.name} 2 {(self.source / DESCRIPTION).read_text(encoding='utf-8')}"


def _check_keys(path: Path, name: str, content: object, keys: tuple[str, ...]) -> None:
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: {name} must be a mapping of {', '.join(keys)}")
    for key in content:
        if key not in keys:
            raise DatasetError(f"{path}: unknown key {key!r} in {name}; known: {', '.join(keys)}")


def _is_stored_value(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= LARGEST_VALUE


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    )

r"""Your own folders of images and label PNGs, described by a YAML file, `dataset.yaml`:

name: orchard
classes:                    # in the order of their indices
  ground: [110, 80, 60]     # red, green, blue of the class in figures
  tree: [40, 120, 40]
values: {1: ground, 2: tree}        # stored value: class; default: the class index
ignore: [0, 255]            # stored values that are ignored; default: 255
label_colors: false         # true: labels are RGB images in the colors above; then `values` and
                            # `ignore` are not allowed, and a class may have a list of colors
# ignore_colors: [[0, 0, 0]]        # with label_colors, colors that are ignored; default: black,
                            # unless it is the color of a class
splits:
  train: {images: images/train, labels: labels/train}
  val: {images: images/val, labels: labels/val, names: val.txt}
  test: {images: images/test}       # without labels
# label_suffix: _mask       # labels are named like their images with `_mask` added; also
#                           # `image_suffix`; with an extension (.png), only files that have it
# group: '(patient\d+)_.*'  # regular expression, matched from the start of a sample's path below
#                           # `images` without extension; what is in parentheses (the whole match
#                           # without them) is the sample's group, which folds do not divide
# scale: [0, 4095]          # stored values that become black and white, for images of 16 bits or
#                           # of floating-point numbers
# bits: 16                  # keep all 16 bits; `scale` is then what networks receive as 0 and 1,
#                           # by default a range that clips no value
# bands: [1, 2, 3, 4]       # the bands to keep; default: red, green and blue
# rgb: [4, 3, 2]            # the bands that are drawn in red, green and blue; default: the first
# normalization: dataset    # of a network's input: with the mean and standard deviation of the
#                           # images of split `train`; or {mean: [...], std: [...]}, or imagenet;
#                           # default: imagenet for 8-bit RGB, otherwise dataset
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
from pipelines.data.manifest import DESCRIPTION_NAME, ClassInfo, DatasetError
from pipelines.preparation.images.reading import ImageReading
from pipelines.preparation.labels.advice import FOLDER_ADVICE, LabelAdvice
from pipelines.preparation.labels.colors import check_opaque, indices_of_colors
from pipelines.preparation.readers.folder_groups import check_group, shared_group_notes, with_groups
from pipelines.preparation.readers.folder_images import (
    IMAGE_KEYS,
    check_image_keys,
    described_reading,
    described_suffixes,
)
from pipelines.preparation.readers.folder_labels import (
    check_classes,
    check_label_values,
    class_of_colors,
    class_of_values,
    described_classes,
    is_name,
)
from pipelines.preparation.readers.pairing import pair_files, select_listed
from pipelines.preparation.readers.reader import Listing, Reader, Record

KEYS = (
    *("name", "classes", "values", "ignore", "label_colors", "ignore_colors", "splits", "group"),
)
SPLIT_KEYS = ("images", "labels", "names")
# Split names become parts of file names, and `train+val` joins two splits.
SPLIT_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Folder(Reader):
    """Images and labels with equal names, in the folders that SOURCE/dataset.yaml lists."""

    unclear_exif = None
    help = f"your own images and label PNGs, described by SOURCE/{DESCRIPTION_NAME}"
    name = "folder"

    @cached_property
    def description(self) -> dict[str, Any]:
        """The validated content of the YAML file."""
        path = self.source / DESCRIPTION_NAME
        try:
            # Unlike PyYAML's own loader, this one reads a class named `on` or `no` as a string.
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=CoreLoader)
        except OSError as error:
            raise DatasetError(
                f"{path}: {error.strerror}; create this description of the folders as "
                "`orchestrator prepare folder --help` shows"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: invalid YAML: {error}") from error
        _check_keys(path, "the file", content, (*KEYS, *IMAGE_KEYS))
        if "classes" not in content and "splits" not in content:
            raise DatasetError(
                f"{path} has neither `classes` nor `splits`; `orchestrator prepare folder --help` "
                "shows both"
            )
        _check_name(path, content)
        check_image_keys(path, content)
        check_classes(path, content)
        splits = content.get("splits")
        if not isinstance(splits, dict) or not splits:
            raise DatasetError(f"{path}: splits must map names to {{images: DIR, labels: DIR}}")
        for name, split in splits.items():
            if list(map(str, splits)).count(str(name)) > 1:
                raise DatasetError(
                    f"{path}: splits has {name!r} as a number and as text; rename one of them"
                )
            if not (is_name(name) and SPLIT_NAME.fullmatch(str(name))):
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
        check_label_values(path, content)
        check_group(path, content)
        return dict(content)

    @property
    def title(self) -> str:
        return str(self.description.get("name", self.source.name))

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return described_classes(self.description)

    def values(self, record: Record) -> Mapping[int, int]:
        return class_of_values(self.description)

    def indices(self, record: Record, label_image: Image.Image) -> NDArray[np.uint16]:
        if not self.reads_colors:
            return super().indices(record, label_image)
        indices = indices_of_colors(to_rgb(label_image), class_of_colors(self.description))
        check_opaque(label_image, indices, self.classes)
        return indices

    def listing(self) -> Listing:
        whole = Listing()
        for split, entry in self.description["splits"].items():
            images = self.source / entry["images"]
            labels = self.source / entry["labels"] if "labels" in entry else None
            paired = pair_files(str(split), images, labels, described_suffixes(self.description))
            if "names" in entry and paired.records:
                folders = [images] if labels is None else [images, labels]
                names = self.source / entry["names"]
                paired = select_listed(paired, str(split), names, self.source, folders)
            if self.states_groups:
                paired = with_groups(paired, str(split), self.description["group"])
            whole.add(paired)
        if self.states_groups:
            whole.notes += shared_group_notes(whole.records)
        return whole

    @property
    def label_advice(self) -> LabelAdvice:
        return FOLDER_ADVICE  # also of a subclass, which reads the description, too

    @property
    def reads_colors(self) -> bool:
        return bool(self.description.get("label_colors"))

    @property
    def states_ignored(self) -> bool:
        return "ignore" in self.description

    @property
    def states_groups(self) -> bool:
        return "group" in self.description

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
        return f"{self.name} 3 {(self.source / DESCRIPTION_NAME).read_text(encoding='utf-8')}"


def _check_name(path: Path, content: Mapping[str, Any]) -> None:
    name = content.get("name", "default")
    text = str(name)  # becomes a part of file names
    if not (is_name(name) and text.strip() and text.isprintable() and "/" not in text):
        raise DatasetError(
            f"{path}: name must be text without a slash, received {name!r}; leave it out to use "
            "the folder's name"
        )


def _check_keys(path: Path, name: str, content: object, keys: tuple[str, ...]) -> None:
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: {name} must be a mapping of {', '.join(keys)}")
    for key in content:
        if key not in keys:
            raise DatasetError(f"{path}: unknown key {key!r} in {name}; known: {', '.join(keys)}")

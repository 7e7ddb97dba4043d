"""Anybody's folders of images and label PNGs, described by a small YAML file, `dataset.yaml`.

name: orchard
classes:                    # in the order of their indices
  ground: [110, 80, 60]     # the colour it is drawn in
  tree: [40, 120, 40]
values: {1: ground, 2: tree}        # stored value: class; default: the index itself
ignore: [0, 255]            # stored values that are ignored; default: 255
label_colors: false         # true: labels are RGB pictures in the colours above, black is
                            # ignored; then without `values` and `ignore`
splits:
  train: {images: images/train, labels: labels/train}
  val: {images: images/val, labels: labels/val, names: val.txt}
  test: {images: images/test}       # without labels
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
from pipelines.preparation.labels import IGNORE, indices_of_colors
from pipelines.preparation.readers.reader import Listing, Reader, Record, pair_files

DESCRIPTION = "dataset.yaml"
KEYS = ("name", "classes", "values", "ignore", "label_colors", "splits")
SPLIT_KEYS = ("images", "labels", "names")
MOST = 65535
# Split names are parts of file names, and `+` joins two of them.
SPLIT_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Folder(Reader):
    """Images and labels with the same names, in folders that `dataset.yaml` in the source names."""

    help = f"your own images and label PNGs, described by SOURCE/{DESCRIPTION}"
    name = "folder"

    @cached_property
    def description(self) -> dict[str, Any]:
        """The YAML file, checked."""
        path = self.source / DESCRIPTION
        try:
            # A class called `on` or `no` is one; a plain PyYAML takes it for a truth value.
            found = yaml.load(path.read_text(encoding="utf-8"), Loader=CoreLoader)
        except OSError as error:
            raise DatasetError(
                f"{path}: {error.strerror}; it describes the folders, as "
                "`python -m pipelines.prepare folder --help` shows"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: no valid YAML: {error}") from error
        _check_keys(path, "the file", found, KEYS)
        classes, splits = found.get("classes"), found.get("splits")
        if not isinstance(classes, dict) or not 1 <= len(classes) <= IGNORE:
            raise DatasetError(
                f"{path}: classes must map 1 to {IGNORE} names to [red, green, blue]"
            )
        for name, value in classes.items():
            if not _is_color(value):
                raise DatasetError(
                    f"{path}: classes.{name} must be [red, green, blue], 0-255 each, got {value!r}"
                )
        if not isinstance(splits, dict) or not splits:
            raise DatasetError(f"{path}: splits must map names to {{images: DIR, labels: DIR}}")
        for name, split in splits.items():
            if not SPLIT_NAME.fullmatch(str(name)):
                raise DatasetError(
                    f"{path}: splits.{name}: a split is named by letters, digits, _, - and ."
                )
            _check_keys(path, f"splits.{name}", split, SPLIT_KEYS)
            if "images" not in split:
                raise DatasetError(f"{path}: splits.{name} lacks `images`, a folder")
            for key, value in split.items():
                if not isinstance(value, str):
                    raise DatasetError(
                        f"{path}: splits.{name}.{key} must be a path, got {value!r}; "
                        "leave it out where there is none"
                    )
        colors = found.get("label_colors", False)
        if not isinstance(colors, bool):
            raise DatasetError(f"{path}: label_colors must be true or false, got {colors!r}")
        for key in ("values", "ignore"):
            if colors and key in found:
                raise DatasetError(
                    f"{path}: {key} means nothing with label_colors: true, where a colour is a "
                    "class's, or black and ignored; leave it out"
                )
        values = found.get("values", {})
        if not isinstance(values, dict):
            raise DatasetError(f"{path}: values must map stored values to classes, got {values!r}")
        for value, name in values.items():
            if name not in classes or not isinstance(value, int) or not 0 <= value <= MOST:
                raise DatasetError(
                    f"{path}: values.{value} must map a stored value to one of {list(classes)}"
                )
        ignored = found.get("ignore", IGNORE)
        for value in ignored if isinstance(ignored, list) else [ignored]:
            if not isinstance(value, int) or not 0 <= value <= MOST:
                raise DatasetError(f"{path}: ignore must be stored values, got {ignored!r}")
        return dict(found)

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
            known = {index: index for index in range(len(names))}
        else:
            known = {value: names.index(name) for value, name in stored.items()}
        ignored = self.description.get("ignore")
        if ignored is None:
            return {IGNORE: IGNORE, **known}
        return {
            **known,
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
            found = pair_files(str(split), images, labels)
            if "names" in entry and found.records:
                found = _chosen(found, str(split), self.source / entry["names"])
            whole.add(found)
        return whole

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = __doc__

    @property
    def version(self) -> str:
        return f"{super().version} {(self.source / DESCRIPTION).read_text(encoding='utf-8')}"


def _check_keys(path: Path, where: str, found: object, known: tuple[str, ...]) -> None:
    if not isinstance(found, dict):
        raise DatasetError(f"{path}: {where} must be a mapping of {', '.join(known)}")
    for key in found:
        if key not in known:
            raise DatasetError(f"{path}: unknown key {key!r} in {where}; known: {', '.join(known)}")


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    )


def _chosen(found: Listing, split: str, names: Path) -> Listing:
    """The records that a list names, in its order: a name a line, with or without its ending."""
    by_name = {record.identifier: record for record in found.records}
    chosen = Listing(problems=list(found.problems))
    try:
        lines = names.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        chosen.problems.append(f"{split}: {names}: cannot be read as a list of names ({error})")
        return chosen
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        record = by_name.get(name) or by_name.get(name.rpartition(".")[0])
        if record is not None:
            chosen.records.append(record)
        elif name:
            chosen.problems.append(f"{split}: {names}:{number}: no image or label named {name!r}")
    if not chosen.records and not chosen.problems:
        chosen.problems.append(f"{split}: {names}: lists no samples")
    return chosen

"""Mapillary Vistas v1.2 and v2.0, as published.

Neuhold, Ollmann, Rota Bulò and Kontschieder, "The Mapillary Vistas dataset for semantic
understanding of street scenes", ICCV 2017. Classes, colors and which of them are evaluated are read
from the data set's own config file, in which the position of a label is its value.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Self

from pipelines.data.manifest import ClassInfo, DatasetError, name_problem
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.readers.pairing import pair_files
from pipelines.preparation.readers.reader import Listing, Reader, Record

SPLITS = {"training": "train", "validation": "val", "testing": "test"}
# Version, config file and label folder of a split; archives of v1.2 alone have the second form.
FORMS = (
    ("v1.2", "config_v1.2.json", "v1.2/labels"),
    ("v1.2", "config.json", "labels"),
    ("v2.0", "config_v2.0.json", "v2.0/labels"),
)


@dataclass(frozen=True)
class Mapillary(Reader):
    """The evaluated classes of the config file; the other label values are ignored.

    labels: version of the labels, `v1.2` or `v2.0`; None for v1.2 where it exists. The test split
    has no public labels and is prepared without.
    """

    labels: str | None = None

    name = "mapillary"
    help = (
        "Mapillary Vistas (training/, validation/, testing/: images/ and v1.2/labels/, labels/ or "
        "v2.0/labels/; config_v1.2.json, config.json or config_v2.0.json)"
    )

    @cached_property
    def _forms(self) -> list[tuple[str, str, str]]:
        """The forms of labels that the source has."""
        return [
            (version, config, folder)
            for version, config, folder in FORMS
            if (self.source / config).is_file()
            and any((self.source / split / folder).is_dir() for split in SPLITS)
        ]

    @cached_property
    def _form(self) -> tuple[str, str, str]:
        for form in self._forms:
            if self.labels in (None, form[0]):
                return form
        layouts = [
            f"{config} and training/{folder}/*.png"
            for version, config, folder in FORMS
            if self.labels in (None, version)
        ]
        raise DatasetError(
            f"{self.source}: not Mapillary Vistas{f' {self.labels}' if self.labels else ''}; "
            f"expected training/images/*.jpg with {', or '.join(layouts)}"
        )

    @cached_property
    def _config(self) -> list[tuple[ClassInfo, bool]]:
        """The class of each label value, and whether it is evaluated."""
        path = self.source / self._form[1]
        try:
            labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
            readable = [str(label["readable"]) for label in labels if label["evaluate"]]
            key = "readable" if name_problem(readable) is None else "name"
            config = []
            for label in labels:
                red, green, blue = bytes(label["color"])  # raises ValueError beyond 0 to 255
                entry = ClassInfo(str(label[key]), (red, green, blue))
                config.append((entry, bool(label["evaluate"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path}: is not a config file of Mapillary Vistas ({error!r}); take the file from "
                "the data set's archive"
            ) from error
        return config

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(entry for entry, evaluated in self._config if evaluated)

    def values(self, record: Record) -> Mapping[int, int]:
        indices = count()
        return {
            value: next(indices) if evaluated else IGNORE
            for value, (_, evaluated) in enumerate(self._config)
        }

    def listing(self) -> Listing:
        version, config, folder = self._form
        whole = Listing(notes=[f"labels are those of {version}, with the classes of {config}"])
        for name, split in SPLITS.items():
            root = self.source / name
            if root.is_dir():
                labels = None if split == "test" else root / folder
                whole.add(pair_files(split, root / "images", labels))
        return whole

    @property
    def version(self) -> str:
        return f"{super().version} labels={self._form[0]}"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--labels",
            choices=tuple(dict.fromkeys(version for version, _, _ in FORMS)),
            help="version of the labels (default: v1.2, or v2.0 if the source has no other)",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(source=arguments.source, labels=arguments.labels)

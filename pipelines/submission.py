"""Encodes and packs label maps in the formats that benchmarks' test servers accept."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from pipelines.data.files import atomic_file
from pipelines.errors import UserError
from pipelines.preparation.readers import ade20k, cityscapes


class SubmissionError(UserError, ValueError):
    """Predictions that a server would refuse; the message says why."""


@dataclass(frozen=True)
class SubmissionFormat:
    """The format of one benchmark's test server.

    classes: the classes that a model must predict, in order. values: uint8 `(classes,)`, the
    server's value of each class. image_name: matches the part of a file's name by which the server
    identifies the image. example: a file name that matches.
    """

    name: str
    classes: tuple[str, ...]
    values: NDArray[np.uint8]
    image_name: re.Pattern[str]
    example: str

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise SubmissionError unless a model's `classes` are those of the benchmark."""
        if len(classes) != len(self.classes):
            raise SubmissionError(
                f"{self.name} has {len(self.classes)} classes, but the model predicts "
                f"{len(classes)}"
            )
        for index, (own, wanted) in enumerate(zip(classes, self.classes, strict=True)):
            if own != wanted:
                raise SubmissionError(
                    f"{self.name}: class {index} must be {wanted!r}, but the model's is {own!r}"
                )

    def check_names(self, paths: Sequence[PurePath]) -> None:
        """Raise SubmissionError if a name does not identify an image, or two identify the same."""
        seen: dict[str, PurePath] = {}
        for path in paths:
            match = self.image_name.match(path.name)
            if match is None:
                raise SubmissionError(
                    f"{path} is not named like an image of {self.name}, such as {self.example}"
                )
            other = seen.setdefault(match.group(), path)
            if other != path:
                raise SubmissionError(
                    f"{path} and {other} are the same image of {self.name}; remove one of them"
                )

    def encode(self, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert class indices, uint8 `(height, width)`, to the server's values."""
        return self.values[prediction]


SUBMISSIONS: Mapping[str, SubmissionFormat] = {
    "cityscapes": SubmissionFormat(
        "cityscapes",
        tuple(name for _, name, _ in cityscapes.CLASSES),
        np.array([label_id for label_id, _, _ in cityscapes.CLASSES], np.uint8),
        re.compile(r"[A-Za-z-]+_\d{6}_\d{6}(?!\d)"),
        "berlin_000000_000019_leftImg8bit.png",
    ),
    # 0 means "other", which models do not predict.
    "ade20k": SubmissionFormat(
        "ade20k",
        tuple(name for name, _ in ade20k.CLASSES),
        np.arange(1, len(ade20k.CLASSES) + 1, dtype=np.uint8),
        re.compile(r"ADE_[a-z]+_\d{8}(?!\d)"),
        "ADE_test_00000001.jpg",
    ),
}


def pack(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip archive for a test server, atomically. Equal files give an equal archive.

    files: PNG files by the identifiers of their images.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(path, sync=False) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for identifier, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(f"{PurePath(identifier).name}.png"), data)

"""Label maps as the benchmarks' servers want them."""

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
class Submission:
    """The form of one benchmark.

    classes: the model's, in order; values: uint8 `(classes,)`, what the server calls them.
    frame: how a file's name must begin, by which the server finds the picture; example: of one.
    """

    name: str
    classes: tuple[str, ...]
    values: NDArray[np.uint8]
    frame: re.Pattern[str]
    example: str

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises SubmissionError where a model's `classes` are not the benchmark's."""
        if len(classes) != len(self.classes):
            raise SubmissionError(
                f"{self.name} wants {len(self.classes)} classes, and the model predicts "
                f"{len(classes)}"
            )
        for index, (own, wanted) in enumerate(zip(classes, self.classes, strict=True)):
            if own != wanted:
                raise SubmissionError(
                    f"{self.name}: class {index} must be {wanted!r}, and the model's is {own!r}"
                )

    def check_names(self, paths: Sequence[PurePath]) -> None:
        """Raises SubmissionError where the server would not know a picture, or find one twice."""
        seen: dict[str, PurePath] = {}
        for path in paths:
            found = self.frame.match(path.name)
            if found is None:
                raise SubmissionError(
                    f"{path}: {self.name} knows its pictures by names such as {self.example}"
                )
            other = seen.setdefault(found.group(), path)
            if other != path:
                raise SubmissionError(f"{path} and {other} are the same picture of {self.name}")

    def encode(self, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class indices, uint8 `(height, width)`, as the server's values."""
        return self.values[prediction]


SUBMISSIONS: Mapping[str, Submission] = {
    "cityscapes": Submission(
        "cityscapes",
        tuple(name for _, name, _ in cityscapes.CLASSES),
        np.array([label_id for label_id, _, _ in cityscapes.CLASSES], np.uint8),
        re.compile(r"[A-Za-z-]+_\d{6}_\d{6}(?!\d)"),
        "berlin_000000_000019_leftImg8bit.png",
    ),
    # 0 is "other", which no class of the model is.
    "ade20k": Submission(
        "ade20k",
        tuple(name for name, _ in ade20k.CLASSES),
        np.arange(1, len(ade20k.CLASSES) + 1, dtype=np.uint8),
        re.compile(r"ADE_[a-z]+_\d{8}(?!\d)"),
        "ADE_test_00000001.jpg",
    ),
}


def pack(path: Path, files: Mapping[str, bytes]) -> None:
    """Write PNG files, by the identifiers of their images, to a zip archive for a server.

    The archive is written atomically. Equal files give an equal archive.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(path, sync=False) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for identifier, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(f"{PurePath(identifier).name}.png"), data)

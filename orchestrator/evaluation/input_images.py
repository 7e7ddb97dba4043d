"""Finds the input images of `orchestrator.predict`, and the path of each image's result."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from orchestrator.console import InputError
from pipelines.preparation.images.files import broken_link, is_text, not_text, search


@dataclass(frozen=True)
class InputImage:
    """An input image. relative_path: its path below the folder that the user gave."""

    path: Path
    relative_path: PurePath

    def result(self, out: Path, suffix: str = ".png") -> Path:
        """Return the path of a result in `out`; `suffix` replaces the image's own."""
        return out / self.relative_path.with_suffix(suffix)


@dataclass(frozen=True)
class FoundImages:
    """Input images, in order and without duplicates.

    problems: one sentence for each link, folder or name that cannot be read. notes: one for each
    kind of files left out.
    """

    images: list[InputImage]
    problems: list[str]
    notes: list[str]


def find_images(inputs: Sequence[str], out: Path) -> FoundImages:
    """Return all images that the files, folders and glob patterns `inputs` refer to. Two links to
    one file are two images, unless their results would have the same path.

    In folders, links are followed, hidden files are left out, and so are files without a known
    extension; a file given by name is always read. Skips files in `out`, unless `out` is itself an
    input.

    Raises InputError if an input is empty or does not exist, or if two results would have the same
    path.
    """
    images: list[InputImage] = []
    seen: set[Path | tuple[Path, Path]] = set()
    problems: list[str] = []
    notes: list[str] = []
    for text in inputs:
        found = _expand(text, out)
        for image in found.images:
            name = Path(os.path.abspath(image.path))
            content = image.path.resolve(), image.result(out)
            if seen.isdisjoint((name, content)):
                images.append(image)
            seen |= {name, content}
        problems += found.problems
        notes += found.notes
    _check_results(images, out)
    return FoundImages(images, problems, notes)


def _expand(text: str, out: Path) -> FoundImages:
    if not text:  # such as "$FOLDER" of a shell where it is not set
        raise InputError("an input is empty; name a file, a folder or a pattern")
    if not is_text(text):
        raise InputError(not_text(text))
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no such user; write the whole path") from None
    if path.is_dir():
        content = search(path)
        notes = [f"{text}: {note}" for note in content.notes()]
        images = [
            InputImage(file, file.relative_to(path))
            for file in content.images
            if not _in_out(file, path, out)
        ]
        if not images:
            reasons = "; ".join([*content.problems, *content.notes()])
            raise InputError(
                f"{text}: no images in this folder" + (f"; {reasons}" if reasons else "")
            )
        return FoundImages(images, content.problems, notes)
    if path.exists():
        return FoundImages([InputImage(path, PurePath(path.name))], [], [])
    if path.is_symlink():
        raise InputError(broken_link(path))
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder")
    root = Path(path.parts[0] if path.is_absolute() else "")
    for part in path.parts[path.is_absolute() : -1]:
        if glob.has_magic(part):
            break
        root /= part
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    problems = [broken_link(file) for file in matches if not file.exists()]
    problems += [not_text(file) for file in matches if not is_text(str(file))]
    files = [
        file
        for file in matches
        if file.is_file() and is_text(str(file)) and not _in_out(file, root, out)
    ]
    if not files:
        raise InputError("; ".join([f"{text}: matches no file", *problems]))
    return FoundImages([InputImage(file, file.relative_to(root)) for file in files], problems, [])


def _in_out(file: Path, root: Path, out: Path) -> bool:
    """Whether `file` is a result of an earlier run: in an `out` inside the input folder `root`."""
    target = out.resolve()
    return target != root.resolve() and target in file.resolve().parents


def _check_results(images: Sequence[InputImage], out: Path) -> None:
    inputs = {image.path.resolve() for image in images}
    owners: dict[Path, InputImage] = {}
    for image in images:
        for suffix in (".png", ".overlay.jpg"):
            result = image.result(out, suffix)
            if result.resolve() in inputs:
                raise InputError(
                    f"{result} is an input and would be overwritten; choose another --out"
                )
            other = owners.setdefault(result, image)
            if other is not image:
                raise InputError(
                    f"{image.path} and {other.path} would both be written to {result}; predict "
                    "them in two runs"
                )

"""Finds the input images of `orchestrator.predict`, and the path of each image's result."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from orchestrator.console import InputError

# In folders, only files with these suffixes count as images; files given by name are always read.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class InputImage:
    """An input image. relative_path: its path below the folder that the user gave."""

    path: Path
    relative_path: PurePath

    def result(self, out: Path, suffix: str = ".png") -> Path:
        """Return the path of a result in `out`; `suffix` replaces the image's own."""
        return out / self.relative_path.with_suffix(suffix)


def find_images(inputs: Sequence[str], out: Path) -> list[InputImage]:
    """Return all images that the files, folders and glob patterns `inputs` refer to, in order and
    without duplicates. Skips files in `out`, unless `out` is itself an input.

    Raises InputError if an input does not exist, or if two results would have the same path.
    """
    by_path: dict[Path, InputImage] = {}
    for text in inputs:
        for image in _expand(text, out):
            by_path.setdefault(image.path.resolve(), image)
    images = list(by_path.values())
    _check_results(images, out)
    return images


def _expand(text: str, out: Path) -> Iterable[InputImage]:
    path = Path(text).expanduser()
    if path.is_dir():
        images = [
            InputImage(file, file.relative_to(path))
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.is_file() and not _in_out(file, path, out)
        ]
        if not images:
            raise InputError(f"{text}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        return images
    if path.exists():
        return [InputImage(path, PurePath(path.name))]
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder")
    root = Path(path.parts[0] if path.is_absolute() else "")
    for part in path.parts[path.is_absolute() : -1]:
        if glob.has_magic(part):
            break
        root /= part
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [file for file in matches if file.is_file() and not _in_out(file, root, out)]
    if not files:
        raise InputError(f"{text}: matches no file")
    return [InputImage(file, file.relative_to(root)) for file in files]


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

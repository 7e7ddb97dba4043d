"""The pictures a user names: files, folders and patterns, and where each one's result goes."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from orchestrator.console import InputError

# In a folder, only files with these endings are pictures; a file named itself is always tried.
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Picture:
    """One input. place: its name with the folders below the one that the user named."""

    path: Path
    place: PurePath

    def result(self, out: Path, ending: str = ".png") -> Path:
        """Where in `out` a result of it goes; `ending` takes the place of its own."""
        return out / self.place.with_suffix(ending)


def find_pictures(named: Sequence[str], out: Path) -> list[Picture]:
    """All pictures that `named` stands for, in order, each once; nothing that lies in `out`, unless
    `out` is a folder that was named itself.

    Raises InputError where something named is not there, or two results would have one name.
    """
    found: dict[Path, Picture] = {}
    for text in named:
        for picture in _expanded(text, out):
            found.setdefault(picture.path.resolve(), picture)
    pictures = list(found.values())
    _check_results(pictures, out)
    return pictures


def _expanded(text: str, out: Path) -> Iterable[Picture]:
    path = Path(text).expanduser()
    if path.is_dir():
        pictures = [
            Picture(file, file.relative_to(path))
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in ENDINGS and file.is_file() and not _earlier(file, path, out)
        ]
        if not pictures:
            raise InputError(f"{text}: no pictures in this folder ({', '.join(sorted(ENDINGS))})")
        return pictures
    if path.exists():
        return [Picture(path, PurePath(path.name))]
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder")
    fixed = Path(path.parts[0] if path.is_absolute() else "")
    for part in path.parts[path.is_absolute() : -1]:
        if glob.has_magic(part):
            break
        fixed /= part
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [file for file in matches if file.is_file() and not _earlier(file, fixed, out)]
    if not files:
        raise InputError(f"{text}: matches no file")
    return [Picture(file, file.relative_to(fixed)) for file in files]


def _earlier(file: Path, root: Path, out: Path) -> bool:
    """Whether `file` is a result of an earlier run, in an `out` within the folder that is read."""
    target = out.resolve()
    return target != root.resolve() and target in file.resolve().parents


def _check_results(pictures: Sequence[Picture], out: Path) -> None:
    inputs = {picture.path.resolve() for picture in pictures}
    owners: dict[Path, Picture] = {}
    for picture in pictures:
        for ending in (".png", ".overlay.jpg"):
            result = picture.result(out, ending)
            if result.resolve() in inputs:
                raise InputError(
                    f"{result}: is an input and would be overwritten; choose another --out"
                )
            other = owners.setdefault(result, picture)
            if other is not picture:
                raise InputError(
                    f"{picture.path} and {other.path} would both be written to {result}; predict "
                    "them in two runs"
                )

"""Find the image files below a folder, and read lists of file names."""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# Extensions of the formats that are read; TIFF files in particular may still have another content.
IMAGE_EXTENSIONS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
        *(".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    )
)
# Files of Windows that its file manager hides, and folders of network storage (Synology, QNAP) with
# thumbnails and deleted files.
_HIDDEN = ("Thumbs.db", "desktop.ini", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN")


@dataclass
class FolderContent:
    """What `search` found below a folder.

    images: files with a known extension, sorted.
    problems: one sentence for each broken link and each folder that cannot be read.
    other_extensions: number of files with each other extension; "" for files without one.
    loops: links to a folder that contains them; they are not followed.
    """

    images: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    other_extensions: Counter[str] = field(default_factory=Counter)
    loops: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return one sentence for each kind of file that was left out."""
        notes = [f"{link}: links to a folder that contains it; not followed" for link in self.loops]
        if self.other_extensions:
            total, single = self.other_extensions.total(), len(self.other_extensions) == 1
            listed = ", ".join(
                (extension or "no extension") + ("" if single else f" {count}")
                for extension, count in self.other_extensions.most_common(6)
            )
            more = ", ..." if len(self.other_extensions) > 6 else ""
            what = "1 file with an unknown extension"
            if total > 1:
                what = f"{total} files with unknown extensions"
            notes.append(f"{what} ({listed}{more})")
        return notes


def search(folder: Path) -> FolderContent:
    """Find the images below a folder; links to files and folders are followed.

    Hidden files and folders are left out: names that start with a dot, as macOS metadata files
    (`._name.png`) and editors' caches do, `Thumbs.db`, and the folders of network storage for
    thumbnails and deleted files (`@eaDir`). A name that is not UTF-8 is a problem.
    """
    content = FolderContent()
    if not is_text(str(folder)):
        content.problems.append(not_text(folder))
        return content
    _search(folder, (), content)
    content.images.sort()
    return content


def _search(folder: Path, parents: tuple[tuple[int, int], ...], content: FolderContent) -> None:
    """Add a folder's files to `content`; `parents` identifies the folders above it."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        content.problems.append(f"{folder}: cannot be read ({error.strerror})")
        return
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        content.loops.append(folder)
        return
    for entry in entries:
        path = folder / entry.name
        if is_hidden(entry.name):
            continue
        if not is_text(entry.name):
            content.problems.append(not_text(path))
        elif entry.is_dir():
            _search(path, (*parents, identity), content)
        elif entry.is_symlink() and not path.exists():
            content.problems.append(broken_link(path))
        elif not entry.is_file():
            content.problems.append(f"{path}: is not a regular file; remove it")
        elif path.suffix.lower() in IMAGE_EXTENSIONS:
            content.images.append(path)
        else:
            content.other_extensions[path.suffix.lower()] += 1


def is_hidden(name: str) -> bool:
    """Whether the system's file manager hides a file or folder of this name."""
    return name.startswith(".") or name in _HIDDEN


def visible(path: Path, root: Path) -> bool:
    """Whether `search` reads a path below `root`: no part of it is hidden or not UTF-8."""
    return is_text(str(path)) and not any(map(is_hidden, path.relative_to(root).parts))


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8. Archives made on Windows may hold other encodings."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_text(path: Path | str) -> str:
    """Return a sentence about a path that is not UTF-8, with its other bytes escaped."""
    shown = os.fsencode(path).decode(errors="backslashreplace")
    return (
        f"{shown}: its name is not UTF-8; rename it, such as with `convmv -f cp1252 -t utf-8 "
        "--notest`, with the encoding of the system that it comes from"
    )


def broken_link(path: Path) -> str:
    """Return a sentence about a symbolic link without a target."""
    return f"{path}: links to {os.readlink(path)}, which does not exist"


def read_lines(path: Path) -> list[str]:
    """Read a list of file names: stripped lines with `/` between folders.

    Lists made on Windows may have a byte-order mark, UTF-16, backslashes and CRLF.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; the message says where.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        if utf16:
            raise ValueError("damaged UTF-16; save it as UTF-8") from None
        number = data.count(b"\n", 0, error.start) + 1
        line = data.split(b"\n")[number - 1].strip().decode(errors="backslashreplace")
        raise ValueError(f"line {number}, {line!r}, is not UTF-8; save it as UTF-8") from None
    return [line.strip().replace("\\", "/") for line in text.splitlines()]


def normalized(name: str) -> str:
    """Return a file name in the form in which names are compared: Unicode's NFC.

    macOS decomposes accented letters (NFD), so that equal names may differ in their bytes.
    """
    return unicodedata.normalize("NFC", name)

"""Files that are written whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

PARTIAL = ".partial"


def write_text(path: Path, text: str) -> None:
    """Write or replace a file, whole or not at all."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    sync_to_disk([partial])
    os.replace(partial, path)


def sync_to_disk(paths: Iterable[Path]) -> None:
    """Wait until files, or the entries of directories, would survive a loss of power."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

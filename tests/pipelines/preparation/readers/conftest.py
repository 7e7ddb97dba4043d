"""The modules of a reader of the user's own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.own_reader import CLASSES, READER


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with a reader, in a folder that is searched for modules."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own_classes.py").write_text(CLASSES)
    (folder / "own_drives.py").write_text(READER)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder / "own_drives.py"
    for name in {"own_drives", "own_classes", "other_base"} - before:
        sys.modules.pop(name, None)

"""Figures as they are before they are written."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list that receives each figure that the test draws; its file is empty."""
    drawn: list[Figure] = []

    def keep(figure: Figure, file: Path, **options: Any) -> None:
        drawn.append(figure)
        Path(file).touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn

"""Files of figures."""

import errno
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.manifest import ClassInfo
from pipelines.figures.layout import Layout, draw_labels, ignored_legend, save, shortened


def test_format_is_that_of_the_suffix(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.PNG", "b.pdf", "c.svg")]
    save(Figure(), paths)
    assert sorted(tmp_path.iterdir()) == paths
    with Image.open(paths[0]) as image:
        assert image.format == "PNG"
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert b"<svg" in paths[2].read_bytes()


def test_ignored_pixels_differ_from_a_black_class() -> None:
    classes = [ClassInfo("background", (0, 0, 0)), ClassInfo("damage", (220, 30, 30))]
    labels = np.zeros((40, 80), np.uint8)
    labels[:, 30:60], labels[:, 60:] = 1, IGNORE_INDEX
    drawn = draw_labels(labels, classes)
    assert (drawn[:, :30] == 0).all()
    assert (drawn[:, 30:60] == classes[1].color).all()
    gray = (drawn[:, 60:] == 200).all(axis=2)
    assert 0.4 < gray.mean() < 0.8
    assert (drawn[:, 60:][~gray] == 0).all()
    assert [entry.get_label() for entry in ignored_legend([labels])] == ["ignored"]
    assert ignored_legend([labels[:, :60]]) == []


def test_full_disk_keeps_the_earlier_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"earlier")

    def write_half(figure: Figure, file: Path, **options: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", write_half)
    with pytest.raises(OSError, match="No space left"):
        save(Figure(), [path])
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"earlier"]


def test_long_names_end_as_they_do() -> None:
    assert shortened("a" * 28) == "a" * 28
    assert shortened(f"folder/{'x' * 20}_000019") == f"…{'x' * 20}_000019"


def test_long_titles_of_columns_do_not_overlap() -> None:
    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    names = [
        "image",
        "efficientnet-lite0 + detail flow, learning rate 0.01",
        "training.learning_rate=0.001_" * 3,
        "labels",
    ]
    notes = ["", "mIoU 61.2", "mIoU 60.1", ""]
    axes = Layout(4, 1, 0.5, 0.1).arrange(figure, "title", names, notes, [])
    canvas.draw()
    boxes = [[text.get_window_extent() for text in axis.texts] for axis in axes[0]]
    for left, right in pairwise(boxes):
        assert max(box.x1 for box in left) <= min(box.x0 for box in right)
    titles = [box for line in boxes for box in line]
    (heading,) = (text.get_window_extent() for text in figure.texts)
    assert max(box.y1 for box in titles) <= heading.y0

"""Overlays of predictions, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import overlay_labels
from pipelines.figures.labeled_overlay import draw_overlay

CLASSES = [ClassInfo("road", (128, 64, 128)), ClassInfo("sky", (70, 130, 180))]
CLASSES += [ClassInfo("a very long name of a class", (0, 200, 0))]


def test_classes_are_separated_and_named_below_the_image() -> None:
    image = np.full((60, 300, 3), 100, np.uint8)
    labels = np.zeros((60, 300), np.uint8)
    labels[:, 100:] = 1
    drawn = draw_overlay(image, labels, CLASSES)
    blended = overlay_labels(image, labels, CLASSES)
    assert drawn.shape[1] == 300
    assert (drawn[:60, 99] == 255).all()
    for columns in (slice(0, 99), slice(100, None)):
        assert np.array_equal(drawn[:60, columns], blended[:, columns])
    legend = drawn[60:].reshape(-1, 3)
    has_color = [bool((legend == entry.color).all(axis=1).any()) for entry in CLASSES]
    assert has_color == [True, True, False]


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (900, 1000)])
def test_any_size_has_room_for_the_legend(size: tuple[int, int]) -> None:
    labels = (np.arange(size[0] * size[1]) % 3).astype(np.uint8).reshape(size)
    drawn = draw_overlay(np.zeros((*size, 3), np.uint8), labels, CLASSES)
    assert drawn.shape[0] > size[0]
    assert drawn.shape[1] >= size[1]
    occurring = [entry for index, entry in enumerate(CLASSES) if index in labels]
    legend = drawn[size[0] :].reshape(-1, 3)
    assert all((legend == entry.color).all(axis=1).any() for entry in occurring)

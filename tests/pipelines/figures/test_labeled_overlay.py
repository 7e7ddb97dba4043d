"""Overlays of predictions, pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import overlay_labels
from pipelines.figures.labeled_overlay import draw_overlay

CLASSES = [ClassInfo("road", (128, 64, 128)), ClassInfo("sky", (70, 130, 180))]
CLASSES += [ClassInfo("a very long name of a class", (0, 200, 0))]


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ((slice(None), slice(100)), (slice(None), 99)),
        ((slice(20), slice(None)), (19, slice(None))),
    ],
)
def test_classes_are_separated_and_named_below_the_image(first: Any, line: Any) -> None:
    image = np.full((60, 300, 3), 100, np.uint8)
    labels = np.ones((60, 300), np.uint8)
    labels[first] = 0
    drawn = draw_overlay(image, labels, CLASSES)
    expected = overlay_labels(image, labels, CLASSES)
    expected[line] = 255
    assert drawn.shape[1] == 300
    assert np.array_equal(drawn[:60], expected)
    legend = drawn[60:].reshape(-1, 3)
    has_color = [(legend == entry.color).all(axis=1) for entry in CLASSES]
    assert [bool(each.any()) for each in has_color] == [True, True, False]
    assert has_color[1].argmax() < has_color[0].argmax()  # the largest first


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (900, 1000)])
def test_any_size_has_room_for_the_legend(size: tuple[int, int]) -> None:
    labels = (np.arange(size[0] * size[1]) % 3).astype(np.uint8).reshape(size)
    drawn = draw_overlay(np.zeros((*size, 3), np.uint8), labels, CLASSES)
    assert drawn.shape[0] > size[0]
    assert drawn.shape[1] >= size[1]
    occurring = [entry for index, entry in enumerate(CLASSES) if index in labels]
    legend = drawn[size[0] :].reshape(-1, 3)
    assert all((legend == entry.color).all(axis=1).any() for entry in occurring)

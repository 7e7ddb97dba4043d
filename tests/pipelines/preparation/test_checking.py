"""Class centroids within tiles."""

from __future__ import annotations

import numpy as np

from pipelines.preparation.checking import centroids


def test_centroids_are_means_within_tiles() -> None:
    label = np.random.default_rng(0).choice([0, 2, 255], size=(25, 37)).astype(np.uint8)
    remaining = {(c.class_index, c.row // 16, c.column // 16): c for c in centroids(label, 16)}
    for top in range(0, 25, 16):
        for left in range(0, 37, 16):
            for index in (0, 2):
                rows, columns = np.nonzero(label[top : top + 16, left : left + 16] == index)
                centroid = remaining.pop((index, top // 16, left // 16))
                assert centroid.row == top + rows.sum() // len(rows)
                assert centroid.column == left + columns.sum() // len(columns)
    assert not remaining

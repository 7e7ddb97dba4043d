"""Pixel counts by image and class, and their file format."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation.counts import (
    ImageCounts,
    class_iou,
    mean_over_classes,
    read_counts,
    write_counts,
)


def test_counts_survive_a_round_trip(tmp_path: Path) -> None:
    values = torch.arange(12).reshape(2, 2, 3)
    images = ImageCounts(torch.tensor([0, 2]), values)
    path = tmp_path / "counts.arrow"
    write_counts(path, images, ["a", "b", "c"], ["road", "sky"], ["x", "y", None])
    counts = read_counts(path)
    assert (counts.identifiers, counts.groups) == (("a", "c"), ("x", None))
    assert counts.classes == ("road", "sky")
    assert (counts.values == values.numpy()).all()
    assert counts.image_miou[1] == pytest.approx((6 / 21 + 9 / 30) / 2)
    assert counts.miou == pytest.approx((6 / 24 + 12 / 42) / 2)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a file of counts by image and class"):
        read_counts(path)


SMALL_COUNTS = st.integers(0, 9)  # small, so that a class often has no pixels


@given(
    arrays(
        np.int64,
        st.tuples(st.integers(1, 4), st.integers(1, 12), st.just(3)),
        elements=SMALL_COUNTS,
    )
)
def test_iou_and_mean_match_a_naive_loop(counts: np.ndarray) -> None:
    iou = class_iou(counts)
    mean = mean_over_classes(iou)
    for image in range(len(counts)):
        total, present = 0.0, 0
        for index, (true, extra, missed) in enumerate(counts[image].tolist()):
            if true + extra + missed:
                assert iou[image, index] == true / (true + extra + missed)
                total += iou[image, index]
                present += 1
            else:
                assert math.isnan(iou[image, index]), "neither labeled nor predicted"
        # Bitwise equal: the order of summation is part of the contract.
        assert mean[image] == total / present if present else math.isnan(mean[image])

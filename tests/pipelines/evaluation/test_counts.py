"""Counts by image and class, as a file keeps them."""

from pathlib import Path

import pytest
import torch

from pipelines.evaluation.counts import read_counts, write_counts
from pipelines.evaluation.scores import ImageCounts, Scores


def test_counts_are_read_back(tmp_path: Path) -> None:
    values = torch.arange(12).reshape(2, 2, 3)
    scores = Scores(torch.zeros(2, 2), ImageCounts(torch.tensor([0, 2]), values))
    path = tmp_path / "counts.arrow"
    write_counts(path, scores, ["a", "b", "c"], ["road", "sky"], ["x", "y", None])
    counts = read_counts(path)
    assert (counts.identifiers, counts.groups) == (("a", "c"), ("x", None))
    assert counts.classes == ("road", "sky")
    assert (counts.values == values.numpy()).all()
    assert counts.image_miou[1] == pytest.approx((6 / 21 + 9 / 30) / 2)
    assert counts.miou == pytest.approx((6 / 24 + 12 / 42) / 2)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no counts by image and class"):
        read_counts(path)

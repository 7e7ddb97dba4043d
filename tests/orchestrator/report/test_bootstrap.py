"""Bootstrap replicates of mIoU against a brute-force bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.bootstrap import resampled_miou
from tests.support.fabricated_counts import counts_of, naive_miou, random_counts


@pytest.mark.parametrize(
    "groups",
    [("one",) * 9, ("a",) * 4 + ("b",) * 3 + ("c",) * 2, (None,) * 9, (None, "a", "a", "a", "b")],
    ids=["one group", "three groups", "no groups", "some groups"],
)
def test_replicates_match_a_brute_force_bootstrap(groups: tuple[str | None, ...]) -> None:
    counts = random_counts(1, groups)
    image_groups = [
        [index for index, other in enumerate(groups) if other == group]
        for group in dict.fromkeys(groups)
        if group is not None
    ]
    image_groups += [[index] for index, group in enumerate(groups) if group is None]
    rng = np.random.default_rng(7)
    expected = []
    for _ in range(4000):
        images = []
        for _ in image_groups:
            group = image_groups[rng.integers(len(image_groups))]
            images += [group[rng.integers(len(group))] for _ in group]
        expected.append(naive_miou(counts.values, images))
    (replicates,) = resampled_miou([counts], 20_000)
    assert counts.miou == pytest.approx(naive_miou(counts.values, list(range(len(groups)))))
    # Four standard errors of the mean of 4000 replicates.
    assert replicates.mean() == pytest.approx(
        np.mean(expected), abs=4 * np.std(expected) / math.sqrt(4000)
    )
    assert replicates.std() == pytest.approx(np.std(expected), rel=0.06)
    assert stats.ks_2samp(replicates, expected).statistic < 0.05


def test_unlabeled_images_do_not_affect_replicates() -> None:
    """A replicate of unlabeled images only has no mIoU and must not affect the others."""
    groups = ("a", "a", "b", None, "c")
    labeled = random_counts(0, groups)
    values = labeled.values.copy()
    values[[1, 2, 4]] = 0
    (replicates,) = resampled_miou([counts_of(values, groups)], 1000)
    assert np.isfinite(replicates).all()
    assert replicates.min() == pytest.approx(min(naive_miou(values, [i]) for i in (0, 3)))

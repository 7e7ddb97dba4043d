"""Replicates of mIoU against a brute-force bootstrap."""

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
def test_replicates_are_those_of_a_brute_force_bootstrap(groups: tuple[str | None, ...]) -> None:
    counts = random_counts(1, groups)
    places = [
        [index for index, other in enumerate(groups) if other == group]
        for group in dict.fromkeys(groups)
        if group is not None
    ]
    places += [[index] for index, group in enumerate(groups) if group is None]
    rng = np.random.default_rng(7)
    brute = []
    for _ in range(4000):
        images = []
        for _ in places:
            group = places[rng.integers(len(places))]
            images += [group[rng.integers(len(group))] for _ in group]
        brute.append(naive_miou(counts.values, images))
    (ours,) = resampled_miou([counts], 20_000)
    assert counts.miou == pytest.approx(naive_miou(counts.values, list(range(len(groups)))))
    # Four standard errors of what 4000 replicates can say.
    assert ours.mean() == pytest.approx(np.mean(brute), abs=4 * np.std(brute) / math.sqrt(4000))
    assert ours.std() == pytest.approx(np.std(brute), rel=0.06)
    assert stats.ks_2samp(ours, brute).statistic < 0.05


def test_images_without_labels_say_nothing() -> None:
    """A replicate of such images alone has no mIoU; the others must not suffer from it."""
    groups = ("a", "a", "b", None, "c")
    labelled = random_counts(0, groups)
    values = labelled.values.copy()
    values[[1, 2, 4]] = 0
    (drawn,) = resampled_miou([counts_of(values, groups)], 1000)
    assert np.isfinite(drawn).all()
    assert drawn.min() == pytest.approx(min(naive_miou(values, [i]) for i in (0, 3)))

"""Bootstrap replicates of mIoU against a brute-force bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.statistics.bootstrap import (
    Sampling,
    count_metric,
    labeled_classes,
    resampled_scores,
    sampling_of,
)
from pipelines.evaluation.metrics import Measured, Metric
from tests.support.fabricated_counts import counts_of, naive_miou, random_counts, resampled_miou

SIX = (*("a",) * 3, *("b",) * 2, "c", "d", "e", "f", "f")


@pytest.mark.slow
@pytest.mark.parametrize(
    "groups",
    [("one",) * 9, ("a",) * 4 + ("b",) * 3 + ("c",) * 2, (None,) * 9, SIX, (*SIX, None)],
    ids=["one group", "three groups", "no groups", "six groups", "some groups"],
)
def test_replicates_match_a_brute_force_bootstrap(groups: tuple[str | None, ...]) -> None:
    """With six groups or more, whole groups are drawn; with fewer, images within each group."""
    counts = random_counts(1, groups)
    names = [group if group is not None else index for index, group in enumerate(groups)]
    members = {name: [i for i, other in enumerate(names) if other == name] for name in names}
    if groups[0] is None:
        members = {None: list(range(len(groups)))}
    rng = np.random.default_rng(7)
    expected = []
    for _ in range(4000):
        if len(members) >= 6:
            drawn = [
                list(members.values())[k] for k in rng.integers(len(members), size=len(members))
            ]
        else:
            drawn = [rng.choice(images, len(images)).tolist() for images in members.values()]
        expected.append(naive_miou(counts.values, [image for images in drawn for image in images]))
    (replicates,) = resampled_miou([counts], 20_000)
    assert counts.miou == pytest.approx(naive_miou(counts.values, list(range(len(groups)))))
    # Four standard errors of the mean of 4000 replicates.
    assert replicates.mean() == pytest.approx(
        np.mean(expected), abs=4 * np.std(expected) / math.sqrt(4000)
    )
    assert replicates.std() == pytest.approx(np.std(expected), rel=0.06)
    assert stats.ks_2samp(replicates, expected).statistic < 0.05


def test_metrics_share_the_draws_of_the_images() -> None:
    """With one class, Dice is a function of IoU in each replicate."""
    counts = counts_of(random_counts(1, (None,) * 9).values[:, :1])
    measured = [count_metric(counts, "dice"), count_metric(counts, "pixel_accuracy")]
    (scores,) = resampled_scores([counts], [measured], 500)
    (iou,) = resampled_miou([counts], 500)
    np.testing.assert_allclose(scores["dice"], 2 * iou / (1 + iou))
    assert scores["pixel_accuracy"].std() > 0


def test_group_of_classes_is_the_mean_of_its_classes() -> None:
    counts = random_counts(1, (None,) * 9)
    groups = {"thin": (counts.classes[0], counts.classes[2]), "all": counts.classes}
    names = ["iou/thin", "iou/all", *(f"iou/{name}" for name in counts.classes)]
    measured = [count_metric(counts, name, groups) for name in names]
    (scores,) = resampled_scores([counts], [measured], 500)
    single = [scores[f"iou/{name}"] for name in counts.classes]
    np.testing.assert_allclose(scores["iou/thin"], np.nanmean([single[0], single[2]], axis=0))
    np.testing.assert_allclose(scores["iou/all"], resampled_miou([counts], 500)[0])
    assert measured[0].score == pytest.approx((counts.iou[0] + counts.iou[2]) / 2)


class MeanOfImages(Metric):
    def score(self, sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[..., 0] / sums[..., 1])


def test_replicates_of_a_metric_follow_from_its_sums() -> None:
    """The mean of independent values has a known standard error."""
    counts = random_counts(1, (None,) * 40)
    values = np.random.default_rng(5).random(40)
    statistics = np.stack([values, np.ones(40)], axis=1)
    own = Measured("own", MeanOfImages(), statistics)
    (scores,) = resampled_scores([counts], [[own]], 20_000)
    assert scores["own"].mean() == pytest.approx(values.mean(), abs=0.002)
    assert scores["own"].std() == pytest.approx(values.std() / math.sqrt(40), rel=0.03)


def test_draws_do_not_depend_on_the_other_metrics() -> None:
    """Trials with and without a metric stay paired, also with thousands of sums."""
    counts = random_counts(1, ("a",) * 5 + ("b",) * 4)
    assert sampling_of(counts).unit == "within groups"
    own = Measured("own", MeanOfImages(), np.ones((9, 3000)))
    (scores,) = resampled_scores([counts], [[count_metric(counts, "miou"), own]], 2000)
    np.testing.assert_array_equal(scores["miou"], resampled_miou([counts], 2000)[0])
    assert scores["own"].shape == (2000,)


def test_classes_of_a_replicate_are_those_in_its_labels() -> None:
    """The rare class has no label in some replicates, where a false positive must not count."""
    values = np.ones((4, 3, 3), np.int64)
    values[1:, 2, [0, 2]] = 0
    counts = counts_of(values)
    (dice,) = resampled_scores([counts], [[count_metric(counts, "dice")]], 200)
    assert dice["dice"].max() == pytest.approx(0.5)
    assert len(np.unique(dice["dice"].round(9))) > 1


def test_sampling_describes_the_draws() -> None:
    three = sampling_of(random_counts(1, ("a",) * 4 + ("b",) * 3 + ("c",) * 2))
    assert three == Sampling("within groups", 9, 6, ("a", "b", "c"))
    assert three.inflation == pytest.approx(math.sqrt(9 / 6))
    assert sampling_of(random_counts(1, (*SIX, None))).unit == "groups"
    assert sampling_of(random_counts(1, (*SIX, None))).units == 7
    assert sampling_of(random_counts(1, ("one",) * 9)) == Sampling("images", 9, 8, ("one",))


def test_groups_of_one_image_are_drawn_as_images() -> None:
    """Nothing varies within a group of one image."""
    counts = random_counts(1, ("a", "b", "c"))
    assert sampling_of(counts) == Sampling("images", 3, 2, ("a", "b", "c"))
    (replicates,) = resampled_miou([counts], 500)
    assert replicates.std() > 0


def test_classes_are_those_of_the_labels() -> None:
    """A few pixels predicted as a class that no label has change no replicate."""
    values = random_counts(0, (None,) * 9).values
    values[:, 2] = 0
    predicted = values.copy()
    predicted[0, 2, 1] = 3  # false positives
    without, with_extra = (counts_of(each, (None,) * 9) for each in (values, predicted))
    first, second = resampled_miou([without, with_extra], 500)
    assert (first == second).all()
    assert labeled_classes(with_extra).tolist() == [True, True, False]
    # A trial's own score follows the benchmarks.
    assert with_extra.miou == pytest.approx(2 / 3 * without.miou)


def test_unlabeled_images_do_not_affect_replicates() -> None:
    """A replicate of unlabeled images only has no mIoU and must not affect the others."""
    groups = ("a", "a", "b", None, "c")
    labeled = random_counts(0, groups)
    values = labeled.values.copy()
    values[[1, 2, 4]] = 0
    (replicates,) = resampled_miou([counts_of(values, groups)], 1000)
    assert np.isfinite(replicates).all()
    assert replicates.min() == pytest.approx(min(naive_miou(values, [i]) for i in (0, 3)))

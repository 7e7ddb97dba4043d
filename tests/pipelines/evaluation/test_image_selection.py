"""Selection of the images on which two models differ most."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation.counts import Counts
from pipelines.evaluation.image_selection import image_gains, most_different

COUNTS = arrays(np.int64, (9, 3, 3), elements=st.integers(0, 50))


def counts(*images: list[tuple[int, int, int]]) -> Counts:
    return counts_of_values(np.array(images, np.int64))


def counts_of_values(values: np.ndarray) -> Counts:
    images, classes, _ = values.shape
    names = tuple(f"image {index}" for index in range(images))
    return Counts(names, (None,) * images, tuple("abc"[:classes]), values)


def test_gain_is_that_of_the_miou_of_each_image() -> None:
    # First image: the second model gains 0.5 IoU on one class and loses 0.25 on the other.
    # Second image: one class is present, and both models are equal. Third: no label.
    first = counts([(5, 5, 0), (9, 0, 3)], [(4, 1, 1), (0, 0, 0)], [(0, 0, 0), (0, 0, 0)])
    second = counts([(10, 0, 0), (6, 3, 3)], [(4, 1, 1), (0, 0, 0)], [(0, 0, 0), (0, 0, 0)])
    np.testing.assert_allclose(image_gains([first], [second]), [(0.5 - 0.25) / 2, 0, 0])


def test_gain_is_the_mean_over_seeds() -> None:
    # First image: one seed gains as much as the other loses. Second image: both gain 0.25.
    weak, strong = [(4, 6, 0)], [(8, 2, 0)]
    first = [counts(weak, weak), counts(strong, weak)]
    second = [counts(strong, [(6, 4, 0)]), counts(weak, [(7, 3, 0)])]
    gains = image_gains(first, second)
    np.testing.assert_allclose(gains, [0, 0.25], atol=1e-12)
    assert most_different(gains, 1) == [1]


def test_an_image_on_which_classes_gain_what_others_lose_does_not_differ() -> None:
    first = counts([(5, 5, 0), (10, 0, 0)], [(5, 5, 0), (10, 0, 0)])
    second = counts([(10, 0, 0), (5, 5, 0)], [(6, 4, 0), (10, 0, 0)])
    assert most_different(image_gains([first], [second]), 1) == [1]


def test_selection_includes_losses_after_gains() -> None:
    gains = np.array([0.1, 0.0, -0.3, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0])
    assert most_different(gains, 3) == [4, 0, 2]


def test_selection_avoids_neighbors_and_repeated_groups() -> None:
    gains = np.array([0.9, 0.89, 0.88, 0.0, 0.5, 0.0, 0.0, 0.6, 0.0, 0.55, 0.0, 0.0])
    assert most_different(gains, 3) == [0, 2, 7]
    groups = ["a"] * 4 + ["b"] * 5 + ["a"] * 3
    assert most_different(gains, 2, groups) == [0, 7]
    assert most_different(gains, 2, ["a"] * 8 + ["b"] * 4) == [0, 9]


@given(COUNTS, COUNTS, st.integers(1, 12))
def test_selection_has_the_requested_number_of_distinct_images(
    first: np.ndarray, second: np.ndarray, count: int
) -> None:
    gains = image_gains([counts_of_values(first)], [counts_of_values(second)])
    assert np.all(np.abs(gains) <= 1)
    selected = most_different(gains, count)
    assert len(selected) == len(set(selected)) == min(count, 9)
    assert list(gains[selected]) == sorted(gains[selected], reverse=True)
    assert not image_gains([counts_of_values(first)], [counts_of_values(first)]).any()

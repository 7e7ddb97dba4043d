"""Rendered scenes: determinism, sizes and classes."""

import numpy as np
import pytest

from pipelines.preparation.streets import CLASSES, render_street


def test_seed_and_index_determine_the_image() -> None:
    image, label = render_street(3, 14, 48, 96)
    same_image, same_label = render_street(3, 14, 48, 96)
    assert np.array_equal(image, same_image)
    assert np.array_equal(label, same_label)
    assert not np.array_equal(image, render_street(3, 15, 48, 96)[0])
    assert not np.array_equal(image, render_street(4, 14, 48, 96)[0])


@pytest.mark.slow
def test_all_classes_occur_and_some_pixels_are_void() -> None:
    labels = np.stack([render_street(0, index, 64, 128)[1] for index in range(30)])
    classes = set(np.unique(labels).tolist())
    assert classes == {*range(len(CLASSES)), 255}
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    thin = [index for index, each in enumerate(CLASSES) if each.name in ("pole", "traffic sign")]
    assert all(0.0003 < shares[index] < 0.05 for index in thin)
    assert shares[255] < 0.1


@pytest.mark.slow
def test_scene_does_not_depend_on_size() -> None:
    agreement = []
    for index in range(6):
        _, small = render_street(0, index, 64, 128)
        _, large = render_street(0, index, 128, 256)
        agreement.append((small == large[1::2, 1::2]).mean())
    assert np.mean(agreement) > 0.93


def test_renders_at_any_size() -> None:
    for size in ((16, 16), (20, 200), (100, 31)):
        image, label = render_street(1, 2, *size)
        assert image.shape == (*size, 3)
        assert label.shape == size
        assert image.dtype == label.dtype == np.uint8

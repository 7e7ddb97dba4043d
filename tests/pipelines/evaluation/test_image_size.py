"""Sizes of the images that validation gives a network."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.data.image_format import RGB
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.image_size import check_evaluation
from pipelines.network.build import NetworkError
from tests.support.fixed_size import EVEN_SIZE, JOINING, fixed_size

SPLIT: Any = SimpleNamespace(
    heights=np.array([32, 64]), widths=np.array([64, 40]), image_format=RGB
)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (InferenceConfig(), (64, 40)),  # of the largest image
        (InferenceConfig(scales=(0.5,)), (32, 20)),
        (InferenceConfig(window=(16, 24)), (16, 24)),
        (InferenceConfig(window=(100, 16)), (64, 16)),  # cropped to the image
    ],
)
def test_network_gets_the_largest_image_or_its_windows(
    config: InferenceConfig, size: tuple[int, int]
) -> None:
    check_evaluation(fixed_size(*size), 7, config, SPLIT)
    with pytest.raises(NetworkError, match=f"an image of {size[0]} x {size[1]} pixels"):
        check_evaluation(fixed_size(8, 8), 7, config, SPLIT)


def test_network_gets_images_of_every_scale() -> None:
    config = InferenceConfig(scales=(1.0, 0.5))
    with pytest.raises(NetworkError, match="an image of 32 x 20 pixels"):
        check_evaluation(fixed_size(64, 40), 7, config, SPLIT)


def test_sizes_that_do_not_fit_when_features_are_joined_are_reported() -> None:
    check_evaluation(EVEN_SIZE, 7, InferenceConfig(), SPLIT)
    with pytest.raises(NetworkError, match="an image of 32 x 39 pixels"):
        check_evaluation(EVEN_SIZE, 7, InferenceConfig(window=(32, 39)), SPLIT)


def test_features_may_be_joined_in_every_form() -> None:
    check_evaluation(JOINING, 7, InferenceConfig(), SPLIT)

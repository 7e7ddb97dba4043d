"""Transforms: independence from the batch, labels that move with the image, and errors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from models.imagenet import IMAGENET_MEAN
from pipelines.data.augmentation import Augmentation
from pipelines.data.config import AugmentationConfig, DataConfig, TransformConfig
from pipelines.data.dataset import PreparedDataset
from pipelines.data.loading import TrainingBatches
from pipelines.data.transforms import TransformError, Transforms, check_transforms

OWN = f"{__name__}:"
KORNIA = "kornia.augmentation:"


class Noise(nn.Module):
    """Draws from all three global generators."""

    def forward(self, images: Tensor) -> Tensor:
        shift = random.random() + np.random.rand()
        return images + 0.1 * torch.randn_like(images) + 0.1 * shift


class Texture(nn.Module):
    """Noise that stays far from the limits of the range."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * (torch.rand_like(images) - 0.5)


class IgnoredRow(nn.Module):
    def __init__(self, row: int = 0) -> None:
        super().__init__()
        self.row = row

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        labels = labels.clone()
        labels[:, self.row] = 255
        return images.flip(-1), labels.flip(-1)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images / self.calls


class Strict(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError("too small")


class Failing(nn.Module):
    def __init__(self, memory: bool) -> None:
        super().__init__()
        self.error = MemoryError() if memory else SystemExit(3)

    def forward(self, images: Tensor) -> Tensor:
        raise self.error


class Half(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[..., ::2]


def elastic(**arguments: object) -> TransformConfig:
    strong = {"kernel_size": [15, 15], "sigma": [3.0, 3.0], "alpha": [2.0, 2.0], "p": 1.0}
    return TransformConfig(f"{KORNIA}RandomElasticTransform", {**strong, **arguments})


def apply(transform: TransformConfig, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    return Transforms([transform])(image, label, [5])


@pytest.mark.slow
def test_ranks_share_the_augmented_batches_of_a_single_rank(streets: PreparedDataset) -> None:
    """Also, a batch of 8 is bitwise equal to its samples one by one."""
    transforms = (
        elastic(p=0.7),
        TransformConfig(f"{OWN}Noise"),
        TransformConfig("kornia.augmentation.auto:RandAugment", {"n": 1, "m": 10}),
        TransformConfig(f"{KORNIA}RandomErasing"),
    )
    config = AugmentationConfig(vertical_flip=0.5, rotate90=0.5, transforms=transforms, cutmix=0.5)
    data = DataConfig(crop=(32, 32), augmentation=config)
    split = streets.split("train")
    augmentation = Augmentation(config, data.crop)
    whole = next(TrainingBatches(split, data, seed=5, global_batch=8).epoch(1))
    images, labels = augmentation(whole)
    parts = [
        augmentation(next(TrainingBatches(split, data, 5, 8, rank, 2).epoch(1))) for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([part for part, _ in parts]), images)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)
    for row in reversed(range(8)):
        image, label = augmentation(whole[row : row + 1])
        assert torch.equal(image[0], images[row])
        assert torch.equal(label[0], labels[row])


def test_global_generators_continue_as_without_transforms() -> None:
    image, label = torch.rand(1, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.int64)

    def draw(transform: TransformConfig | None) -> tuple[float, float, float]:
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        if transform is not None:
            apply(transform, image, label)
        return torch.rand(()).item(), np.random.rand(), random.random()

    assert draw(TransformConfig(f"{OWN}Noise")) == draw(None)


def test_same_transform_listed_twice_draws_differently() -> None:
    image, label = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 8, 8, dtype=torch.int64)
    noise = TransformConfig(f"{OWN}Texture")
    once, _ = Transforms([noise])(image, label, [5])
    twice, _ = Transforms([noise, noise])(image, label, [5])
    first, second = once - image, twice - once
    assert first.abs().max() > 0
    assert second.abs().max() > 0
    assert not torch.allclose(first, second, atol=1e-3)


def test_affine_moves_image_and_label_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.random((3, 40, 56)), (0, 2, 2)).astype(np.float32)
    label = rng.integers(0, 19, (40, 56))
    affine = TransformConfig(f"{KORNIA}RandomAffine", {"degrees": [30.0, 30.0], "p": 1.0})
    moved, classes = apply(affine, torch.from_numpy(image)[None], torch.from_numpy(label)[None])
    # Clockwise about the center.
    angle = np.deg2rad(30)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = np.array([19.5, 27.5])
    offset = center - matrix @ center
    expected = np.stack(
        [scipy.ndimage.affine_transform(each, matrix, offset, order=1) for each in image]
    )
    nearest = scipy.ndimage.affine_transform(
        label, matrix, offset, order=0, mode="grid-constant", cval=255
    )
    assert np.array_equal(classes[0].numpy(), nearest)
    assert 0.1 < (nearest == 255).mean() < 0.5
    inner = scipy.ndimage.binary_erosion(nearest < 255, iterations=2)
    assert abs(moved[0].numpy() - expected)[:, inner].max() < 1e-4
    outside = moved[0].numpy()[:, nearest == 255]
    assert np.allclose(outside, np.array(IMAGENET_MEAN)[:, None])


@pytest.mark.parametrize(
    "transform",
    [
        elastic(resample="nearest"),
        elastic(resample="nearest", align_corners=True, padding_mode="border"),
        TransformConfig(
            f"{KORNIA}RandomAffine",
            {"degrees": 40.0, "resample": "nearest", "padding_mode": "fill", "fill_value": 0.9}
            | {"p": 1.0},
        ),
        TransformConfig(f"{KORNIA}RandomRotation90", {"times": [1, 1], "p": 1.0}),
        TransformConfig(f"{KORNIA}RandomHorizontalFlip", {"p": 1.0}),
        TransformConfig(
            f"{KORNIA}RandomResizedCrop", {"size": [32, 32], "resample": "nearest", "p": 1.0}
        ),
    ],
    ids=str,
)
def test_labels_move_with_an_image_that_shows_them(transform: TransformConfig) -> None:
    label = torch.randint(0, 19, (1, 32, 32), generator=torch.Generator().manual_seed(0))
    image = (label / 32)[:, None].repeat(1, 3, 1, 1)
    moved, classes = apply(transform, image, label)
    assert not torch.equal(classes, label)
    inside = classes != 255
    assert inside.float().mean() > 0.3
    shown = (moved[0, 0] * 32).round().long()
    # float32 may round a position between two pixels to either.
    assert (shown == classes[0])[inside[0]].float().mean() > 0.995


def test_pixels_that_are_erased_are_ignored() -> None:
    label = torch.randint(0, 19, (1, 32, 32))
    image = torch.full((1, 3, 32, 32), 0.5)
    erased, classes = apply(TransformConfig(f"{KORNIA}RandomErasing", {"p": 1.0}), image, label)
    is_erased = erased[:, 0] == 0
    assert is_erased.any()
    assert torch.equal(classes, torch.where(is_erased, 255, label))


def test_own_module_maps_images_and_labels() -> None:
    image, label = torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)
    flipped, classes = apply(TransformConfig(f"{OWN}IgnoredRow", {"row": 2}), image, label)
    assert torch.equal(flipped, image.flip(-1))
    assert (classes == 255).nonzero()[:, 1].unique().tolist() == [2]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("absent.module:Own", {}, "transform absent.module:Own: cannot import absent.module"),
        (f"{KORNIA}Absent", {}, "kornia.augmentation has no torch.nn.Module Absent"),
        (f"{KORNIA}RandomErasing", {"scala": 1}, "unknown argument `scala`; known: scale, ratio"),
        (f"{KORNIA}RandomCutMixV2", {}, "mixes the samples of a batch"),
        (f"{KORNIA}ImageSequential", {}, "is a container; list the transforms it contains"),
        (f"{KORNIA}RandomRotation3D", {"degrees": 3.0}, "images with two dimensions"),
        (f"{KORNIA}RandomAffine", {"degrees": 3.0, "translate": [2, 3]}, "its constructor failed"),
        (f"{KORNIA}RandomFisheye", dict.fromkeys(("center_x", "center_y", "gamma"), 1), "failed"),
        (f"{OWN}Strict", {}, r"failed on a crop of 16 x 24 pixels \(ValueError: too small\)"),
        (f"{OWN}Failing", {"memory": False}, r"a crop of 16 x 24 pixels \(SystemExit: 3\)"),
        (f"{OWN}Half", {}, r"images must be float32 \(1, 3, 16, 24\), received float32 \(1, 3, 16"),
        (f"{OWN}Counter", {}, "changed the same sample differently the second time"),
    ],
)
def test_unusable_transform_is_an_error(name: str, arguments: dict, message: str) -> None:
    config = AugmentationConfig(transforms=(TransformConfig(name, arguments),))
    with pytest.raises(TransformError, match=message):
        check_transforms(config, (16, 24))


def test_lack_of_memory_in_a_transform_names_it() -> None:
    config = AugmentationConfig(transforms=(TransformConfig(f"{OWN}Failing", {"memory": True}),))
    with pytest.raises(MemoryError, match=r"Failing: it failed on a crop of 16 x 24 .*MemoryError"):
        check_transforms(config, (16, 24))

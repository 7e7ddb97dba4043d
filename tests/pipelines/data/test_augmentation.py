"""The augmentation against plain references, and its independence from the batch."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from kornia.enhance import adjust_hue
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from PIL import Image, ImageEnhance
from torch import Tensor
from torch._dynamo.utils import counters

from models.imagenet import IMAGENET_MEAN, IMAGENET_STD
from pipelines.data.augmentation import Augmentation
from pipelines.data.batches import SourceBatch
from pipelines.data.config import AugmentationConfig, DataConfig
from pipelines.data.geometry import plan_crop
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.loading import TrainingBatches
from pipelines.data.normalization import normalize
from pipelines.data.randomness import Stream, uniform, uniform_streams
from pipelines.data.sampling import Draws

OFF = AugmentationConfig(
    scale=(1, 1), flip=0, brightness=0, contrast=0, saturation=0, hue=0, blur=(0, 0)
)


class InMemoryImages:
    """A split of images of different sizes, held in memory."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.labels = [rng.choice([0, 3, 7, 255], size=size).astype(np.uint8) for size in sizes]
        self.identifiers = [f"image {index}" for index in range(len(sizes))]
        self.heights = np.array([size[0] for size in sizes])
        self.widths = np.array([size[1] for size in sizes])
        self.centroids = np.zeros((0, 4), np.int64)
        self.image_format = RGB

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index], self.labels[index]


IMAGES = InMemoryImages([(40, 60), (33, 57), (50, 50), (20, 90), (41, 64), (64, 41)])


def load(
    config: AugmentationConfig, crop: tuple[int, int], samples: list[int], dataset: InMemoryImages
) -> SourceBatch:
    batches = TrainingBatches(dataset, DataConfig(crop=crop, augmentation=config), 0, 4)
    keys = np.array([1000003 * sample + 17 for sample in samples])
    return batches.load(Draws(np.array(samples), keys, np.full((len(samples), 2), -1)))


def reference_crop(
    image: np.ndarray,
    label: np.ndarray,
    crop: tuple[int, int],
    config: AugmentationConfig,
    key: int,
) -> tuple[Tensor, Tensor]:
    """Resize the whole image with torch, then pad and crop."""
    plan = plan_crop(label.shape, crop, config.scale, config.flip, key)
    size = (plan.rows.resized, plan.columns.resized)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0]
    classes = F.interpolate(
        torch.from_numpy(label)[None, None].double(), size, mode="nearest-exact"
    )[0, 0]
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64)[:, None, None]
    padded_size = [length + 2 * side for length, side in zip(size, crop, strict=True)]
    padded = mean.expand(3, *padded_size).clone()
    padded_labels = torch.full(padded_size, 255.0, dtype=torch.float64)
    inner = (slice(crop[0], crop[0] + size[0]), slice(crop[1], crop[1] + size[1]))
    padded[:, *inner] = resized
    padded_labels[inner] = classes
    rows = slice(plan.rows.offset + crop[0], plan.rows.offset + 2 * crop[0])
    columns = slice(plan.columns.offset + crop[1], plan.columns.offset + 2 * crop[1])
    images, labels = padded[:, rows, columns], padded_labels[rows, columns]
    return (images.flip(-1), labels.flip(-1)) if plan.flip else (images, labels)


@pytest.mark.parametrize("crop", [(32, 48), (80, 80), (7, 100)])
@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.5, 0.5), (2.0, 2.0), (1.0, 1.0)])
def test_crops_equal_resizing_then_cropping(
    crop: tuple[int, int], scale: tuple[float, float]
) -> None:
    config = AugmentationConfig(scale=scale)
    samples = [0, 1, 2, 3, 4, 5, 0, 1]
    batch = load(config, crop, samples, IMAGES)
    images, labels = Augmentation(config, crop).crops(batch)
    for row, sample in enumerate(samples):
        key = int(batch.sample_keys[row])
        expected, classes = reference_crop(*IMAGES.read(sample), crop, config, key)
        assert torch.allclose(images[row].double(), expected, atol=2e-4)
        assert torch.equal(labels[row].double(), classes)


def test_disabled_augmentation_is_the_identity() -> None:
    dataset = InMemoryImages([(24, 36)] * 3)
    batch = load(OFF, (24, 36), [0, 1, 2], dataset)
    images, labels = Augmentation(OFF, (24, 36))(batch)
    assert torch.equal(labels, torch.from_numpy(np.stack(dataset.labels)).long())
    sources = torch.from_numpy(np.stack(dataset.images)).permute(0, 3, 1, 2)
    assert torch.equal(images, normalize(sources))


@pytest.mark.parametrize("size", [(40, 64), (256, 300)])
@pytest.mark.parametrize("threads", [1, 2])
def test_sample_is_bitwise_equal_in_any_batch(size: tuple[int, int], threads: int) -> None:
    """The large size is above those at which torch splits sums and kornia changes its path."""
    dataset = InMemoryImages([size, (size[0] + 9, size[1] - 5), size, size, size])
    config = AugmentationConfig()
    augmentation = Augmentation(config, size)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images, labels = augmentation(load(config, size, [0, 1, 2, 3, 4], dataset))
        for subset in ([0], [3, 1], [4, 2, 0]):
            subset_images, subset_labels = augmentation(load(config, size, subset, dataset))
            assert torch.equal(subset_images, images[subset])
            assert torch.equal(subset_labels, labels[subset])
    finally:
        torch.set_num_threads(threads_before)


def test_labels_are_never_interpolated() -> None:
    config = AugmentationConfig(scale=(0.3, 3.0))
    batch = load(config, (48, 48), [0, 1, 2, 3, 4, 5] * 3, IMAGES)
    _, labels = Augmentation(config, (48, 48))(batch)
    assert set(labels.unique().tolist()) <= {0, 3, 7, 255}
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("crop", [(40, 40), (40, 56)])
def test_vertical_flip_and_rotation_equal_numpy(crop: tuple[int, int]) -> None:
    config = AugmentationConfig(**{**vars(OFF), "vertical_flip": 0.5, "rotate90": 0.6})
    samples = list(range(24))
    dataset = InMemoryImages([crop] * 24)
    batch = load(config, crop, samples, dataset)
    images, labels = Augmentation(config, crop).crops(batch)
    keys = batch.sample_keys.numpy()
    flips, draws = uniform(keys, Stream.VERTICAL_FLIP), uniform(keys, Stream.ROTATE90)
    all_turns = set()
    for row, sample in enumerate(samples):
        turns = 0
        if draws[row] < 0.6:
            turns = 1 + int(draws[row] / 0.2) if crop[0] == crop[1] else 2
        all_turns.add(turns)
        for result, source in (
            (images[row].permute(1, 2, 0).numpy(), np.float32(dataset.images[sample]) / 255),
            (labels[row].numpy(), dataset.labels[sample]),
        ):
            flipped = source[::-1] if flips[row] < 0.5 else source
            assert np.array_equal(result, np.rot90(flipped, turns))
    assert all_turns == ({0, 1, 2, 3} if crop[0] == crop[1] else {0, 2})


def test_samples_that_are_not_turned_are_bitwise_unchanged() -> None:
    crop, samples = (32, 32), [0, 1, 2, 3, 4, 5] * 3
    default, turned = AugmentationConfig(), AugmentationConfig(vertical_flip=0.3, rotate90=0.3)
    batch = load(default, crop, samples, IMAGES)
    keys = batch.sample_keys.numpy()
    kept = (uniform(keys, Stream.VERTICAL_FLIP) >= 0.3) & (uniform(keys, Stream.ROTATE90) >= 0.3)
    assert 0 < kept.sum() < len(samples)
    results = [Augmentation(config, crop)(batch) for config in (default, turned)]
    for plain, other in zip(*results, strict=True):
        assert torch.equal(plain[kept], other[kept])
        assert not torch.equal(plain[~kept], other[~kept])


def test_cutmix_pastes_a_rectangle_of_another_image() -> None:
    crop, samples = (40, 56), list(range(12))
    config = AugmentationConfig(**{**vars(OFF), "cutmix": 0.5})
    dataset = InMemoryImages([crop] * 12)
    batch = load(config, crop, samples, dataset)
    images, labels = Augmentation(config, crop)(batch)
    keys = batch.sample_keys.numpy()
    draws = {stream: uniform(keys, stream) for stream in Stream}
    assert batch.partners is not None
    assert len(set(batch.partners.identifiers)) > 3
    rows, columns = ((np.arange(length) + 0.5) / length for length in crop)
    mixed = 0
    for row, sample in enumerate(samples):
        side = np.sqrt(draws[Stream.CUT_AREA][row]) if draws[Stream.CUTMIX][row] < 0.5 else 0
        top, left = draws[Stream.CUT_ROW][row] - side / 2, draws[Stream.CUT_COLUMN][row] - side / 2
        cut = ((rows > top) & (rows < top + side))[:, None]
        cut = cut & ((columns > left) & (columns < left + side))
        mixed += cut.any()
        other = dataset.identifiers.index(batch.partners.identifiers[row])
        label = np.where(cut, dataset.labels[other], dataset.labels[sample])
        image = np.where(cut[..., None], dataset.images[other], dataset.images[sample])
        assert np.array_equal(labels[row].numpy(), label)
        assert torch.equal(
            images[row], normalize(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
        )
    assert 2 < mixed < 10


def test_pasted_pixels_are_augmented_as_their_own_image() -> None:
    crop, plain = (40, 56), AugmentationConfig(scale=(1, 1))
    batch = load(replace(plain, cutmix=1.0), crop, list(range(12)), InMemoryImages([crop] * 12))
    assert batch.partners is not None
    images, _ = Augmentation(replace(plain, cutmix=1.0), crop)(batch)
    own, pasted = (
        Augmentation(plain, crop)(each)[0]
        for each in (replace(batch, partners=None), batch.partners)
    )
    is_pasted = (images != own).any(dim=1, keepdim=True)
    assert 0.2 < is_pasted.float().mean() < 0.8
    assert torch.equal(images, torch.where(is_pasted, pasted, own))


def test_classmix_pastes_half_of_the_classes_of_another_image() -> None:
    crop, samples = (40, 56), list(range(12))
    config = AugmentationConfig(**{**vars(OFF), "cutmix": 0.2, "classmix": 0.5})
    dataset = InMemoryImages([crop] * 12)
    for label in dataset.labels:  # 5 classes by column, and an ignored row
        label[:] = np.arange(crop[1]) % 5
        label[3] = 255
    batch = load(config, crop, samples, dataset)
    images, labels = Augmentation(config, crop)(batch)
    cut_only = replace(batch, class_draws=None)
    cut_images, _ = Augmentation(config, crop)(cut_only)
    draws = uniform(batch.sample_keys.numpy(), Stream.CUTMIX)
    assert batch.partners is not None
    pasted_classes = []
    for row, sample in enumerate(samples):
        if not 0.2 <= draws[row] < 0.7:
            assert torch.equal(images[row], cut_images[row])
            continue
        other = dataset.identifiers.index(batch.partners.identifiers[row])
        both = (dataset.images[sample], dataset.images[other])
        own, partner = (
            normalize(torch.from_numpy(image).permute(2, 0, 1)[None])[0] for image in both
        )
        if sample == other:
            continue
        changed = (images[row] != own).any(dim=0).numpy()
        chosen = [each for each in range(5) if changed[labels[row].numpy() == each].any()]
        assert len(chosen) == 2
        pasted = np.isin(dataset.labels[other], chosen)
        assert torch.equal(images[row], torch.where(torch.from_numpy(pasted), partner, own))
        assert np.array_equal(labels[row].numpy(), dataset.labels[sample])
        pasted_classes.append(tuple(chosen))
    assert len(pasted_classes) > 3
    assert len(set(pasted_classes)) > 1


def test_mixing_probabilities_are_at_most_one_together() -> None:
    with pytest.raises(ValueError, match=r"at most 1 together.*received 0\.6 and 0\.5"):
        AugmentationConfig(cutmix=0.5, classmix=0.6)


def draws_of(keys: Tensor) -> Tensor:
    return torch.from_numpy(uniform_streams(keys.numpy()))


def jitter_only(**strengths: float) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return uint8 images (batch, height, width, 3), the jittered images, and the keys."""
    config = AugmentationConfig(**{**vars(OFF), **strengths})
    pixels = np.random.default_rng(1).integers(0, 256, (4, 10, 12, 3), dtype=np.uint8)
    keys = torch.arange(4) * 7919 + 5
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return pixels, Augmentation(config, (10, 12)).jitter(images, draws_of(keys)), keys


@pytest.mark.parametrize(
    ("strength", "stream", "enhance"),
    [
        ("brightness", Stream.BRIGHTNESS, ImageEnhance.Brightness),
        ("contrast", Stream.CONTRAST, ImageEnhance.Contrast),
        ("saturation", Stream.SATURATION, ImageEnhance.Color),
    ],
)
def test_jitter_matches_pillow(strength: str, stream: Stream, enhance: type) -> None:
    pixels, jittered, keys = jitter_only(**{strength: 0.8})
    factors = 1 + 0.8 * (2 * uniform(keys.numpy(), stream) - 1)
    for row, factor in enumerate(factors):
        expected = np.asarray(enhance(Image.fromarray(pixels[row])).enhance(factor))
        pixels_of_row = jittered[row].permute(1, 2, 0).numpy() * 255
        assert (
            abs(pixels_of_row - expected).max() <= 3
        )  # Pillow rounds the gray value and the result


def test_hue_rotates_the_color_circle() -> None:
    pixels, jittered, keys = jitter_only(hue=0.5)
    turns = uniform(keys.numpy(), Stream.HUE) - 0.5
    for row, turn in enumerate(turns):
        before = np.asarray(Image.fromarray(pixels[row]).convert("HSV")).astype(float)
        image = (jittered[row].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        after = np.asarray(Image.fromarray(image).convert("HSV")).astype(float)
        vivid = (before[..., 1] > 100) & (before[..., 2] > 100)
        difference = (after[..., 0] - before[..., 0] - 256 * turn)[vivid]
        assert abs((difference + 128) % 256 - 128).max() < 4
        assert abs(after[..., 2] - before[..., 2]).max() <= 1


def test_hue_and_blur_match_kornia() -> None:
    """On a CPU, hue and blur use faster implementations than kornia."""
    config = AugmentationConfig(**{**vars(OFF), "hue": 0.5, "blur": (0.15, 1.3)})
    images = torch.rand(4, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    images[0, :, :4] = images[0, :1, :4]  # gray
    images[1, 1] = images[1, 0]  # two channels share the maximum or the minimum
    images[2] = images[2].round()
    keys = torch.arange(4) * 7919 + 5
    augmentation = Augmentation(config, (21, 34))
    turns = torch.from_numpy(uniform(keys.numpy(), Stream.HUE)).float() - 0.5
    expected = adjust_hue(images, 2 * torch.pi * turns)
    assert torch.allclose(augmentation.jitter(images, draws_of(keys)), expected, atol=1e-5)
    sigmas = 0.15 + 1.15 * torch.from_numpy(uniform(keys.numpy(), Stream.BLUR)).float()
    kernel = get_gaussian_kernel1d(9, sigmas[:, None])
    expected = filter2d_separable(images, kernel, kernel, "reflect")
    assert torch.allclose(augmentation.blur(images, draws_of(keys)), expected, atol=1e-5)


def test_blur_is_gaussian_with_the_sigma_of_the_sample() -> None:
    config = AugmentationConfig(**{**vars(OFF), "blur": (0.15, 1.3)})
    images = torch.rand(5, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(5) * 104729
    blurred = Augmentation(config, (30, 40)).blur(images, draws_of(keys))
    for row, draw in enumerate(uniform(keys.numpy(), Stream.BLUR)):
        sigma = 0.15 + 1.15 * draw
        expected = scipy.ndimage.gaussian_filter(
            images[row].numpy(), (0, sigma, sigma), mode="mirror", radius=(0, 4, 4)
        )
        assert abs(blurred[row].numpy() - expected).max() < 1e-5


def test_normalize_accepts_bytes_and_unit_floats() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (pixels / 255 - mean) / std
    assert torch.allclose(normalize(pixels), expected)
    assert torch.allclose(normalize(pixels / 255), expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", (2.0, 0.5), "scale must be a smallest and a largest factor"),
        ("scale", (0.0, 1.0), "above 0"),
        ("flip", 1.5, "probability from 0 to 1, received 1.5"),
        ("rotate90", -0.5, "rotate90 must be a probability from 0 to 1, received -0.5"),
        ("transforms", ("flip",), "transforms is 'flip'; it must be package.module:Class"),
        ("hue", 0.7, "hue must be from 0 to 0.5, received 0.7"),
        ("contrast", -0.1, "contrast must be from 0 to 1"),
        ("blur", (0.0, 1.0), r"or \(0, 0\) for none"),
    ],
)
def test_invalid_strengths_are_rejected(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**{name: value})


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))),
    reason="torch.compile on a CPU needs a C++ compiler",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler
def test_compiled_augmentation_is_one_graph_with_equal_results() -> None:
    config = AugmentationConfig()
    size = (24, 32)
    dataset = InMemoryImages([(40, 48)] * 3)
    compiled = Augmentation(config, size, compile=True)
    counters.clear()
    for samples in ([0, 1], [2, 0]):
        batch = load(config, size, samples, dataset)
        images, labels = Augmentation(config, size)(batch)
        with torch._dynamo.config.patch(error_on_recompile=True):
            fused, classes = compiled(batch)
        assert torch.allclose(images, fused, atol=1e-4)
        assert torch.equal(labels, classes)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_images_of_four_channels_and_16_bits() -> None:
    """Scaled, clipped and standardized; saturation and hue need three channels."""
    dataset = InMemoryImages([(8, 9), (8, 9)])
    rng = np.random.default_rng(1)
    dataset.images = [rng.integers(0, 65536, (8, 9, 4)).astype(np.uint16) for _ in range(2)]
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 0.25, 0.5, 1.0)
    dataset.image_format = ImageFormat(4, 16, (1000, 40000), mean, std)
    off = AugmentationConfig(scale=(1, 1), flip=0, brightness=0, contrast=0, blur=(0, 0))
    still = replace(off, saturation=0, hue=0)
    images, _ = Augmentation(off, (8, 9), dataset.image_format)(load(off, (8, 9), [0, 1], dataset))
    unit = ((np.stack(dataset.images).astype(float) - 1000) / 39000).clip(0, 1)
    expected = ((unit - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    batch = load(still, (8, 9), [0, 1], dataset)
    assert torch.equal(Augmentation(still, (8, 9), dataset.image_format)(batch)[0], images)

    config = AugmentationConfig(vertical_flip=0.5, cutmix=0.5)
    augmentation = Augmentation(config, (6, 6), dataset.image_format)
    whole = augmentation(load(config, (6, 6), [0, 1], dataset))[0]
    for row in range(2):
        alone = augmentation(load(config, (6, 6), [row], dataset))[0]
        assert torch.equal(alone[0], whole[row])
    low, high = -(np.array(mean) / std), (1 - np.array(mean)) / std
    channels = whole.transpose(0, 1).flatten(1).double().numpy()
    assert (channels.min(axis=1) >= low - 1e-5).all()
    assert (channels.max(axis=1) <= high + 1e-5).all()

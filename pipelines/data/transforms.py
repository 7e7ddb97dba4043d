"""Augmentations that a configuration names: kornia's, and custom modules.

They are applied to one sample at a time, with all global generators of random numbers seeded by the
sample's key. So a sample does not depend on its batch, its worker, or what was drawn before.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import kornia.augmentation
import torch
from kornia.augmentation.auto.base import PolicyAugmentBase
from kornia.augmentation.base import _BasicAugmentationBase
from torch import Tensor, nn

from models.user_code import describe, failures_as
from pipelines.data.config import TRANSFORMS, AugmentationConfig, TransformConfig
from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.normalization import per_channel
from pipelines.data.randomness import hash_integers
from pipelines.data.seeding import seeded_generators
from pipelines.errors import UserError, is_out_of_memory

# Arguments of kornia's geometric augmentations that choose the color outside of the image, with 0.
_FILLS = {"fill": 0.0, "fill_value": torch.zeros(())}


class TransformError(UserError, ValueError):
    """A transform that cannot be used; the message says why."""


def transform_class(config: TransformConfig) -> type[nn.Module]:
    """Import the class of a transform.

    Raises:
        TransformError: the import fails, the arguments do not fit the class, or the class needs
            more than one sample.
    """
    try:
        cls: type[nn.Module] = TRANSFORMS.find(config.name)
        TRANSFORMS.check_arguments(config.name, cls, config.arguments, {})
    except ValueError as error:
        raise TransformError(str(error)) from error
    if _takes_labels(cls) or issubclass(cls, PolicyAugmentBase):
        return cls
    if issubclass(cls, kornia.augmentation.MixAugmentationBaseV2):
        raise TransformError(
            f"transform {config.name} mixes the samples of a batch, so a sample would depend on "
            "the others; choose one that changes each sample by itself"
        )
    if issubclass(cls, kornia.augmentation.ImageSequential):
        raise TransformError(
            f"transform {config.name} is a container; list the transforms it contains instead"
        )
    if issubclass(cls, _BasicAugmentationBase) and not issubclass(
        cls, kornia.augmentation.AugmentationBase2D
    ):
        raise TransformError(
            f"transform {config.name} is not an augmentation of images with two dimensions; "
            "choose another one"
        )
    return cls


class Transforms:
    """A sequence of transforms of images in [0, 1] and their labels.

    - kornia's intensity augmentations change images only. Pixels that they erase are ignored.
    - kornia's geometric augmentations move images and labels alike. Labels are copied from the
      nearest pixel. Pixels from outside of the image get the color `fill` and are ignored.
    - kornia's policies, such as RandAugment, do both.
    - A module with an argument `labels` of its `forward` maps images, float32 (1, C, H, W), and
      labels, int64 (1, H, W), to both. Any other module maps images to images.

    Images are clamped to [0, 1] after each transform.

    Args:
        configs: classes and arguments, in order.
        fill: color in [0, 1], per channel.

    Raises:
        TransformError: a class cannot be imported or built.
    """

    def __init__(
        self, configs: Sequence[TransformConfig], fill: Sequence[float] = RGB.mean
    ) -> None:
        self.fill = tuple(fill)
        self.names = [config.name for config in configs]
        self.modules = [_build(config, index) for index, config in enumerate(configs)]
        self._device = torch.device("cpu")

    def __call__(
        self, images: Tensor, labels: Tensor, keys: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return images, float32 (batch, C, H, W), and labels, int64 (batch, H, W).

        keys: of the samples' random numbers.

        Raises:
            TransformError: a transform fails, or returns other shapes or types.
        """
        self._move(images.device)
        changed = [
            self._one(images[row : row + 1], labels[row : row + 1], key)
            for row, key in enumerate(keys)
        ]
        return torch.cat([image for image, _ in changed]), torch.cat([each for _, each in changed])

    def _move(self, device: torch.device) -> None:
        if device == self._device:
            return
        self._device = device
        for module in self.modules:
            module.to(device)
            for part in module.modules():
                if isinstance(part, _BasicAugmentationBase):
                    # Draw on the host, so that the random numbers do not depend on the device.
                    part.set_rng_device_and_dtype(torch.device("cpu"), torch.float32)

    @torch.no_grad()
    def _one(self, image: Tensor, label: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Transform one sample."""
        for index, (name, module) in enumerate(zip(self.names, self.modules, strict=True)):
            try:
                with seeded_generators(int(hash_integers(key, index)), image.device):
                    changed = _apply(module, image, label, self.fill)
            except (Exception, SystemExit) as error:
                # The lack of memory keeps its class, because it may be temporary.
                kind = MemoryError if is_out_of_memory(error) else TransformError
                channels = "" if image.shape[1] == 3 else f" and {image.shape[1]} channels"
                raise kind(
                    f"transform {name}: it failed on a crop of {image.shape[2]} x {image.shape[3]} "
                    f"pixels{channels} ({describe(error)})"
                ) from error
            _check_result(name, changed, image, label)
            image, label = changed[0].clamp(0, 1), changed[1]
        return image, label


def check_transforms(
    config: AugmentationConfig, crop: tuple[int, int], image_format: ImageFormat = RGB
) -> None:
    """Apply each transform to an image of the crop's size, twice with the same key.

    Raises:
        TransformError: a transform cannot be built, fails, or depends on more than the sample and
            its random numbers.
    """
    if not config.transforms:
        return
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, image_format.channels, *crop, generator=generator)
    label = torch.randint(0, 2, (1, *crop), generator=generator)
    for each in config.transform_configs:
        transforms = Transforms([each], image_format.mean)
        first, _, again = (transforms(image, label, [key]) for key in (1, 2, 1))
        if not all(map(torch.equal, first, again)):
            raise TransformError(
                f"transform {each.name}: it changed the same sample differently the second time. "
                "It must keep no state, and draw from the global generators of torch, NumPy or "
                "Python"
            )


def _build(config: TransformConfig, index: int) -> nn.Module:
    cls = transform_class(config)
    # All workers get the same parameters if the constructor draws them.
    with (
        failures_as(TransformError, f"transform {config.name}: its constructor failed"),
        seeded_generators(index, torch.device("cpu")),
    ):
        module = cls(**config.arguments)
    if isinstance(module, PolicyAugmentBase):
        return kornia.augmentation.AugmentationSequential(module, data_keys=["input", "mask"])
    return module


def _takes_labels(cls: type[nn.Module]) -> bool:
    return "labels" in inspect.signature(cls.forward).parameters


def _apply(
    module: nn.Module, image: Tensor, label: Tensor, fill: Sequence[float]
) -> tuple[Tensor, Tensor]:
    if _takes_labels(type(module)):
        image, label = module(image, labels=label)
        return image, label
    if isinstance(module, kornia.augmentation.AugmentationSequential):
        # 0 is the value outside of the image.
        image, mask = module(image, label[:, None].float() + 1)
        inside = mask[:, 0] >= 1
        label = torch.where(inside, mask[:, 0].round().long() - 1, IGNORE_INDEX)
        return torch.where(inside[:, None], image, per_channel(image, fill)), label
    if isinstance(module, kornia.augmentation.IntensityAugmentationBase2D):
        image = module(image)
        ones = torch.ones_like(image[:, :1])
        kept = module.transform_masks(ones, params=module._params, flags=module.flags)
        return image, torch.where(kept[:, 0] > 0, label, IGNORE_INDEX)
    if isinstance(module, kornia.augmentation.AugmentationBase2D):
        return _move_both(module, image, label, fill)
    return module(image), label


def _move_both(
    module: kornia.augmentation.AugmentationBase2D,
    image: Tensor,
    label: Tensor,
    fill: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Apply a geometric augmentation to an image, and copy each label from the nearest pixel.

    The same augmentation, applied to the coordinates of the pixels, gives the position from which
    each pixel was sampled. kornia's own masks may be half a pixel off, and are not available for
    all of its augmentations.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device).view(1, 1, -1, 1).expand(1, 1, height, width)
    columns = torch.arange(width, device=image.device).expand_as(rows)
    positions = torch.cat([rows, columns, torch.ones_like(rows)], dim=1).to(image.dtype)
    image = module(image)
    fills = {name: zero for name, zero in _FILLS.items() if module.flags.get(name) is not None}
    moved = module(positions, params=module._params, **fills)
    # The third channel is the fraction of the sampled pixels that is inside of the image.
    inside = moved[:, 2] >= 0.5
    row, column = (moved[:, :2] / moved[:, 2:].clamp(min=0.5) + 0.5).long().unbind(1)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    label = torch.where(inside, label[0][row, column], IGNORE_INDEX)
    return torch.where(inside[:, None], image, per_channel(image, fill)), label


def _check_result(name: str, changed: object, image: Tensor, label: Tensor) -> None:
    """Check what a transform returned. Raises TransformError."""
    assert isinstance(changed, tuple)
    for kind, result, expected in zip(("images", "labels"), changed, (image, label), strict=True):
        if not isinstance(result, Tensor):
            received = type(result).__name__
        elif (result.shape, result.dtype) != (expected.shape, expected.dtype):
            received = f"{result.dtype} {tuple(result.shape)}".removeprefix("torch.")
        else:
            continue
        wanted = f"{expected.dtype} {tuple(expected.shape)}".removeprefix("torch.")
        raise TransformError(f"transform {name}: {kind} must be {wanted}, received {received}")

"""What the backbones of libraries share: levels found without weights, and a feature pyramid."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.contract import Backbone
from models.layers import BatchNorm2d

# Unless arguments select levels, a backbone returns at most this number.
MAX_LEVELS = 4

# Strides of the feature pyramid's levels, as multiples of the model's only stride.
_PYRAMID = (0.25, 0.5, 1, 2)


@dataclass(frozen=True)
class Traits:
    """The levels of a backbone of a library, found without weights.

    channels, strides: by level. stages: names or indices of the model's stages that return
    features.
    has_pyramid: whether the levels are a feature pyramid, because all features have one stride.
    feature_channels: channels by stage.
    unused: names of the model's parameters that no level depends on.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]
    stages: tuple[Any, ...]
    has_pyramid: bool
    feature_channels: tuple[int, ...]
    unused: frozenset[str]

    @staticmethod
    def of_features(
        name: str,
        channels: Sequence[int],
        strides: Sequence[float],
        stages: Sequence[Any],
        unused: frozenset[str],
    ) -> "Traits":
        """Return the traits of a model with these features, one for each stage. If all have the
        same stride, the levels are a pyramid of them.

        Raises:
            ValueError: a pyramid cannot be built from this number of features.
        """
        levels = features = tuple(channels)
        has_pyramid = len(set(strides)) == 1
        if has_pyramid:
            if len(levels) not in (1, len(_PYRAMID)):
                raise ValueError(
                    f"{name}: {len(levels)} stages of stride {strides[0]:g} are selected; select "
                    f"1, or {len(_PYRAMID)}, one by level of the feature pyramid"
                )
            levels = _pyramid_channels(features)
            strides = [strides[0] * factor for factor in _PYRAMID]
        whole = tuple(int(stride) if stride == int(stride) else stride for stride in strides)
        return Traits(levels, whole, tuple(stages), has_pyramid, features, unused)

    # As `BuiltInBackbone` and `Backbone` declare them.
    stems: tuple[str, ...] = ()
    can_dilate: bool = False

    @property
    def lateral_channels(self) -> int:
        """128, or 256 for wide backbones, as for the ResNets."""
        return 128 if max(self.channels) <= 768 else 256


def _by_level(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Return the input channels of the pyramid's levels."""
    return channels if len(channels) == len(_PYRAMID) else channels * len(_PYRAMID)


def _pyramid_channels(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Return the channels of the pyramid's levels, from those of one feature or of one by level."""
    widths = _by_level(channels)
    return (widths[0] // 4, widths[1] // 2, *widths[2:])


class FeaturePyramid(nn.Module):
    """The simple feature pyramid of features with one stride (Li et al., ECCV 2022).

    Levels at 1/4, 1/2, 1 and 2 times the stride: two transposed convolutions, one, none, and a
    max-pool. The paper's projection of each level to the same number of channels is left to the
    laterals of the neck, and batch norm replaces its layer norm.

    Args:
        in_channels: of the only feature, or of the feature for each level.
    """

    def __init__(self, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = _by_level(in_channels)
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(widths[0], widths[0] // 2, kernel_size=2, stride=2),
            BatchNorm2d(widths[0] // 2),
            nn.GELU(),
            nn.ConvTranspose2d(widths[0] // 2, widths[0] // 4, kernel_size=2, stride=2),
        )
        self.finer = nn.ConvTranspose2d(widths[1], widths[1] // 2, kernel_size=2, stride=2)
        self.pool = nn.MaxPool2d(kernel_size=2)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        finest, finer, same, coarser = features if len(features) > 1 else features * len(_PYRAMID)
        return [self.finest(finest), self.finer(finer), same, self.pool(coarser)]


class LibraryBackbone(Backbone):
    """A backbone of a library, with the last stage of each stride as levels.

    Images are padded at the right and the bottom to a multiple of the coarsest stride, with the
    mean color, and the levels are cropped.
    """

    def __init__(
        self, model: nn.Module, traits: Traits, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """model: of the library. mean, std: of the images that it expects."""
        super().__init__()
        self.channels, self.strides = traits.channels, traits.strides  # type: ignore[misc]
        self.lateral_channels = traits.lateral_channels  # type: ignore[misc]
        self.mean, self.std = tuple(mean), tuple(std)  # type: ignore[misc, assignment]
        self.model = model
        self.pyramid: FeaturePyramid | None = None
        if traits.has_pyramid:
            self.pyramid = FeaturePyramid(traits.feature_channels)

    @staticmethod
    @abstractmethod
    def traits(name: str, arguments: Mapping[str, Any]) -> Traits:
        """Return the traits of the backbone `name`.

        Raises:
            ValueError: there is no such backbone, or an argument is not valid.
        """

    @abstractmethod
    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features of images whose sides are multiples of the coarsest stride."""

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        multiple = round(self.strides[-1])
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        levels = self.features(padded)
        if self.pyramid is not None:
            levels = self.pyramid(levels)
        rows, columns = padded.shape[2:]
        return [
            # ceil(H / stride) without floating-point numbers.
            level[
                ..., : -(-height * level.shape[2] // rows), : -(-width * level.shape[3] // columns)
            ]
            for level in levels
        ]

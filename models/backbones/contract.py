"""The interface of a backbone, and the registry of backbones by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from models.normalization import IMAGENET_MEAN, IMAGENET_STD
from models.registry import BACKBONES, library_and_name, takes_argument


@dataclass(frozen=True)
class WeightLayout:
    """How the keys of published weights map to this package's parameter names.

    Attributes:
        name: source of the weights, for the report.
        signature: keys that identify this layout.
        renames: regular expressions and their replacements; the first one that matches a key is
            applied. A key without a match keeps its name.
        note: any difference in meaning where the shapes agree.
    """

    name: str
    signature: tuple[str, ...]
    renames: Mapping[str, str]
    note: str = ""


class Backbone(nn.Module):
    """Maps images to feature levels, finest first.

    A subclass declares `channels` and `strides`, one entry per level, and `forward` returns one
    tensor per level: level `i` is `(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`.
    The rest of the package works with any number of levels. The constructor receives only the
    options declared here (`stem`, `dilation`) and, if it has such an argument, `in_channels`: the
    number of channels of the images, passed if it is not 3.

    The images are normalized by `mean` and `std`; FENet receives images in ImageNet's normalization
    and converts them.
    """

    channels: ClassVar[tuple[int, ...]]
    strides: ClassVar[tuple[float, ...]] = (4, 8, 16, 32)
    #: Default channel depth C after the laterals.
    lateral_channels: ClassVar[int]

    #: The normalization, of images in [0, 1], that the published weights were trained with.
    mean: ClassVar[tuple[float, float, float]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, float, float]] = IMAGENET_STD

    #: Available stems, the default first. If empty, the constructor takes no `stem`.
    stems: ClassVar[tuple[str, ...]] = ()
    #: Whether the constructor takes `dilation`.
    can_dilate: ClassVar[bool] = False
    #: Layouts of published weights besides this package's; the first with a matching signature
    #: applies.
    layouts: ClassVar[tuple[WeightLayout, ...]] = ()

    #: The options it was built with, such as "backbone: resnet18, stem: plain"; set by
    #: `build_backbone`.
    built_as: str = ""

    #: Channels of the images; set by `build_backbone`.
    in_channels: int = 3

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the levels of images `(N, C, H, W)`, finest first."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


#: Class decorator that registers a `Backbone` under a name, the value of `backbone:`.
register_backbone = BACKBONES.register


def backbone_class(name: str) -> type[Backbone]:
    """Return the class registered under `name`, or import that of `package.module:Class`.

    Raises:
        ValueError: there is no such backbone.
    """
    cls: type[Backbone] = BACKBONES.find(name)
    return cls


def build_backbone(
    name: str,
    stem: str | None,
    dilation: bool,
    arguments: Mapping[str, Any] | None = None,
    in_channels: int = 3,
) -> Backbone:
    """Build the backbone `name`; options that it does not declare are ignored.

    arguments: of a model of a library. in_channels: of the images; a backbone whose constructor has
    no such argument must take them as it is.
    """
    cls = backbone_class(name)
    options: dict[str, Any] = {}
    if library_and_name(name) is not None:
        options = {"name": name, "arguments": arguments or {}}
    if cls.stems:
        options["stem"] = stem
    if cls.can_dilate:
        options["dilation"] = dilation
    if in_channels != Backbone.in_channels and takes_argument(cls, "in_channels"):
        options["in_channels"] = in_channels
    backbone = cls(**options)
    backbone.in_channels = in_channels
    backbone.built_as = f"backbone: {name}" + (f", stem: {stem}" if cls.stems else "")
    return backbone

"""What a backbone declares and returns, and the table of those known by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.registry import Registry


@dataclass(frozen=True)
class Layout:
    """How published weights name what this package names otherwise.

    Attributes:
        name: whose weights these are, for the report.
        signature: keys that tell this layout from the others.
        renames: regular expressions matched against a key, with what replaces the match; the first
            that matches is applied. A key that none matches keeps its name.
        note: what differs in meaning although the shapes agree.
    """

    name: str
    signature: tuple[str, ...]
    renames: Mapping[str, str]
    note: str = ""


class Backbone(nn.Module):
    """Maps images to feature levels, finest first.

    A subclass declares `channels` and `strides`, one entry a level, and returns as many tensors:
    level `i` is `(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`. Nothing else in the
    package depends on how many levels there are or on what they are made of. Options that are not
    declared here are never passed to the constructor.
    """

    channels: ClassVar[tuple[int, ...]]
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    #: The channel depth C after the laterals, unless the configuration says otherwise.
    lateral_channels: ClassVar[int]

    #: Stems to choose from, the backbone's own first; empty: there is one, and no `stem` argument.
    stems: ClassVar[tuple[str, ...]] = ()
    #: Whether the constructor takes `dilation`.
    can_dilate: ClassVar[bool] = False
    #: Published layouts of weights besides its own; the first whose signature is found applies.
    layouts: ClassVar[tuple[Layout, ...]] = ()

    #: The options it was built with, as `build_backbone` notes them.
    built_as: str = ""

    def forward(self, images: Tensor) -> list[Tensor]:
        """`(N, 3, H, W)` to the levels, finest first."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


BACKBONES: Registry[Backbone] = Registry("backbone")

#: Class decorator: makes a `Backbone` known under a name, the value of `backbone:`.
register_backbone = BACKBONES.register


def backbone_class(name: str) -> type[Backbone]:
    """The class registered under `name`.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone is {name!r}; known: {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]


def build_backbone(name: str, stem: str | None, dilation: bool) -> Backbone:
    """The backbone `name` with those of the options that it declares."""
    cls = backbone_class(name)
    options: dict[str, str | bool | None] = {}
    if cls.stems:
        options["stem"] = stem
    if cls.can_dilate:
        options["dilation"] = dilation
    backbone = cls(**options)
    backbone.built_as = f"backbone: {name}" + (f", stem: {stem}" if cls.stems else "")
    return backbone

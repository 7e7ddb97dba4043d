"""What a backbone declares and returns, and the table of those known by name."""

from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import Tensor, nn


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

    def forward(self, images: Tensor) -> list[Tensor]:
        """`(N, 3, H, W)` to the levels, finest first."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


BACKBONES: dict[str, type[Backbone]] = {}

B = TypeVar("B", bound=type[Backbone])


def register_backbone(name: str) -> Callable[[B], B]:
    """Class decorator: makes a `Backbone` known under `name`, the value of `backbone:`."""

    def register(cls: B) -> B:
        if name in BACKBONES:
            raise ValueError(f"backbone {name!r} is already {BACKBONES[name].__qualname__}")
        BACKBONES[name] = cls
        return cls

    return register


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
    return cls(**options)

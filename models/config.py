"""The configurations of networks and losses, which are read without importing torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from models.hugging_face.configuration import resolve
from models.registry import (
    BACKBONES,
    FEM_KINDS,
    ClassConfig,
    Registry,
    is_class_name,
    library_and_name,
)

Start = Literal["mean-blur", "low-pass"]


@dataclass(frozen=True)
class BuiltInBackbone:
    """The class attributes of a built-in backbone that a configuration depends on; see
    `models.backbones.Backbone`."""

    channels: tuple[int, ...]
    lateral_channels: int
    stems: tuple[str, ...] = ()
    can_dilate: bool = False


_RESNET_STEMS = ("64-64-128", "32-32-64", "plain")

#: Built-in backbones by name.
BUILT_IN_BACKBONES = {
    "dfnet1": BuiltInBackbone((64, 64, 128, 512), 64),
    "dfnet1-half": BuiltInBackbone((32, 32, 64, 256), 32),
    "dfnet2": BuiltInBackbone((64, 128, 256, 512), 64),
    "efficientnet-lite0": BuiltInBackbone((24, 40, 112, 320), 64),
    "resnet101": BuiltInBackbone((256, 512, 1024, 2048), 256, _RESNET_STEMS, can_dilate=True),
    "resnet18": BuiltInBackbone((64, 128, 256, 512), 128, _RESNET_STEMS, can_dilate=True),
    "resnet50": BuiltInBackbone((256, 512, 1024, 2048), 256, _RESNET_STEMS, can_dilate=True),
}
_BUILT_IN_FEM_KINDS = ("detail", "semantic")


def backbone_names() -> list[str]:
    """Return the names of all backbones: built-in ones and those registered so far."""
    return sorted(BUILT_IN_BACKBONES.keys() | BACKBONES.keys())


def backbone_traits(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return what declares a backbone's channels, stems and dilation: its class, its entry in
    `BUILT_IN_BACKBONES`, or an object for a model of a library.

    Raises:
        ValueError: there is no such backbone, or it does not take the arguments.
    """
    if library_and_name(name) is not None:
        return BACKBONES.find(name).traits(name, arguments)
    if arguments:
        raise ValueError(
            f"backbone_arguments is {dict(arguments)}, but {name} takes none; only a backbone "
            "named hf:... or timm:... does"
        )
    if name in BUILT_IN_BACKBONES:
        return BUILT_IN_BACKBONES[name]
    if name not in BACKBONES and not is_class_name(name):
        known = ", ".join(backbone_names())
        raise ValueError(
            f"backbone is {name!r}; known: {known}; or hf:NAME, timm:NAME or package.module:Class"
        )
    cls = BACKBONES.find(name)
    for attribute in ("channels", "lateral_channels"):
        if not hasattr(cls, attribute):
            raise ValueError(
                f"backbone {name}: its class declares no `{attribute}`; see models.Backbone"
            )
    return cls


def is_built_in(name: str) -> bool:
    """Whether `name` is that of a backbone or a kind of FEM of this project."""
    return name in BUILT_IN_BACKBONES or name in _BUILT_IN_FEM_KINDS


def fem_kinds() -> list[str]:
    """Return the names of all kinds of FEM: built-in ones and those registered so far."""
    return sorted({*_BUILT_IN_FEM_KINDS, *FEM_KINDS})


def _check_fem_kind(name: str) -> None:
    if name in fem_kinds():
        return
    if not is_class_name(name):
        known = ", ".join(fem_kinds())
        raise ValueError(f"flows has {name!r}; known: {known}; or package.module:Class")
    FEM_KINDS.find(name)


@dataclass(frozen=True)
class FENetConfig:
    """The network. The default is the paper's FENet on ResNet-18, without semantic supervision.

    | row of Table 1(a)       | ppm   | flows              | supervision  |
    |-------------------------|-------|--------------------|--------------|
    | baseline                | false | none               |              |
    | strong baseline         | true  | none               |              |
    | strong + DF             | true  | detail             |              |
    | strong + SF             | true  | semantic           |              |
    | strong + DF + SF        | true  | detail, semantic   |              |
    | strong + DF + SF + SS(4)| true  | detail, semantic   | 1, 2, 3, 4   |
    | strong + DF + SF + SS(2)| true  | detail, semantic   | 3, 4         |

    Attributes:
        backbone: name of a registered backbone, `package.module:Class` of a `models.Backbone`, or
            `hf:NAME` of a backbone in `transformers`: a type of model (`hf:convnext`), the folder
            of a saved model (`hf:./folder`) or a model on the hub (`hf:OWNER/NAME`); or
            `timm:NAME` of a model in `timm`.
        backbone_arguments: entries of the configuration of a backbone `hf:NAME`, or arguments of
            the constructor of `timm:NAME`.
        stem: one of the backbone's stems, for ResNets "64-64-128" (as in the paper), "32-32-64" or
            "plain". Default: the backbone's first stem.
        channels: C, the channel depth of every level after the laterals. Default: 256 for
            ResNet-50 and -101, 128 for ResNet-18, 32 for dfnet1-half, 64 for DFNets and
            EfficientNet-Lite0; for `hf:NAME` and `timm:NAME` 128, or 256 if a level has more than
            768 channels.
        dilation: dilate the last two stages and keep their strides. Default, as in the paper: true
            if `ppm` is true and the backbone supports dilation.
        ppm: use pyramid pooling instead of the last stage's lateral.
        flows: kinds of FEM, in the order of their flows: names, or `package.module:Class` of a
            `models.FEM`. The levels are finally concatenated, or added if there is no flow.
        supervision: stages, counted from 1, with an auxiliary head during training.
        structure_start: initial filter of the structure extractors; see
            `models.enhancement.Extractor`.
        extractor_kernel: kernel size of the extractors, an odd number.
        dropout: rate of the channel dropout before the classifier.

    Raises:
        ValueError: a value or a combination of values is not valid.
    """

    backbone: str = "resnet18"
    stem: str | None = None
    channels: int | None = None
    dilation: bool | None = None
    ppm: bool = True
    flows: tuple[str, ...] = ("detail", "semantic")
    supervision: tuple[int, ...] = ()
    structure_start: Start = "mean-blur"
    extractor_kernel: int = 3
    dropout: float = 0.1
    backbone_arguments: Mapping[str, Any] = field(default_factory=dict)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        backbone = backbone_traits(self.backbone, self.backbone_arguments)
        if self.stem is not None and self.stem not in backbone.stems:
            stems = f"one of {', '.join(backbone.stems)}" if backbone.stems else "left out"
            raise ValueError(f"stem is {self.stem!r}; with {self.backbone} it must be {stems}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels is {self.channels}; it must be at least 1")
        if self.dilation and not backbone.can_dilate:
            raise ValueError(
                f"dilation is true, but {self.backbone} does not support dilation; "
                "remove it or set it to false"
            )
        for kind in self.flows:
            _check_fem_kind(kind)
        stages = range(1, len(backbone.channels) + 1)
        if any(stage not in stages for stage in self.supervision):
            raise ValueError(
                f"supervision is {list(self.supervision)}; "
                f"the stages of {self.backbone} are {', '.join(map(str, stages))}"
            )
        if len(set(self.supervision)) < len(self.supervision):
            raise ValueError(f"supervision is {list(self.supervision)}; it names a stage twice")
        if self.structure_start not in ("mean-blur", "low-pass"):
            raise ValueError(
                f"structure_start is {self.structure_start!r}; it must be mean-blur or low-pass"
            )
        if self.extractor_kernel < 1 or self.extractor_kernel % 2 == 0:
            raise ValueError(
                f"extractor_kernel is {self.extractor_kernel}; it must be odd: 3, 5, 7, ..."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    def resolved(self) -> "FENetConfig":
        """Return the configuration with the backbone's defaults filled in, and a saved model
        replaced by its type and arguments."""
        backbone = backbone_traits(self.backbone, self.backbone_arguments)
        name, arguments = resolve(self.backbone, self.backbone_arguments)
        default_stem = backbone.stems[0] if backbone.stems else None
        return replace(
            self,
            backbone=name,
            backbone_arguments=arguments,
            stem=self.stem or default_stem,
            channels=self.channels or backbone.lateral_channels,
            dilation=self.ppm and backbone.can_dilate if self.dilation is None else self.dilation,
        )


#: Losses by name, the values of `terms:`.
LOSSES: Registry[Any] = Registry(
    "loss",
    "torch.nn:Module",
    {
        "boundary": "models.region_losses:Boundary",
        "cross-entropy": "models.losses:CrossEntropy",
        "dice": "models.region_losses:Dice",
        "focal": "models.losses:Focal",
        "lovasz": "models.region_losses:Lovasz",
        "mined-cross-entropy": "models.losses:MinedCrossEntropy",
    },
)

#: The loss that `threshold` and `share` belong to.
MINED = "mined-cross-entropy"


@dataclass(frozen=True)
class LossTermConfig(ClassConfig):
    """One term of a loss.

    Attributes:
        name: `mined-cross-entropy`, `cross-entropy`, `focal`, `dice`, `lovasz`, `boundary`, or
            `package.module:Class` of a `models.losses.Loss` or another `nn.Module`.
        arguments: arguments of its constructor, such as `class_weights`.
        weight: factor of the term in the sum.
    """

    weight: float = 1.0

    registry = LOSSES

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight is {self.weight}; it must be above 0")


@dataclass(frozen=True)
class LossConfig:
    """The terms of the loss, hard example mining, and the weight of the auxiliary loss.

    Attributes:
        terms: losses of each output that are added up: names, or mappings of `name`, `weight` and
            `arguments`.
        threshold: of `mined-cross-entropy`: a pixel contributes to the loss if the predicted
            probability of its class is below this value.
        share: of `mined-cross-entropy`: fraction of a crop's pixels, the hardest of each image,
            that always contribute; 1 is plain cross-entropy.
        auxiliary_weight: λ in equation (5).
    """

    terms: tuple[str | LossTermConfig, ...] = (MINED,)
    threshold: float = 0.7
    share: float = 0.05
    auxiliary_weight: float = 1.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be a probability, 0 to 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be a fraction, 0 to 1")
        if self.threshold == 0 and self.share == 0:
            raise ValueError("threshold and share are both 0, so no pixel would contribute")
        if not (math.isfinite(self.auxiliary_weight) and self.auxiliary_weight >= 0):
            raise ValueError(f"auxiliary_weight is {self.auxiliary_weight}; it must be 0 or more")
        if not self.terms:
            raise ValueError("terms is empty; name at least one loss")
        terms = tuple(LossTermConfig.read(term, "terms").short_form() for term in self.terms)
        object.__setattr__(self, "terms", terms)
        if MINED not in {term.name for term in self.term_configs}:
            for name in ("threshold", "share"):
                if getattr(self, name) != getattr(LossConfig, name):
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, but it belongs to {MINED}, which is not "
                        "among the terms; remove it"
                    )

    @property
    def term_configs(self) -> tuple[LossTermConfig, ...]:
        """`terms` in their long form."""
        return tuple(LossTermConfig.read(term, "terms") for term in self.terms)

"""FENet (Fig. 3): one model, of which every row of the paper's tables is a configuration."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.backbones import Backbone, backbone_class, build_backbone
from models.dropout import ChannelDropout
from models.enhancement import FEM_KINDS, FEMOptions, Flow, Start
from models.initialisation import initialise
from models.layers import (
    Classifier,
    ConvNormReLU,
    fuse_by_addition,
    fuse_by_concatenation,
    resize,
)
from models.pyramid import PyramidPooling


@dataclass(frozen=True)
class FENetConfig:
    """Which network; the default is the paper's FENet without semantic supervision, on ResNet-18.

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
        backbone: a registered name.
        stem: one of the backbone's stems, for ResNets "64-64-128" (as the paper), "32-32-64" or
            "plain"; None: its own.
        channels: C, the depth of every level after the laterals; None: 256 for ResNet-50 and -101,
            128 for ResNet-18, 64 for DFNets.
        dilation: dilate the last two stages, strides kept; None: as the paper, exactly when `ppm`
            is on and the backbone can.
        ppm: pyramid pooling in place of the last stage's lateral.
        flows: kinds of FEM in the order in which they flow. Without any, levels are added at the
            end; with one, they are concatenated.
        supervision: stages, from 1, that carry an auxiliary head while training.
        structure_start: what the structure extractors start as; see `models.enhancement.Extractor`.
        extractor_kernel: size of the extractors' kernels, odd.
        dropout: rate of the channel dropout before the classifier.

    Raises:
        ValueError: a value, or a combination, that no network can be built from.
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

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        backbone = backbone_class(self.backbone)
        if self.stem is not None and self.stem not in backbone.stems:
            stems = f"one of {', '.join(backbone.stems)}" if backbone.stems else "left out"
            raise ValueError(f"stem is {self.stem!r}; with {self.backbone} it must be {stems}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels is {self.channels}; it must be at least 1")
        if self.dilation and not backbone.can_dilate:
            raise ValueError(
                f"dilation is true, but {self.backbone} has no dilated form; "
                "leave dilation out or set it to false"
            )
        for kind in self.flows:
            if kind not in FEM_KINDS:
                raise ValueError(f"flows has {kind!r}; known: {', '.join(sorted(FEM_KINDS))}")
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
        """The same network with everything written out that was left to the backbone."""
        backbone = backbone_class(self.backbone)
        own_stem = backbone.stems[0] if backbone.stems else None
        return replace(
            self,
            stem=self.stem or own_stem,
            channels=self.channels or backbone.lateral_channels,
            dilation=self.ppm and backbone.can_dilate if self.dilation is None else self.dilation,
        )


class Neck(nn.Module):
    """Brings every level to C channels: 1x1 convolution, batch norm, ReLU; or the PPM for the last.

    The text has 3x3 laterals; the 44.2 M and 239.2 G of Table 2 are only reached with 1x1.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, ppm: bool) -> None:
        super().__init__()
        plain = in_channels[:-1] if ppm else in_channels
        self.laterals = nn.ModuleList(ConvNormReLU(c, channels, 1) for c in plain)
        self.ppm = PyramidPooling(in_channels[-1], channels) if ppm else None

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        # Without a PPM there are as many laterals as levels, with it one less.
        projected = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=False)]
        return projected if self.ppm is None else [*projected, self.ppm(levels[-1])]


class Head(nn.Module):
    """3x3 convolution, batch norm, ReLU, dropout, 1x1 classifier: `in` channels to K logits."""

    def __init__(
        self, in_channels: int, channels: int, classes: int, dropout: float, name: str
    ) -> None:
        super().__init__()
        self.conv = ConvNormReLU(in_channels, channels, 3)
        self.dropout = ChannelDropout(dropout, layer=name)
        self.classifier = Classifier(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(features)))


class FENet(nn.Module):
    """The network of Fig. 3, for any number of classes and any image size.

    Backbone, then `neck` (laterals and PPM), then `flows`, then all levels at the size of the
    finest, added (no flow) or concatenated (with flows), then `head`, then bilinear upsampling to
    the image's size. `auxiliary` holds the heads of semantic supervision on the backbone's stages,
    without dropout; they work while training only.

    Parts that two configurations have in common have the same names and, for one seed, start from
    the same values: `backbone`, `neck.laterals.I`, `neck.ppm`, `flows.detail`, `flows.semantic`,
    `head`, `auxiliary.stageI`. A kind that flows a second time is called `detail2`.

    Attributes:
        config: the configuration with all its defaults resolved.
        classes: K.
    """

    def __init__(self, config: FENetConfig, classes: int, seed: int = 0) -> None:
        """Build the network on the CPU (or under `torch.device("meta")`).

        Raises:
            ValueError: `classes` below 1.
        """
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes is {classes}; it must be at least 1")
        self.config = config = config.resolved()
        self.classes = classes
        assert config.channels is not None
        assert config.dilation is not None
        channels = config.channels

        # The layers' own first values are replaced below; drawing them must not move the caller's.
        with torch.random.fork_rng(devices=[]):
            self.backbone: Backbone = build_backbone(config.backbone, config.stem, config.dilation)
            levels = len(self.backbone.channels)
            self.neck = Neck(self.backbone.channels, channels, config.ppm)
            options = FEMOptions(config.extractor_kernel, config.structure_start)
            self.flows = nn.ModuleDict(
                {
                    name: Flow(FEM_KINDS[kind], levels, channels, options)
                    for name, kind in _numbered(config.flows)
                }
            )
            fused = channels * levels if config.flows else channels
            self.head = Head(fused, channels, classes, config.dropout, name="head")
            self.auxiliary = nn.ModuleDict(
                {
                    f"stage{stage}": Head(
                        self.backbone.channels[stage - 1], channels, classes, 0, f"stage{stage}"
                    )
                    for stage in config.supervision
                }
            )
        initialise(self, seed)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Logits of normalised images.

        Args:
            images: `(N, 3, H, W)`.

        Returns:
            Logits `(N, K, H, W)`, float32 at least; while training with supervision, the pair of
            them and the auxiliary logits `{"stage3": (N, K, H/16, W/16), ...}`, at their stage's
            own size: the loss upsamples one at a time, which saves memory.
        """
        levels = self.backbone(images)
        auxiliary = {}
        if self.training:
            for stage, head in zip(self.config.supervision, self.auxiliary.values(), strict=True):
                auxiliary[f"stage{stage}"] = head(levels[stage - 1])
        for _, step in self._steps():
            levels = step(levels)
        fuse = fuse_by_concatenation if self.config.flows else fuse_by_addition
        logits = self.head(fuse(levels))
        # bfloat16 would round neighbouring classes to ties; the loss needs float32 in any case.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = resize(logits, images)
        return (logits, auxiliary) if auxiliary else logits

    def features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """The levels, finest first, after each step: what the paper's Figures 1 and 6 show.

        Returns:
            By step, in order: "backbone"; "neck", what enters the flows; then each flow by name,
            so "detail" after DF and "semantic" after SF. Levels have C channels, the backbone's
            their own, and the sizes that the backbone declares.
        """
        levels = self.backbone(images)
        found = {"backbone": levels}
        for name, step in self._steps():
            levels = step(levels)
            found[name] = levels
        return found

    def _steps(self) -> list[tuple[str, nn.Module]]:
        """What happens to the backbone's levels, in order."""
        return [("neck", self.neck), *self.flows.items()]


def _numbered(kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """(name, kind) pairs whose names differ: detail, semantic, detail2, ..."""
    named = []
    for position, kind in enumerate(kinds):
        earlier = kinds[:position].count(kind)
        named.append((f"{kind}{earlier + 1}" if earlier else kind, kind))
    return named

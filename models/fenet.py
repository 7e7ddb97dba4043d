"""FENet (Fig. 3): one network whose configurations give every row of the paper's tables."""

import torch
from torch import Tensor, nn

from models.backbones import Backbone, build_backbone
from models.config import FENetConfig
from models.dropout import ChannelDropout
from models.enhancement import FEM_KINDS, FEMOptions, Flow
from models.initialization import keyed_construction
from models.layers import (
    Classifier,
    ConvNormReLU,
    fuse_by_addition,
    fuse_by_concatenation,
)
from models.normalization import renormalize
from models.pyramid import PyramidPooling
from models.resampling import resize


class Neck(nn.Module):
    """Maps every level to C channels by a lateral (1x1 convolution, batch norm, ReLU) or the PPM.

    The paper's text has 3x3 laterals, but only 1x1 laterals give the 44.2 M parameters and 239.2
    GFLOPs of its Table 2.

    Args:
        in_channels: channels of each level.
        channels: C.
        ppm: use pyramid pooling instead of a lateral for the last level.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, ppm: bool) -> None:
        super().__init__()
        lateral_inputs = in_channels[:-1] if ppm else in_channels
        self.laterals = nn.ModuleList(ConvNormReLU(c, channels, 1) for c in lateral_inputs)
        self.ppm = PyramidPooling(in_channels[-1], channels) if ppm else None

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        # With a PPM there is one lateral fewer than levels.
        projected = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=False)]
        return projected if self.ppm is None else [*projected, self.ppm(levels[-1])]


class Head(nn.Module):
    """3x3 convolution, batch norm, ReLU, dropout and 1x1 classifier to K logits."""

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

    The parts in order: backbone, `neck` (laterals and PPM), `flows`, fusion of all levels at the
    size of the finest (added without flows, concatenated with flows), `head`, and, in evaluation,
    bilinear upsampling to the image size. `auxiliary` holds the heads of semantic supervision on
    the backbone's stages; they have no dropout and run during training only.

    Parts shared by two configurations have the same names and, for the same seed, the same initial
    values: `backbone`, `neck.laterals.I`, `neck.ppm`, `flows.detail`, `flows.semantic`, `head`,
    `auxiliary.stageI`. The second flow of the same kind is named, for example, `detail2`.

    Attributes:
        config: the configuration with the backbone's defaults filled in.
        classes: K, the number of classes.
    """

    def __init__(
        self,
        config: FENetConfig,
        classes: int,
        seed: int | None = None,
        in_channels: int = 3,
    ) -> None:
        """Build the network on the CPU (or under `torch.device("meta")`).

        seed: of the initial values; by default that of the custom network that this one is part of,
            otherwise 0.
        in_channels: channels of the images.

        Raises:
            ValueError: `classes` is below 1.
        """
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes is {classes}; it must be at least 1")
        self.config = config = config.resolved()
        self.classes = classes
        assert config.channels is not None
        assert config.dilation is not None
        channels = config.channels

        with keyed_construction(seed) as construction:
            construction.key("backbone")
            self.backbone: Backbone = build_backbone(
                config.backbone,
                config.stem,
                config.dilation,
                config.backbone_arguments,
                in_channels,
            )
            levels = len(self.backbone.channels)
            self.neck = Neck(self.backbone.channels, channels, config.ppm)
            options = FEMOptions(config.extractor_kernel, config.structure_start)
            self.flows = nn.ModuleDict()
            for name, kind in _numbered(config.flows):
                construction.key(f"flows.{name}")
                self.flows[name] = Flow(FEM_KINDS.find(kind), levels, channels, options)
            fused_channels = channels * levels if config.flows else channels
            self.head = Head(fused_channels, channels, classes, config.dropout, name="head")
            self.auxiliary = nn.ModuleDict(
                {
                    f"stage{stage}": Head(
                        self.backbone.channels[stage - 1], channels, classes, 0, f"stage{stage}"
                    )
                    for stage in config.supervision
                }
            )
            construction.initialize(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute the logits of normalized images.

        Args:
            images: `(N, C, H, W)`, in ImageNet's normalization or that of their data set.

        Returns:
            Logits `(N, K, H, W)`, at least float32. During training, logits keep the size of their
            features, `(N, K, H/4, W/4)`, because the loss upsamples them without holding all of
            them; with supervision, a pair of the logits and the auxiliary logits
            `{"stage3": (N, K, H/16, W/16), ...}`.
        """
        levels = self._backbone_levels(images)
        auxiliary = {}
        if self.training:
            for stage, head in zip(self.config.supervision, self.auxiliary.values(), strict=True):
                auxiliary[f"stage{stage}"] = head(levels[stage - 1])
        for _, step in self._steps():
            levels = step(levels)
        fuse = fuse_by_concatenation if self.config.flows else fuse_by_addition
        logits = self.head(fuse(levels))
        if self.training:
            return (logits, auxiliary) if auxiliary else logits
        # Rounding interpolated values to bfloat16 would make the logits of similar classes equal.
        return resize(logits.to(torch.promote_types(logits.dtype, torch.float32)), images)

    def features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Return the levels, finest first, after each step, as in the paper's Figures 1 and 6.

        Returns:
            Levels by the name of the step, in order: "backbone"; "neck", the input of the flows;
            then the flows, such as "detail" (DF) and "semantic" (SF). After the neck, every level
            has C channels.
        """
        levels = self._backbone_levels(images)
        levels_by_step = {"backbone": levels}
        for name, step in self._steps():
            levels = step(levels)
            levels_by_step[name] = levels
        return levels_by_step

    def _backbone_levels(self, images: Tensor) -> list[Tensor]:
        return self.backbone(renormalize(images, self.backbone.mean, self.backbone.std))

    def _steps(self) -> list[tuple[str, nn.Module]]:
        """Return the modules applied to the backbone's levels, in order, by name."""
        return [("neck", self.neck), *self.flows.items()]


def _numbered(kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (name, kind) pairs with unique names: detail, semantic, detail2, ...; a class of
    the user is named without its package."""
    names = [kind.rpartition(":")[2] for kind in kinds]
    named = []
    for position, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        earlier = names[:position].count(name)
        named.append((f"{name}{earlier + 1}" if earlier else name, kind))
    return named

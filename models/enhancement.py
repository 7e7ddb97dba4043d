"""Feature enhancement modules (FEMs) and flows: equations (1) to (4) of the paper."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Start
from models.layers import BasicBlock, ConvNormReLU
from models.registry import FEM_KINDS
from models.resampling import resize


class Extractor(nn.Module):
    """Equation (2): `E(F) = F - K * F`, for `F` of `(N, C, H, W)`.

    `K` is a learnable **depthwise** kernel `(C, 1, k, k)` without bias. The paper only says "a
    convolution layer", but its Table 2 implies depthwise: a dense `K` would add 3.5 M parameters
    per flow to the reported 8.9 M.

    `start="mean-blur"` (the paper): every tap of `K` starts at `1 / k^2`, so `E` starts as a
    high-pass filter. `start="low-pass"` is an ablation for the structure extractor: `K` starts as
    the unit impulse minus the mean blur, so `E` starts as the mean blur.

    Convolution is linear and the unit impulse reproduces its input, so `F - K * F = (delta - K) *
    F`: one depthwise convolution and no second pass over `F`. This also holds at the borders,
    because the impulse reads only the pixel itself. The paper does not state the padding; zero
    padding, the default of a convolution layer, is used.
    """

    delta: Tensor

    def __init__(self, channels: int, kernel_size: int = 3, start: Start = "mean-blur") -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"extractor_kernel is {kernel_size}; it must be odd: 3, 5, 7, ...")
        self.start = start
        self.kernel = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))
        delta = torch.zeros(1, 1, kernel_size, kernel_size)
        delta[0, 0, kernel_size // 2, kernel_size // 2] = 1
        self.register_buffer("delta", delta, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        taps = self.kernel.shape[-1] ** 2
        with torch.no_grad():
            self.kernel.fill_(1 / taps)
            if self.start == "low-pass":
                self.kernel.copy_(self.delta - self.kernel)

    def forward(self, features: Tensor) -> Tensor:
        channels, _, size, _ = self.kernel.shape
        return F.conv2d(features, self.delta - self.kernel, padding=size // 2, groups=channels)


@dataclass(frozen=True)
class FEMOptions:
    """Options of all FEM kinds; each kind reads the ones it uses."""

    extractor_kernel: int = 3
    structure_start: Start = "mean-blur"


class FEM(nn.Module):
    """Base class of FEM kinds. Equation (1): `Ft' = Θ(F + Oper(Ft, Fa))`.

    Shapes: target `Ft` and result `(N, C, H, W)`; auxiliary `Fa` `(N, C, H', W')`, an adjacent
    level. The kinds differ in `F`, the term added back.

    `Oper(Ft, Fa) = Φ(cat(E(Ft), resize(E(Fa))))`: extraction (2) with a separate extractor for each
    input, bilinear resizing to `(H, W)`, then Φ, a 3x3 convolution `2C -> C` followed by one
    residual block of two 3x3 convolutions. Θ is a 3x3 convolution `C -> C`. Batch norm and ReLU
    follow the convolutions as usual; the paper's figure omits them.

    To add a kind, subclass this class, set `auxiliary`, implement `forward` and register it with
    `register_fem`; its name is then valid in `flows`. A flow calls `kind(channels, options)`.
    """

    #: Which neighbor of the target is `Fa`. This also sets the direction in which a flow runs.
    auxiliary: ClassVar[Literal["finer", "coarser"]]

    def __init__(self, channels: int, options: FEMOptions, start: Start = "mean-blur") -> None:
        super().__init__()
        self.extract_target = Extractor(channels, options.extractor_kernel, start)
        self.extract_auxiliary = Extractor(channels, options.extractor_kernel, start)
        self.phi = nn.Sequential(
            ConvNormReLU(2 * channels, channels, 3), BasicBlock(channels, channels)
        )
        self.theta = ConvNormReLU(channels, channels, 3)

    def oper(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        """Return `Φ(cat(E(Ft), resize(E(Fa))))`, `(N, C, H, W)`."""
        extracted = resize(self.extract_auxiliary(auxiliary), target)
        return self.phi(torch.cat([self.extract_target(target), extracted], dim=1))

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        """Return `Ft'` for target `Ft` and auxiliary `Fa`."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


#: Class decorator that registers a FEM kind under a name, for use in `flows`.
register_fem = FEM_KINDS.register


@register_fem("detail")
class DetailFEM(FEM):
    """Equation (3): `Ft' = Θ(Ft + Φ(cat(E(Ft), down(E(Fa)))))`.

    The auxiliary is the next finer level, resized down; it restores details that the target lost.
    """

    auxiliary = "finer"

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        return self.theta(target + self.oper(target, auxiliary))


@register_fem("semantic")
class SemanticFEM(FEM):
    """Equation (4): `Ft' = Θ(up(Fa) + Φ(cat(E(Ft), up(E(Fa)))))`.

    The auxiliary is the next coarser level, resized up; it is added back instead of the target.

    As in the paper's text, both extractors start from the mean blur and are therefore high-pass,
    although the name "structure extractor" suggests low-pass; `structure_start="low-pass"` starts
    them as low-pass filters.
    """

    auxiliary = "coarser"

    def __init__(self, channels: int, options: FEMOptions) -> None:
        super().__init__(channels, options, options.structure_start)

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        return self.theta(resize(auxiliary, target) + self.oper(target, auxiliary))


class Flow(nn.Module):
    """One FEM between each pair of adjacent levels, applied one after the other (Fig. 3).

    Levels are `(N, C, H_i, W_i)`, finest first. A flow runs from the finest to the coarsest level
    if the kind's auxiliary is the finer level, otherwise from the coarsest to the finest. Each FEM
    receives its neighbor as already enhanced by the flow. The first level passes through unchanged.
    """

    def __init__(self, kind: type[FEM], levels: int, channels: int, options: FEMOptions) -> None:
        super().__init__()
        self.starts_finest = kind.auxiliary == "finer"
        self.fems = nn.ModuleList(kind(channels, options) for _ in range(levels - 1))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        ordered = levels if self.starts_finest else levels[::-1]
        enhanced = ordered[:1]
        for fem, target in zip(self.fems, ordered[1:], strict=True):
            enhanced.append(fem(target, enhanced[-1]))
        return enhanced if self.starts_finest else enhanced[::-1]

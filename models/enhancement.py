"""Feature enhancement modules and the flows they form: equations (1) to (4) of the paper."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import BasicBlock, ConvNormReLU, resize
from models.registry import Registry

Start = Literal["mean-blur", "low-pass"]


class Extractor(nn.Module):
    """Equation (2): `E(F) = F - K * F`, for `F` of `(N, C, H, W)`.

    `K` is a learnable **depthwise** kernel `(C, 1, k, k)` without bias. The paper says only "a
    convolution layer"; depthwise is forced by the 8.9 M parameters of its Table 2, to which a dense
    `K` would add 3.5 M a flow.

    `start="mean-blur"`, as in the text: every tap is `1 / k^2`, hence `E` passes what is not
    smooth. `start="low-pass"` is an ablation for the structure extractor: `K` is the unit impulse
    minus the mean blur, hence `E` starts as the mean blur and passes what is smooth.

    Convolution is linear and the unit impulse reproduces its input, so `F - K * F = (delta - K) *
    F`: one depthwise convolution, no second pass over `F`. This holds at the borders too, whatever
    the padding, since the impulse reads only the pixel itself. The padding is zero, the convolution
    layer's default, about which the paper is silent.
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
    """What the kinds of FEM may be configured with; a kind reads what concerns it."""

    extractor_kernel: int = 3
    structure_start: Start = "mean-blur"


class FEM(nn.Module):
    """Equation (1): `Ft' = Θ(F + Oper(Ft, Fa))`, what both kinds share.

    Shapes: target `Ft` and result `(N, C, H, W)`; auxiliary `Fa` `(N, C, H', W')`, a neighbouring
    level. `F`, the term added back, is what the kinds differ in.

    `Oper(Ft, Fa) = Φ(cat(E(Ft), resize(E(Fa))))`: extraction (2) by one extractor for each input,
    bilinear resizing to `(H, W)`, then Φ, a 3x3 convolution `2C -> C` and one residual block of two
    3x3. Θ is a 3x3 convolution `C -> C`. Batch norm and ReLU follow each convolution in the usual
    places; the paper's figure leaves them out.

    A kind of your own subclasses this, says in `auxiliary` which neighbour it takes from,
    implements `forward` and is registered by `register_fem`; its name then works in `flows`. A flow
    builds it as `kind(channels, options)`.
    """

    #: Which neighbour of the target is `Fa`; with it, the direction in which a flow runs.
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
        """`Φ(cat(E(Ft), resize(E(Fa))))`: `(N, C, H, W)`."""
        extracted = resize(self.extract_auxiliary(auxiliary), target)
        return self.phi(torch.cat([self.extract_target(target), extracted], dim=1))

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        """`Ft`, `Fa` to `Ft'`."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


FEM_KINDS: Registry[FEM] = Registry("FEM kind")

#: Class decorator: makes a kind of FEM known under a name, for use in `flows`.
register_fem = FEM_KINDS.register


@register_fem("detail")
class DetailFEM(FEM):
    """Equation (3): `Ft' = Θ(Ft + Φ(cat(E(Ft), down(E(Fa)))))`.

    The auxiliary is the next finer level, resized down: key details that the target has lost.
    """

    auxiliary = "finer"

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        return self.theta(target + self.oper(target, auxiliary))


@register_fem("semantic")
class SemanticFEM(FEM):
    """Equation (4): `Ft' = Θ(up(Fa) + Φ(cat(E(Ft), up(E(Fa)))))`.

    The auxiliary is the next coarser level, resized up; it, not the target, is added back.

    Both extractors start from the mean blur, as the text has it, and hence high-pass, although the
    words "structure extractor" suggest the opposite; `structure_start="low-pass"` starts them so.
    """

    auxiliary = "coarser"

    def __init__(self, channels: int, options: FEMOptions) -> None:
        super().__init__(channels, options, options.structure_start)

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        return self.theta(resize(auxiliary, target) + self.oper(target, auxiliary))


class Flow(nn.Module):
    """One FEM between each pair of neighbouring levels, applied one after the other (Fig. 3).

    Levels are `(N, C, H_i, W_i)`, finest first. A kind whose auxiliary is the finer level runs from
    the finest to the coarsest level, the other from the coarsest to the finest; each FEM takes the
    neighbour as the flow has already enhanced it. The level a flow starts from passes unchanged.
    """

    def __init__(self, kind: type[FEM], levels: int, channels: int, options: FEMOptions) -> None:
        super().__init__()
        self.finer = kind.auxiliary == "finer"
        self.fems = nn.ModuleList(kind(channels, options) for _ in range(levels - 1))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        enhanced = levels if self.finer else levels[::-1]
        flowed = enhanced[:1]
        for fem, target in zip(self.fems, enhanced[1:], strict=True):
            flowed.append(fem(target, flowed[-1]))
        return flowed if self.finer else flowed[::-1]

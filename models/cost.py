"""Parameters and multiply-adds, counted rather than estimated."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from models.fenet import FENet, FENetConfig


def count_parameters(model: nn.Module, auxiliary: bool = False) -> int:
    """Learnable values of `model`; without those below `model.auxiliary` unless asked for.

    Auxiliary heads work while training only; the paper's figures leave them out.
    """
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if auxiliary or not name.startswith("auxiliary.")
    )


def count_multiply_adds(
    network: FENetConfig | nn.Module, classes: int, height: int, width: int
) -> int:
    """Multiply-adds of one image in evaluation, as the paper's "FLOPs".

    Counted are convolutions and matrix products. Runs on the meta device: nothing is computed, and
    a model passed in is left as it is.

    Args:
        network: a configuration, or any module that maps images `(1, 3, height, width)` to logits.
        classes: for a configuration; a module has its own.
        height: of the image.
        width: of the image.
    """
    return sum(multiply_adds_by_part(network, classes, height, width).values())


def multiply_adds_by_part(
    network: FENetConfig | nn.Module, classes: int, height: int, width: int
) -> dict[str, int]:
    """`count_multiply_adds` by part (see `parts`); "rest" is what belongs to none."""
    model = on_meta(network, classes)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _ShapesAlone(), counter:
        model(torch.empty(1, 3, height, width, device="meta"))
    root = type(model).__name__
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    by_part = {name: counts.get(f"{root}.{name}", 0) for name in parts(model)}
    rest = counter.get_total_flops() // 2 - sum(by_part.values())
    return {**by_part, "rest": rest} if rest else by_part


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """What the network is made of, by name: its children, and in place of a collection its members.

    For FENet: "backbone", "neck", "flows.detail", "flows.semantic", "head", "auxiliary.stageI".
    """
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict | nn.ModuleList):
            found |= {f"{name}.{member}": module for member, module in child.named_children()}
        else:
            found[name] = child
    return found


def on_meta(network: FENetConfig | nn.Module, classes: int) -> nn.Module:
    """The network without values, in evaluation; the very module where it is that already."""
    if isinstance(network, FENetConfig):
        with _ShapesAlone(), torch.device("meta"):
            return FENet(network, classes).eval()
    without_values = all(value.is_meta for value in network.state_dict().values())
    if without_values and not any(module.training for module in network.modules()):
        return network
    return copy.deepcopy(network).to("meta").eval()


_FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_)


class _ShapesAlone(TorchFunctionMode):
    """On the meta device, filling a tensor does nothing, and batch norm and resizing, which count
    no multiply-adds, give a tensor of the right shape. torch decomposes them there, in Python, and
    that takes most of a count's time."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        tensor = arguments[0] if arguments else named.get("tensor")
        if isinstance(tensor, Tensor) and tensor.is_meta:
            if function in _FILLS or getattr(function, "__module__", None) == nn.init.__name__:
                return tensor
            if function is F.batch_norm:
                return torch.empty_like(tensor)
            size = named.get("size")
            if function is F.interpolate and isinstance(size, Sequence) and len(size) == 2:
                return tensor.new_empty(*tensor.shape[:2], *size)
        return function(*arguments, **named)

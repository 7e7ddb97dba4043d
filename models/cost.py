"""Counts a network's parameters and multiply-adds."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from models.fenet import FENet, FENetConfig
from models.initialization import meta_device


def count_parameters(model: nn.Module, auxiliary: bool = False) -> int:
    """Count the parameters of `model`; those of `model.auxiliary` only if `auxiliary` is true.

    Auxiliary heads are used during training only, and the paper's values exclude them.
    """
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if auxiliary or not name.startswith("auxiliary.")
    )


def count_multiply_adds(
    network: FENetConfig | nn.Module, classes: int, height: int, width: int
) -> int:
    """Count the multiply-adds of one image in evaluation mode (the paper's "FLOPs").

    Counts convolutions and matrix products. Runs on the meta device, so nothing is computed and a
    module passed as `network` is not changed.

    Args:
        network: a configuration, or any module that maps images `(1, 3, height, width)` to logits.
        classes: number of classes; ignored for a module.
        height: image height in pixels.
        width: image width in pixels.
    """
    return sum(multiply_adds_by_part(network, classes, height, width).values())


def multiply_adds_by_part(
    network: FENetConfig | nn.Module, classes: int, height: int, width: int
) -> dict[str, int]:
    """Return `count_multiply_adds` by part (see `parts`); "rest" holds what belongs to no part."""
    model = on_meta(network, classes)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _ShapesOnly(), counter:
        model(torch.empty(1, 3, height, width, device="meta"))
    root = type(model).__name__
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    by_part = {name: counts.get(f"{root}.{name}", 0) for name in parts(model)}
    rest = counter.get_total_flops() // 2 - sum(by_part.values())
    return {**by_part, "rest": rest} if rest else by_part


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return the network's parts by name: its children, or the members of a child collection.

    For FENet: "backbone", "neck", "flows.detail", "flows.semantic", "head", "auxiliary.stageI".
    """
    modules: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict | nn.ModuleList):
            modules |= {f"{name}.{member}": module for member, module in child.named_children()}
        else:
            modules[name] = child
    return modules


def on_meta(network: FENetConfig | nn.Module, classes: int) -> nn.Module:
    """Return the network on the meta device in evaluation mode; a copy, unless it already is so."""
    if isinstance(network, FENetConfig):
        with _ShapesOnly(), meta_device():
            return FENet(network, classes).eval().to("meta")  # a constructor may load weights
    is_meta = all(value.is_meta for value in network.state_dict().values())
    if is_meta and not any(module.training for module in network.modules()):
        return network
    return copy.deepcopy(network).to("meta").eval()


_FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_)


class _ShapesOnly(TorchFunctionMode):
    """Skips work that does not affect a count on the meta device.

    Filling a tensor does nothing. Batch norm and resizing, which add no multiply-adds, return a
    tensor of the right shape; torch would decompose them in Python, which takes most of the time of
    a count.
    """

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

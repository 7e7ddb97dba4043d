"""Counts a network's parameters and multiply-adds."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from models.fenet import FENet, FENetConfig
from models.initialization import meta_device


def count_parameters(model: nn.Module, auxiliary: bool = False) -> int:
    """Count the parameters of `model`; those of its auxiliary heads only if `auxiliary` is true.

    Auxiliary heads are used during training only, and the paper's values exclude them. They are the
    submodules that `model.auxiliary_parts` names, by default `auxiliary`.
    """
    heads = getattr(model, "auxiliary_parts", ("auxiliary",))
    prefixes = tuple(f"{head}." for head in heads)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if auxiliary or not name.startswith(prefixes)
    )


def count_multiply_adds(
    network: FENetConfig | nn.Module, classes: int, height: int, width: int, channels: int = 3
) -> int:
    """Count the multiply-adds of one image in evaluation mode (the paper's "FLOPs").

    Counts convolutions and matrix products. Runs on the meta device, so nothing is computed and a
    module passed as `network` is not changed.

    Args:
        network: a configuration, or any module that maps images `(1, channels, height, width)` to
            logits.
        classes: number of classes; ignored for a module.
        height: image height in pixels.
        width: image width in pixels.
        channels: of the image.
    """
    return sum(multiply_adds_by_part(network, classes, height, width, channels).values())


def multiply_adds_by_part(
    network: FENetConfig | nn.Module, classes: int, height: int, width: int, channels: int = 3
) -> dict[str, int]:
    """Return `count_multiply_adds` by part (see `parts`); "rest" holds what belongs to no part."""
    model = on_meta(network, classes, channels)
    image = torch.empty(1, channels, height, width, device="meta")
    counts = _count_convolutions(model, image)
    return _by_part(model, counts if counts is not None else _count_all(model, image))


def computed_multiply_adds_by_part(
    model: nn.Module, height: int, width: int, channels: int = 3
) -> dict[str, int]:
    """Return `multiply_adds_by_part` of a model in evaluation mode with operations that depend on
    values: it is run on a black image."""
    return _by_part(model, _count_all(model, torch.zeros(1, channels, height, width)))


def _by_part(model: nn.Module, counts: Mapping[str, int]) -> dict[str, int]:
    root = type(model).__name__
    by_part = {name: counts.get(f"{root}.{name}", 0) for name in parts(model)}
    rest = counts.get("Global", 0) - sum(by_part.values())
    return {**by_part, "rest": rest} if rest else by_part


def _count_all(model: nn.Module, image: Tensor) -> Mapping[str, int]:
    """Count the multiply-adds of all products by the name of the module that computes them; those
    of the whole network are called "Global"."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _ShapesOnly(), counter:
        model(image)
    return {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}


def _count_convolutions(model: nn.Module, image: Tensor) -> Mapping[str, int] | None:
    """Return `_count_all`, or None if the network calls functions that may compute products other
    than convolutions.

    FENet does not. `FlopCounterMode` would import torch's compiler, which takes as long as
    importing torch.
    """
    shapes = _ShapesOnly()
    with torch.no_grad(), shapes, shapes.modules:
        model(image)
    return None if shapes.has_other_products else shapes.multiply_adds


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


def on_meta(network: FENetConfig | nn.Module, classes: int, channels: int = 3) -> nn.Module:
    """Return the network on the meta device in evaluation mode; a copy, unless it already is so."""
    if isinstance(network, FENetConfig):
        with _ShapesOnly(), meta_device():
            built = FENet(network, classes, in_channels=channels)
            return built.eval().to("meta")  # a constructor may load weights
    is_meta = all(value.is_meta for value in network.state_dict().values())
    if is_meta and not any(module.training for module in network.modules()):
        return network
    return copy.deepcopy(network).to("meta").eval()


_FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_)
_SAME_SHAPE = (F.batch_norm, F.relu, F.hardtanh)
_ELEMENTWISE = (Tensor.add, Tensor.sub, Tensor.mul)
# Functions without products that are called as they are.
_WITHOUT_PRODUCTS = {
    *(torch.empty, torch.empty_like, torch.promote_types, F.max_pool2d, F.avg_pool2d, F.pad),
    *(Tensor.dim, Tensor.size, Tensor.is_contiguous, Tensor.contiguous, Tensor.new_empty),
    *(Tensor.to, Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.new_full, torch.stack),
}


class _ShapesOnly(TorchFunctionMode):
    """Skips work that does not affect a count on the meta device.

    Filling a tensor does nothing. Batch norm, sums, pooling, resizing and concatenation, which
    add no multiply-adds, return a tensor of the right shape; torch would decompose them in Python,
    which takes most of the time of a count.

    Attributes:
        multiply_adds: of the convolutions, by the names in `modules`.
        has_other_products: whether a function was called that may compute other products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.modules = ModuleTracker()
        self.multiply_adds: Counter[str] = Counter()
        self.has_other_products = False

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
            if function in _SAME_SHAPE:
                return torch.empty_like(tensor)
            if function in _ELEMENTWISE and len(arguments) == 2:
                shape = _broadcast(tensor, arguments[1])
                if shape is not None:
                    return tensor.new_empty(shape)
            size = _resized(function, arguments, named) if tensor.dim() == 4 else None
            if size is not None:
                return tensor.new_empty(*tensor.shape[:2], *size)
            if function is torch.conv2d and len(arguments) > 1:
                return self._convolution(function(*arguments, **named), arguments[1])
        if (
            function is torch.cat
            and arguments
            and named.keys() <= {"dim"}
            and all(each.is_meta for each in arguments[0])
        ):
            shape = _concatenated(*arguments, **named)
            if shape is not None:
                return arguments[0][0].new_empty(shape)
        if function not in _WITHOUT_PRODUCTS and function.__name__ != "__get__":
            self.has_other_products = True
        return function(*arguments, **named)

    def _convolution(self, output: Tensor, weight: Tensor) -> Tensor:
        for module in self.modules.parents:
            self.multiply_adds[module] += output.numel() * weight[0].numel()
        return output


def _concatenated(tensors: Sequence[Tensor], dim: int = 0) -> list[int] | None:
    """Return the shape of the result; None if the dtypes differ, or the shapes do not fit, which
    torch reports."""
    if len({tensor.dtype for tensor in tensors}) != 1:
        return None
    shapes = [list(tensor.shape) for tensor in tensors]
    if len({len(shape) for shape in shapes}) != 1 or not -len(shapes[0]) <= dim < len(shapes[0]):
        return None
    lengths = [shape.pop(dim) for shape in shapes]
    if any(shape != shapes[0] for shape in shapes):
        return None
    shape = list(tensors[0].shape)
    shape[dim] = sum(lengths)
    return shape


def _broadcast(tensor: Tensor, other: Any) -> list[int] | None:
    """Return the shape of an elementwise result; None if its dtype may not be that of `tensor`, or
    the shapes do not fit, which torch reports."""
    if not isinstance(other, Tensor):
        return list(tensor.shape) if tensor.is_floating_point() else None
    if tensor.dtype is not other.dtype:
        return None
    dims = max(tensor.dim(), other.dim())
    aligned = [[1] * (dims - each.dim()) + list(each.shape) for each in (tensor, other)]
    pairs = list(zip(*aligned, strict=True))
    return [max(sizes) for sizes in pairs] if all(a == b or 1 in (a, b) for a, b in pairs) else None


def _resized(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> Sequence[int] | None:
    """Return the height and width of a resized or pooled image; None for another function."""
    if function is F.interpolate:
        size = named.get("size", arguments[1] if len(arguments) > 1 else None)
    elif function is F.adaptive_avg_pool2d and not named and len(arguments) == 2:
        size = arguments[1]
        size = (size, size) if isinstance(size, int) else size
    else:
        return None
    is_pair = isinstance(size, Sequence) and len(size) == 2
    return size if is_pair and all(isinstance(side, int) for side in size) else None

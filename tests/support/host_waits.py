"""Counts where the host waits for a device, on the meta device, so that no GPU is needed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CREATE_FROM_HOST = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


class HostWaits:
    """Records everything in its context that would make the host wait for a GPU.

    These are: copies between host and device that are not marked as non-blocking, and tensors
    created on the device from values on the host. Reading a value (`item`, `tolist`) and operations
    with shapes that depend on values (`nonzero`, boolean indexing) raise an error on the meta
    device, which takes the place of the GPU.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.operations = 0
        self._modes = (_Functions(self), _Operations(self))

    def __enter__(self) -> "HostWaits":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Functions(TorchFunctionMode):
    def __init__(self, record: HostWaits) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _CREATE_FROM_HOST and not result.is_cpu:
            self._record.waits.append(function.__name__)
        return result


class _Operations(TorchDispatchMode):
    def __init__(self, record: HostWaits) -> None:
        super().__init__()
        self._record = record

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        self._record.operations += 1
        if operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            is_blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if is_blocking and len({tensor.device for tensor in tensors}) > 1:
                self._record.waits.append(str(operation))
        return result

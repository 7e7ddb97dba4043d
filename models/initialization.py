"""Initial parameter values that depend only on the seed and on names."""

import hashlib
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

_current: ContextVar["KeyedConstruction | None"] = ContextVar("construction", default=None)


@contextmanager
def keyed_construction(seed: int | None) -> Iterator["KeyedConstruction"]:
    """Construct a network within this context, then call `initialize` of the yielded object.

    The constructors draw from a generator keyed by `seed`. The caller's random state is unchanged.

    seed: None for the seed of the network whose constructor calls this, or 0 outside of any.
    """
    enclosing = _current.get()
    if seed is None:
        seed = 0 if enclosing is None else enclosing.seed
    construction = KeyedConstruction(seed)
    token = _current.set(construction)
    hook = register_module_parameter_registration_hook(construction.record)
    try:
        with torch.random.fork_rng(devices=[]):
            construction.key("")
            yield construction
    finally:
        hook.remove()
        _current.reset(token)


@dataclass
class _Registration:
    """When a module's parameters were registered.

    state: state of the generator at the last registration, just before `reset_parameters` in the
    constructors of torch's layers. names: of the registered parameters. replaced: whether a
    parameter was registered twice.
    """

    state: Tensor
    names: set[str] = field(default_factory=set)
    replaced: bool = False


class KeyedConstruction:
    """The construction of a network, with a generator keyed by a seed and names."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._registrations: WeakKeyDictionary[nn.Module, _Registration] = WeakKeyDictionary()

    def key(self, name: str) -> None:
        """Let the following draws depend only on the seed and on `name`, a part of the network."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def record(self, module: nn.Module, name: str, _parameter: Tensor) -> None:
        """Record the generator's state; torch calls this before it registers a parameter."""
        state = torch.default_generator.get_state()
        registration = self._registrations.setdefault(module, _Registration(state))
        registration.state = state
        registration.replaced |= name in registration.names
        registration.names.add(name)

    def initialize(self, network: nn.Module) -> None:
        """Draw the values of every module again, keyed by the seed and the module's name.

        Calls each module's own `reset_parameters`. Two networks therefore start from the same
        values wherever they share a parameter's name and shape, however much they differ elsewhere,
        so the variants of a study start from the same point.

        A module keeps the values from its construction if they are not those of its own
        `reset_parameters`: pretrained weights, another initialization, parameters that a
        constructor draws itself. Values that a constructor draws depend on the seed, on the latest
        `key`, and on what was drawn since.

        Raises:
            ValueError: a parameter is neither on the CPU nor on the meta device; other devices draw
                different values.
        """
        for name, parameter in network.named_parameters():
            if parameter.device.type not in ("cpu", "meta"):
                raise ValueError(
                    f"{name} is on {parameter.device}; build the network on the CPU, then move it"
                )
        drawn_again = [
            (name, module)
            for name, module in network.named_modules()
            if _can_reset(module) and self._has_own_initialization(module)
        ]
        for name, module in drawn_again:
            self.key(name)
            module.reset_parameters()

    def _has_own_initialization(self, module: nn.Module) -> bool:
        """Whether nothing but the module's `reset_parameters` has set its values, or nothing has
        yet. Calls `reset_parameters` as the constructor did, and compares."""
        registration = self._registrations.get(module)
        if registration is None:
            return False
        parameters = [*module.parameters(recurse=False)]
        unset = not registration.replaced and all(each._version == 0 for each in parameters)
        values = [*module.parameters(), *module.buffers()]
        constructed = [value.detach().clone() for value in values]
        torch.default_generator.set_state(registration.state)
        module.reset_parameters()  # type: ignore[operator]
        if all(map(torch.equal, values, constructed)):
            return True
        with torch.no_grad():
            for value, original in zip(values, constructed, strict=True):
                value.copy_(original)
        return unset


def _can_reset(module: nn.Module) -> bool:
    """Whether a module has parameters with values, and a `reset_parameters` without arguments."""
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset) or any(each.is_meta for each in module.parameters()):
        return False
    try:
        inspect.signature(reset).bind()
    except TypeError:
        return False
    return True


@contextmanager
def meta_device() -> Iterator[None]:
    """Construct modules on the meta device, also those that load weights when constructed."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*copying from a non-meta parameter")
        yield

"""Initial parameter values that depend only on the seed and the parameter's name."""

import hashlib

import torch
from torch import nn


def initialize(model: nn.Module, seed: int) -> None:
    """Initialize every parameter of `model` from `(seed, name of its module)`.

    Calls each module's own `reset_parameters` under a generator keyed by the seed and the module's
    name. Two networks therefore start from the same values wherever they share a parameter's name
    and shape, however much they differ elsewhere, so the variants of a study start from the same
    point. The caller's random state is unchanged. A custom module takes part if it draws its values
    in `reset_parameters`.

    Raises:
        ValueError: a parameter is neither on the CPU nor on the meta device; other devices draw
            different values.
    """
    for name, parameter in model.named_parameters():
        if parameter.device.type not in ("cpu", "meta"):
            raise ValueError(
                f"{name} is on {parameter.device}; build the network on the CPU, then move it"
            )
    with torch.random.fork_rng(devices=[]):
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                torch.default_generator.manual_seed(_generator_seed(seed, name))
                reset()


def _generator_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

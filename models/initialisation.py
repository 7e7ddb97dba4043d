"""Initial values that depend on the seed and on a parameter's name, and on nothing else."""

import hashlib

import torch
from torch import nn


def initialise(model: nn.Module, seed: int) -> None:
    """Start every parameter of `model` from values that follow from `(seed, its name)`.

    Each module's own `reset_parameters` draws them, under a generator keyed by the seed and the
    module's name. Two networks therefore start from the same values wherever they have a parameter
    of the same name and shape, however much they differ elsewhere: variants of a study begin at the
    same point. The caller's random state is left untouched. A module of your own that draws its
    values in `reset_parameters` takes part.

    Raises:
        ValueError: a parameter is not on the CPU (or on meta): another device draws other values.
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
                torch.default_generator.manual_seed(_key(seed, name))
                reset()


def _key(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

"""Builds models of `transformers`, and finds the parameters that their outputs depend on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.hugging_face.configuration import Kind, transformers
from models.initialization import meta_device

#: Side in pixels of the images that a model is probed with: a multiple of the usual patch sizes and
#: strides (14, 16, 28, 32).
PROBE_SIZE = 224

_CLASSES = {"backbone": "AutoBackbone", "network": "AutoModelForSemanticSegmentation"}


def build_model(kind: Kind, config: Any) -> nn.Module:
    """Build the model of a configuration, with random weights.

    Raises:
        ValueError: it cannot be built.
    """
    with quiet():
        try:
            model: nn.Module = getattr(transformers(), _CLASSES[kind]).from_config(config)
        except Exception as error:
            raise ValueError(
                f"hf:{config.model_type}: cannot be built ({type(error).__name__}: {error})"
            ) from error
    return model


@contextmanager
def probing() -> Iterator[Tensor]:
    """Yield a batch of two images on the meta device; models built within are on it too.

    The caller's random state is unchanged.
    """
    with torch.random.fork_rng(devices=[]), meta_device():
        yield torch.empty(2, 3, PROBE_SIZE, PROBE_SIZE)


def unreached(model: nn.Module, outputs: Iterable[Tensor]) -> frozenset[str]:
    """Return the names of the parameters that no output depends on.

    They get no gradient, such as the mask token of a vision transformer, and data-parallel training
    would wait for it.
    """
    reached: set[int] = set()
    visited: set[Any] = set()
    queue = [output.grad_fn for output in outputs]
    while queue:
        node = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        queue += [following for following, _ in node.next_functions]
    return frozenset(
        name for name, parameter in model.named_parameters() if id(parameter) not in reached
    )


def freeze(model: nn.Module, names: Iterable[str]) -> None:
    """Exclude parameters from training."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and progress bars of `transformers`; this project reports itself."""
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

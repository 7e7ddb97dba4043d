"""Builds models of `transformers`, and finds the parameters that their outputs depend on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.hugging_face.configuration import Kind, transformers
from models.initialization import meta_device
from models.user_code import failures_as

Result = TypeVar("Result")

# Side in pixels of the images that a model is probed with: a multiple of the usual patch sizes and
# strides (14, 16, 28, 32).
_PROBE_SIZE = 224

_CLASSES = {"backbone": "AutoBackbone", "network": "AutoModelForSemanticSegmentation"}


def build_model(kind: Kind, config: Any) -> nn.Module:
    """Build the model of a configuration, with random weights.

    Raises:
        ValueError: it cannot be built.
    """
    with quiet(), failures_as(ValueError, f"hf:{config.model_type}: cannot be built"):
        model: nn.Module = getattr(transformers(), _CLASSES[kind]).from_config(config)
    return model


def probe(
    kind: Kind, name: str, config: Any, run: Callable[[nn.Module, Tensor], Result]
) -> tuple[nn.Module, Tensor, Result]:
    """Build a model on the meta device and run it on two images.

    The images have 224 x 224 pixels or, if the model fails on these, the size that its
    configuration states. The caller's random state is unchanged.

    Returns:
        The model, the images, and the result of `run`.

    Raises:
        ValueError: the model cannot be built, or fails.
    """
    failures: list[ValueError] = []
    with torch.random.fork_rng(devices=[]), meta_device():
        model = build_model(kind, config)
        for size in dict.fromkeys([(_PROBE_SIZE, _PROBE_SIZE), _own_size(config)]):
            images = torch.empty(2, 3, *size)
            try:
                with failures_as(ValueError, f"{name}: failed on images of {tuple(images.shape)}"):
                    return model, images, run(model, images)
            except ValueError as error:
                failures.append(error)
    raise failures[-1]


def _own_size(config: Any) -> tuple[int, int]:
    """Return the height and width of the images that a configuration states, if it does."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return size[0], size[1]
    return _PROBE_SIZE, _PROBE_SIZE


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

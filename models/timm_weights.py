"""Loads weights that `timm` saved into its backbones."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from models.backbones.timm import TimmBackbone
from models.pretrained import PretrainedError, PretrainedReport, adaptation_note, unwrap

# Names of adapted tensors that a report shows.
_MAX_SHOWN = 3


def load_timm(backbone: TimmBackbone, checkpoint: Mapping[str, object]) -> PretrainedReport:
    """Load the weights of a whole model, as timm saves and publishes them.

    Raises:
        PretrainedError: they do not fit. The backbone is then unchanged.
    """
    tensors = {str(k): v for k, v in unwrap(checkpoint).items() if isinstance(v, Tensor)}
    try:
        loaded = backbone.with_weights(tensors).state_dict()
    except ValueError as error:
        raise PretrainedError(f"the checkpoint does not fit {backbone.name}: {error}") from error
    used, adapted = _sources(loaded, tensors)
    notes = []
    channels = backbone.in_channels
    if channels != 3:
        first = next(key for key, value in loaded.items() if value.ndim == 4)
        used.setdefault(first, first)
        notes.append(adaptation_note(first, channels))
        adapted = [key for key in adapted if key != first]
    if adapted:
        more = f" and {len(adapted) - _MAX_SHOWN} more" if len(adapted) > _MAX_SHOWN else ""
        notes.append(f"{', '.join(adapted[:_MAX_SHOWN])}{more}: adapted by timm")
    parameters = {key for key, _ in backbone.model.named_parameters()}
    if not parameters.intersection(used):
        names = ", ".join(list(tensors)[:3]) or "none"
        raise PretrainedError(
            f"nothing in the checkpoint fits {backbone.name}: its {len(tensors)} keys are {names}, "
            "..."
        )
    with torch.no_grad():
        for key, target in backbone.model.state_dict().items():
            if key in used:
                target.copy_(loaded[key])
    taken = set(used.values())
    missing = dict.fromkeys((key for key in loaded if key not in used), "not in the checkpoint")
    unused = dict.fromkeys((k for k in tensors if k not in taken), "not part of the backbone")
    return PretrainedReport("timm", used, unused, missing, "; ".join(notes))


def _sources(
    loaded: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Return the checkpoint's key of each loaded tensor, and which of them timm adapted.

    timm renames keys and does not report what it loaded; equal values show it. Of several tensors
    with equal values, such as biases of 0, the one with the same name is taken. A tensor that has a
    name of the checkpoint and no value of it was adapted, such as position embeddings to another
    size of images.
    """
    by_name = {_plain(key): key for key in tensors}
    by_value = {_digest(value): key for key, value in tensors.items()}
    sources: dict[str, str] = {}
    adapted: list[str] = []
    for key, value in loaded.items():
        digest, named = _digest(value), by_name.get(_plain(key))
        if named is not None and _digest(tensors[named]) == digest:
            sources[key] = named
        elif digest in by_value:
            sources[key] = by_value[digest]
        elif named is not None:
            sources[key] = named
            adapted.append(key)
    return sources, adapted


def _plain(key: str) -> str:
    """Return a key without its separators: `stages.0` becomes `stages_0` in a model of features."""
    return key.replace(".", "").replace("_", "")


def _digest(value: Tensor) -> tuple[torch.Size, bytes]:
    """Return what distinguishes the values of tensors, as a model of float32 holds them."""
    if value.is_floating_point():
        value = value.float()
    data = value.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return value.shape, hashlib.sha256(data.numpy().tobytes()).digest()

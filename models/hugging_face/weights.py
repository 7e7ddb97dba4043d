"""Loads weights that `transformers` saved, with the renaming of keys that the library does."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.hugging_face.build import quiet
from models.hugging_face.configuration import channels_of
from models.pretrained import (
    PretrainedError,
    PretrainedReport,
    adapt_filters,
    adaptation_note,
    unwrap,
)

_MAX_SHOWN = 4


def load_saved(
    model: nn.Module, checkpoint: Mapping[str, object], classes: int | None = None
) -> PretrainedReport:
    """Load weights of `transformers` into `model`, which it built.

    Tensors that the checkpoint lacks keep their initial values and are reported as missing; so is a
    classifier for another number of classes. Filters of RGB images are adapted to the model's
    number of channels (see `adapt_filters`).

    classes: number of classes of a network; None for a backbone.

    Raises:
        PretrainedError: no tensor fits, or a tensor other than a classifier has another shape. The
            model is then unchanged.
    """
    tensors = {
        str(key): value for key, value in unwrap(checkpoint).items() if isinstance(value, Tensor)
    }
    config: Any = model.config
    channels = channels_of(config)
    adapted = []
    if channels != 3:
        for key, value in tensors.items():
            if value.ndim == 4 and value.shape[1] == 3:
                tensors[key] = adapt_filters(value, channels)
                adapted.append(adaptation_note(key, channels))
    name = f"hf:{config.model_type}"
    # The library draws values for missing tensors.
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            loaded, details = type(model).from_pretrained(  # type: ignore[attr-defined]
                None,
                config=copy.deepcopy(config),
                state_dict=tensors,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:
            raise PretrainedError(
                f"the checkpoint does not fit {name} ({type(error).__name__}: {error})"
            ) from error
    missing = dict.fromkeys(sorted(details["missing_keys"]), "not in the checkpoint")
    conflicts = []
    for key, stored, expected in details["mismatched_keys"]:
        stored, expected = tuple(stored), tuple(expected)
        missing[key] = f"{stored} in the checkpoint, {expected} in the model"
        if classes is None or stored[1:] != expected[1:] or expected[0] != classes:
            conflicts.append(f"{key} is {missing[key]}")
    if conflicts:
        shown = "; ".join(conflicts[:_MAX_SHOWN]) + ("; ..." if conflicts[_MAX_SHOWN:] else "")
        raise PretrainedError(f"the checkpoint does not fit {name}: {shown}")
    values = loaded.state_dict()
    parameters = {key for key, _ in model.named_parameters()}
    used = [key for key in values if key not in missing]
    if not parameters.intersection(used):
        first = ", ".join(list(tensors)[:3]) or "none"
        raise PretrainedError(
            f"nothing in the checkpoint fits {name}: its {len(tensors)} keys are {first}, ..."
        )
    with torch.no_grad():
        for key, target in model.state_dict().items():
            if key not in missing:
                target.copy_(values[key])
    unused = dict.fromkeys(sorted(details["unexpected_keys"]), "not part of the model")
    note = "; ".join(adapted)
    return PretrainedReport("transformers", {key: key for key in used}, unused, missing, note)

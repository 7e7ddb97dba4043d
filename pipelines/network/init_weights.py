"""Starting a whole network from the weights of another training: `training.init`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from models import PretrainedError, PretrainedReport, load_pretrained
from models.backbones import Backbone
from models.pretrained import unwrap
from pipelines.network.build import NetworkError
from pipelines.network.weights import WeightsError, read_weights, weights_in

# What wrapping a model for several devices, or compiling it, puts before every name.
_WRAPPING = ("module.", "_orig_mod.")

_SHOWN = 5


@dataclass(frozen=True)
class InitialReport:
    """What a network started from. skipped: its tensors that kept their own initial values."""

    uri: str
    loaded: int
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"init: {self.uri}", f"loaded: {self.loaded} tensors"]
        return "\n".join([*lines, f"skipped: {len(self.skipped)} tensors", *self.skipped])


def load_initial_weights(model: nn.Module, uri: str, skip: Sequence[str] = ()) -> InitialReport:
    """Copy the weights at `uri`, a checkpoint, a model directory or a file, into `model`.

    skip: patterns of names that are left alone, in the model and in the weights.

    Raises WeightsError where the weights cannot be read, where names or shapes differ in what is
    not skipped, with the differences, or where a pattern matches nothing. The model is then
    unchanged.
    """
    found = _plain(unwrap(read_weights(weights_in(uri))))
    own = model.state_dict()
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in (*own, *found)):
            groups = sorted({name.split(".")[0] for name in own})
            raise WeightsError(
                f"init_skip: {pattern!r} matches no tensor; the model's begin with "
                f"{', '.join(groups)}"
            )
    skipped = tuple(name for name in own if _matches(name, skip))
    wanted = {name: tensor for name, tensor in own.items() if name not in skipped}
    given = {name: tensor for name, tensor in found.items() if not _matches(name, skip)}
    differences = _differences(wanted, given)
    if differences:
        raise WeightsError(_refusal(uri, differences))
    with torch.no_grad():
        for name in given:
            own[name].copy_(given[name])
    return InitialReport(uri, len(given), skipped)


def _plain(weights: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors by the names they had before any wrapping."""
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    for prefix in _WRAPPING:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """By name, what is not the same in both."""
    shapes = [
        {name: str(tuple(tensor.shape)) for name, tensor in tensors.items()}
        for tensors in (wanted, given)
    ]
    differences = {}
    for name in sorted(wanted.keys() | given.keys()):
        ours, theirs = (shape.get(name, "has none") for shape in shapes)
        # Counts batches, and no weights depend on it; older checkpoints lack it.
        counter = name.endswith(".num_batches_tracked") and name not in given
        if ours != theirs and not counter:
            differences[name] = f"{name}: model {ours}, init {theirs}"
    return differences


def _refusal(uri: str, differences: Mapping[str, str]) -> str:
    listed = list(differences.values())
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    modules = sorted({f"{name.rpartition('.')[0] or name}.*" for name in differences})
    if len(modules) > _SHOWN:
        modules = sorted({f"{name.split('.')[0]}.*" for name in differences})
    return (
        f"init {uri} does not fit this model: {'; '.join(listed[:_SHOWN])}{more}. To leave them "
        f"at their own initial values, set training.init_skip: [{', '.join(modules)}]"
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def load_backbone_weights(model: nn.Module, uri: str) -> PretrainedReport:
    """Load published weights into `model.backbone`.

    Raises WeightsError where they cannot be read or do not fit, and NetworkError where the network
    has no backbone of `models.backbones`.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise NetworkError(
            f"backbone_weights: {type(model).__name__} has no `backbone` of models.backbones"
        )
    try:
        return load_pretrained(backbone, read_weights(uri))
    except PretrainedError as error:
        raise WeightsError(str(error)) from None

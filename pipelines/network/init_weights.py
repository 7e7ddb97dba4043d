"""Loads initial weights: of the whole network (`training.init`) or of its backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from models import PretrainedError, PretrainedReport, load_pretrained
from models.backbones import Backbone
from models.backbones.hugging_face import HuggingFaceBackbone
from models.backbones.timm import TimmBackbone
from models.hugging_face.network import HuggingFaceNetwork
from models.hugging_face.weights import load_saved
from models.pretrained import unwrap
from models.timm_weights import load_timm
from pipelines.network.build import NetworkError
from pipelines.network.published_weights import is_downloaded
from pipelines.network.weight_files import WeightsError, locate_weights
from pipelines.network.weights import read_weights

# Prefixes that data parallelism and compilation put before every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")

_MAX_SHOWN = 5


@dataclass(frozen=True)
class InitReport:
    """The result of loading initial weights.

    loaded: number of loaded tensors. skipped: tensors that kept their initial values.
    """

    uri: str
    loaded: int
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"init: {self.uri}", f"loaded: {self.loaded} tensors"]
        return "\n".join([*lines, f"skipped: {len(self.skipped)} tensors", *self.skipped])


def load_initial_weights(model: nn.Module, uri: str, skip: Sequence[str] = ()) -> InitReport:
    """Copy the weights at `uri` (a checkpoint, a model directory or a file) into `model`.

    skip: patterns of tensor names to ignore, in the model and in the weights.

    Raises:
        WeightsError: the weights cannot be read, names or shapes differ (the message lists the
            differences), or a pattern matches nothing. The model is then unchanged.
    """
    stored = stored_tensors(uri)
    model_state = model.state_dict()
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in (*model_state, *stored)):
            groups = sorted({name.split(".")[0] for name in model_state})
            raise WeightsError(
                f"init_skip: {pattern!r} matches no tensor; the names in the model begin with "
                f"{', '.join(groups)}"
            )
    skipped = tuple(name for name in model_state if _matches(name, skip))
    expected = {name: tensor for name, tensor in model_state.items() if name not in skipped}
    loaded = {name: tensor for name, tensor in stored.items() if not _matches(name, skip)}
    differences = _differences(expected, loaded)
    if differences:
        raise WeightsError(_mismatch_message(uri, differences))
    with torch.no_grad():
        for name in loaded:
            model_state[name].copy_(loaded[name])
    return InitReport(uri, len(loaded), skipped)


def stored_tensors(uri: str) -> dict[str, Tensor]:
    """Return the tensors of weights, without prefixes that wrappers added to their names.

    Raises:
        WeightsError: the weights cannot be read.
    """
    weights = unwrap(read_weights(locate_weights(uri)))
    tensors = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    for prefix in _WRAPPER_PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _differences(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe, by name, the tensors that are missing or have another shape."""
    shapes = [
        {name: str(tuple(tensor.shape)) for name, tensor in tensors.items()}
        for tensors in (expected, loaded)
    ]
    differences = {}
    for name in sorted(expected.keys() | loaded.keys()):
        in_model, in_init = (shape.get(name, "has none") for shape in shapes)
        # Older checkpoints lack this counter of batches; no weight depends on it.
        is_missing_counter = name.endswith(".num_batches_tracked") and name not in loaded
        if in_model != in_init and not is_missing_counter:
            differences[name] = f"{name}: model {in_model}, init {in_init}"
    return differences


def _mismatch_message(uri: str, differences: Mapping[str, str]) -> str:
    descriptions = list(differences.values())
    hidden = len(descriptions) - _MAX_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    modules = sorted({f"{name.rpartition('.')[0] or name}.*" for name in differences})
    if len(modules) > _MAX_SHOWN:
        modules = sorted({f"{name.split('.')[0]}.*" for name in differences})
    return (
        f"init {uri} does not fit this model: {'; '.join(descriptions[:_MAX_SHOWN])}{more}. To "
        f"keep their initial values, set training.init_skip: [{', '.join(modules)}]"
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def load_backbone_weights(model: nn.Module, uri: str) -> PretrainedReport:
    """Load published weights into `model.backbone`, or into all of a network of `transformers`.

    uri: a path, a URI, the name of published weights, or `hf:OWNER/NAME` for a model on the hub.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
        NetworkError: `model.backbone` is not a `models.backbones.Backbone`.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone) and not isinstance(model, HuggingFaceNetwork):
        raise NetworkError(
            f"backbone_weights: {type(model).__name__} has no `backbone` of models.backbones"
        )
    location = locate_weights(uri)
    try:
        weights = read_weights(location)
    except WeightsError as error:
        again = "; delete the file to download it again" if is_downloaded(uri) else ""
        raise WeightsError(f"{error}{again}") from error
    try:
        if isinstance(model, HuggingFaceNetwork):
            return load_saved(model.model, weights, model.classes)
        if isinstance(backbone, HuggingFaceBackbone):
            return load_saved(backbone.model, weights)
        if isinstance(backbone, TimmBackbone):
            return load_timm(backbone, weights)
        assert isinstance(backbone, Backbone)
        return load_pretrained(backbone, weights)
    except PretrainedError as error:
        raise WeightsError(str(error)) from None

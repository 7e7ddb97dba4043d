"""Starting a network's backbone from published weights: `training.backbone_weights`."""

from torch import nn

from models import PretrainedReport, load_pretrained
from models.backbones import Backbone
from pipelines.network import NetworkError
from pipelines.weights import read_weights


def load_backbone_weights(model: nn.Module, uri: str) -> PretrainedReport:
    """Load published weights into `model.backbone`.

    Raises WeightsError or models.PretrainedError where they cannot be read or do not fit, and
    NetworkError where the network has no backbone of `models.backbones`.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise NetworkError(
            f"backbone_weights: {type(model).__name__} has no `backbone` of models.backbones"
        )
    return load_pretrained(backbone, read_weights(uri))

"""FENet of "Boosting Semantic Segmentation via Feature Enhancement", in plain torch.

A network, its loss and its cost:

    model = FENet(FENetConfig("resnet18", supervision=(3, 4)), classes=19)
    criterion = SegmentationLoss()
    terms = criterion(model(images), labels)
    loss, _ = criterion.total(terms.statistics, terms.sizes)
    count_multiply_adds(model.config, 19, 1024, 1024)

A name is imported when it is first used (PEP 562), so that configurations are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.backbones import Backbone, register_backbone
    from models.config import FENetConfig, LossConfig, LossTermConfig
    from models.cost import count_multiply_adds, count_parameters
    from models.dropout import ChannelDropout, set_sample_keys
    from models.enhancement import FEM, FEMOptions, register_fem
    from models.fenet import FENet
    from models.loss import LossTerms, SegmentationLoss, split_output
    from models.losses import Loss
    from models.pretrained import PretrainedError, PretrainedReport, load_pretrained

_MODULES = {
    "models.backbones": ("Backbone", "register_backbone"),
    "models.config": ("FENetConfig", "LossConfig", "LossTermConfig"),
    "models.cost": ("count_multiply_adds", "count_parameters"),
    "models.dropout": ("ChannelDropout", "set_sample_keys"),
    "models.enhancement": ("FEM", "FEMOptions", "register_fem"),
    "models.fenet": ("FENet",),
    "models.loss": ("LossTerms", "SegmentationLoss", "split_output"),
    "models.losses": ("Loss",),
    "models.pretrained": ("PretrainedError", "PretrainedReport", "load_pretrained"),
}

__all__ = [
    "FEM",
    "Backbone",
    "ChannelDropout",
    "FEMOptions",
    "FENet",
    "FENetConfig",
    "Loss",
    "LossConfig",
    "LossTermConfig",
    "LossTerms",
    "PretrainedError",
    "PretrainedReport",
    "SegmentationLoss",
    "count_multiply_adds",
    "count_parameters",
    "load_pretrained",
    "register_backbone",
    "register_fem",
    "set_sample_keys",
    "split_output",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

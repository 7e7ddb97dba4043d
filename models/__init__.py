"""FENet of "Boosting Semantic Segmentation via Feature Enhancement", in plain torch.

A network, its loss and its cost:

    model = FENet(FENetConfig("resnet18", supervision=(3, 4)), classes=19)
    criterion = SegmentationLoss()
    terms = criterion(model(images), labels)
    loss, _ = criterion.total(terms.sums, terms.counts)
    count_multiply_adds(model.config, 19, 1024, 1024)
"""

from models.backbones import Backbone, register_backbone
from models.cost import count_multiply_adds, count_parameters
from models.dropout import ChannelDropout, set_sample_keys
from models.enhancement import FEM, FEMOptions, register_fem
from models.fenet import FENet, FENetConfig
from models.loss import LossConfig, LossTerms, SegmentationLoss, split_output
from models.pretrained import PretrainedError, PretrainedReport, load_pretrained

__all__ = [
    "FEM",
    "Backbone",
    "ChannelDropout",
    "FEMOptions",
    "FENet",
    "FENetConfig",
    "LossConfig",
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

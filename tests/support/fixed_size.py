"""Networks that do not take images of every size, and model directories of them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.config import EvaluationConfig
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.config import NetworkConfig
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment


class FixedSize(nn.Module):
    """Maps images `(N, 3, height, width)` to logits `(N, classes, height, width)`."""

    def __init__(self, classes: int, height: int, width: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, classes, 1)
        self.position = nn.Parameter(torch.zeros(1, classes, height, width))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images) + self.position


class EvenSize(nn.Module):
    """Maps images `(N, 3, H, W)` to logits `(N, classes, H, W)`, and halves the size in between."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.smaller = nn.MaxPool2d(2)
        self.larger = nn.Upsample(scale_factor=2)
        self.classifier = nn.Conv2d(6, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.cat([images, self.larger(self.smaller(images))], dim=1))


class Joining(nn.Module):
    """Maps images `(N, 3, H, W)` to logits `(N, classes, H, W)`, and joins features in several
    forms of `torch.cat`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(12, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        joined = torch.cat(tensors=[images, images], axis=1)
        return self.classifier(torch.cat((images.new_empty(0), joined, images, images), -3))


def fixed_size(height: int, width: int) -> NetworkConfig:
    """Return the network of images of `height` x `width` pixels."""
    return NetworkConfig(f"{__name__}:FixedSize", {"height": height, "width": width})


EVEN_SIZE = NetworkConfig(f"{__name__}:EvenSize")
JOINING = NetworkConfig(f"{__name__}:Joining")


def write_model(
    directory: Path, dataset: Path, network: NetworkConfig, window: tuple[int, int] | None = None
) -> str:
    """Write a model directory of an untrained network for the classes of `dataset`; return it.

    window: of the experiment's validation.
    """
    manifest = open_dataset(dataset).manifest
    experiment = Experiment(
        data=DataConfig(str(dataset), crop=(32, 32)),
        model=network,
        training=TrainingConfig(precision="fp32"),
        evaluation=EvaluationConfig(window=window),
    )
    checkpoint = directory.with_name(f"{directory.name}-checkpoint")
    checkpoint.mkdir(parents=True)
    built = build_network(network, len(manifest.classes), seed=0)
    save_file(dict(built.state_dict()), checkpoint / WEIGHTS_FILE)
    write_model_directory(directory, checkpoint, experiment, manifest)
    return str(directory)

"""A network that takes images of one size only, and a model directory of it."""

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


def write_model(
    directory: Path, dataset: Path, size: tuple[int, int], window: tuple[int, int] | None = None
) -> str:
    """Write a model directory of an untrained network for the classes of `dataset`; return it.

    window: of the experiment's validation.
    """
    manifest = open_dataset(dataset).manifest
    height, width = size
    network = NetworkConfig(
        "tests.support.fixed_size:FixedSize", {"height": height, "width": width}
    )
    experiment = Experiment(
        data=DataConfig(str(dataset), crop=size),
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

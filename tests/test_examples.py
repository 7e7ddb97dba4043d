"""Every row of the examples' study takes a training step, with the part that the row is about."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.haze import Haze
from examples.tversky import Tversky
from examples.unet import UNet
from models.backbones.hugging_face import HuggingFaceBackbone
from orchestrator.study.load import load_study
from pipelines.data.dataset import open_dataset
from pipelines.network.config import NetworkConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport

STUDY = Path(__file__).parent.parent / "examples" / "own.yaml"

#: Whether a training uses the part that its row is about, by row.
USES: dict[str, Callable[[Training], bool]] = {
    "fenet": lambda training: not training.augmentation.transforms.modules,
    "gated": lambda training: "gated-detail" in training.model.flows,  # type: ignore[operator]
    "unet": lambda training: isinstance(training.model, UNet),
    "tversky": lambda training: isinstance(next(training.criterion.each_loss()), Tversky),
    "adamw": lambda training: len(training.optimizer.param_groups) == 4,
    "convnext": lambda training: isinstance(training.model.backbone, HuggingFaceBackbone),
    "haze": lambda training: isinstance(training.augmentation.transforms.modules[0], Haze),
}


@pytest.fixture(scope="module")
def experiments() -> dict[str, Experiment]:
    """The experiments of the study by row."""
    return {trial.variant: trial.experiment for trial in load_study(STUDY).trials}


def test_every_row_is_checked(experiments: dict[str, Experiment]) -> None:
    assert list(experiments) == list(USES)


@pytest.mark.slow
@pytest.mark.parametrize("row", USES)
def test_row_takes_a_step_with_its_own_part(
    row: str, experiments: dict[str, Experiment], small_streets: Path
) -> None:
    experiment = experiments[row]
    if not isinstance(experiment.model, NetworkConfig):
        experiment = replace(experiment, model=replace(experiment.model, channels=8))
    experiment = replace(
        experiment,
        data=replace(experiment.data, crop=(32, 48), validation_split=None),
        training=replace(experiment.training, epochs=None, steps=1, batch=2, precision="fp32"),
    )
    training = Training(experiment, open_dataset(small_streets), torch.device("cpu"))
    assert USES[row](training)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    reports: list[TrainingReport] = []
    training.run(reports.append)
    assert reports[-1].metrics is not None
    assert not all(map(torch.equal, before, training.model.parameters()))

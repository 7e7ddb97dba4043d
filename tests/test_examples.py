"""Every row of the examples' study takes a training step, with the part that the row is about; the
examples' reader prepares a data set."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.haze import Haze
from examples.tversky import Tversky
from examples.unet import UNet
from models.backbones.hugging_face import HuggingFaceBackbone
from orchestrator.study.load import load_study
from pipelines.data.dataset import open_dataset
from pipelines.network.config import NetworkConfig
from pipelines.prepare import main as prepare
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


def test_own_reader_prepares_a_data_set(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    table = ["split,farm,image,label"]
    for index, split in enumerate(("train", "train", "val")):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{index}.png")
        Image.fromarray(pixels[..., 0] % 4).save(source / f"{index}-label.png")
        table.append(f"{split},farm {index},{index}.png,{index}-label.png")
    (source / "samples.csv").write_text("\n".join(table))
    arguments = ["examples.fields:Fields", "--source", str(source), "--workers", "1"]
    assert prepare([*arguments, "--destination", str(tmp_path / "fields")]) == 0
    dataset = open_dataset(tmp_path / "fields")
    assert [each.name for each in dataset.manifest.classes] == ["soil", "crop", "weed"]
    assert dataset.manifest.counts == {"train": 2, "val": 1}
    assert list(dataset.split("train").groups) == ["farm 0", "farm 1"]
    image, label = dataset.split("val").read(0)
    assert np.array_equal(image, pixels)
    assert np.array_equal(label, np.where(pixels[..., 0] % 4, pixels[..., 0] % 4 - 1, 255))

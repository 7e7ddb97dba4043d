"""Trainings of models of `transformers`, saved here, through the command of one machine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models import PretrainedReport
from pipelines.data.dataset import open_dataset
from pipelines.serving import SegmentationModel
from pipelines.train import main
from pipelines.training.experiment import Experiment, read_experiment
from pipelines.training.lineage import lineage_of_run
from pipelines.training.loop import Training, TrainingReport

pytestmark = pytest.mark.slow  # models of `transformers` take seconds to import and build

LEVELS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SEGFORMER = {**LEVELS, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
MODELS = {
    "backbone": (
        "backbone: hf:{}, channels: 8, supervision: [3]",
        {**LEVELS, "layer_type": "basic"},
    ),
    "network": ("network: hf:{}", SEGFORMER),
}


def saved(kind: str, folder: Path) -> Path:
    """Save a model of random weights."""
    arguments = MODELS[kind][1]
    if kind == "backbone":
        config = transformers.ResNetConfig(**arguments, embedding_size=8)
        model = transformers.ResNetForImageClassification(config)
    else:
        model = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(**arguments, num_labels=5)
        )
    model.save_pretrained(folder)
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def experiment_file(kind: str, folder: Path, directory: Path) -> Path:
    path = directory / "experiment.yaml"
    path.write_text(
        "data: {crop: [32, 64]}\n"
        f"model: {{{MODELS[kind][0].format(folder)}}}\n"
        "training: {epochs: 2, batch: 6, precision: fp32}\n"
    )
    return path


def finished(experiment: Experiment, dataset: Path, resume: Path | None, save: Path | None):
    """Train; return the final weights, and what was loaded. save: keeps the first epoch's state."""
    training = Training(experiment, open_dataset(dataset), torch.device("cpu"))
    if resume is not None:
        training.restore(resume)

    def report(current: TrainingReport) -> None:
        if save is not None and current.epoch == 1:
            current.snapshot().write(save)

    training.run(report)
    return training.model.state_dict(), training.pretrained


@pytest.mark.parametrize("kind", MODELS)
def test_resumed_equals_uninterrupted(kind: str, small_streets: Path, tmp_path: Path) -> None:
    folder = saved(kind, tmp_path / "saved")
    experiment = read_experiment(experiment_file(kind, folder, tmp_path))
    whole, pretrained = finished(experiment, small_streets, None, tmp_path / "checkpoint")
    assert isinstance(pretrained, PretrainedReport)
    assert len(pretrained.loaded) > len(pretrained.missing)
    resumed, _ = finished(experiment, small_streets, tmp_path / "checkpoint", None)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_trained_model_needs_no_folder(small_streets: Path, tmp_path: Path) -> None:
    folder = saved("network", tmp_path / "saved")
    experiment = experiment_file("network", folder, tmp_path)
    out = tmp_path / "out"
    assert main([str(experiment), "--dataset", str(small_streets), "--out", str(out)]) == 0
    assert "layout: transformers" in next(out.rglob("pretrained.txt")).read_text()
    shutil.rmtree(folder)
    checkpoint = next(path.parent for path in out.rglob("classes.yaml"))
    model = SegmentationModel(checkpoint)
    images = torch.zeros(1, 48, 96, 3, dtype=torch.uint8).numpy()
    assert model.predict(images).shape == (1, 48, 96)
    assert model.network.mean == (0.5,) * 3


def test_content_of_a_folder_identifies_the_experiment(tmp_path: Path) -> None:
    folder = saved("backbone", tmp_path / "saved")
    moved = shutil.copytree(folder, tmp_path / "moved")
    experiments = [
        read_experiment(experiment_file("backbone", each, tmp_path)) for each in (folder, moved)
    ]
    lineages = [lineage_of_run(each, "data", "fp32") for each in experiments]
    assert lineages[0] == lineages[1]
    assert "saved" not in json.dumps(lineages[0])
    weights = load_file(moved / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, moved / "model.safetensors")
    assert lineage_of_run(experiments[1], "data", "fp32") != lineages[0]


def test_own_weights_take_precedence_over_those_of_the_folder(tmp_path: Path) -> None:
    folder = saved("backbone", tmp_path / "saved")
    path = experiment_file("backbone", folder, tmp_path)
    assert read_experiment(path).training.backbone_weights == str(folder / "model.safetensors")
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 2, init: other.safetensors"))
    assert read_experiment(path).training.backbone_weights is None

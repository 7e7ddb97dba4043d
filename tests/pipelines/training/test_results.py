"""Result files of a finished training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from models import FENetConfig
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport
from pipelines.training.results import write_results


@pytest.mark.slow
def test_results_match_scores_and_class_counts(small_streets: Path, tmp_path: Path) -> None:
    experiment = Experiment(
        data=DataConfig(crop=(32, 32)),
        model=FENetConfig(backbone="dfnet1", channels=8),
        training=TrainingConfig(epochs=1, batch=7, precision="fp32"),
    )
    dataset = open_dataset(small_streets)
    training = Training(experiment, dataset, torch.device("cpu"))
    reports: list[TrainingReport] = []
    training.run(reports.append)
    scores = reports[-1].scores
    assert scores is not None
    write_results(tmp_path / "results", training, reports[-1])

    with pa.memory_map(str(tmp_path / "results" / "counts.arrow")) as file:
        counts = pa.ipc.open_file(file).read_all()
    split = dataset.split("val")
    classes = [entry.name for entry in dataset.manifest.classes]
    assert counts["identifier"].to_pylist() == np.repeat(split.identifiers, len(classes)).tolist()
    assert counts["class"].to_pylist() == classes * len(split)
    true = np.array(counts["tp"]).reshape(len(split), -1)
    missed = np.array(counts["fn"]).reshape(len(split), -1)
    assert np.array_equal(true.sum(0), scores.confusion.diagonal().numpy())
    # Every labeled pixel is a true positive or a false negative.
    assert np.array_equal(true + missed, split.class_pixels)

    lines = (tmp_path / "results" / "confusion.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["label", *classes]
    for name in ("confusion.png", "panels.png"):
        with Image.open(tmp_path / "results" / name) as image:
            image.load()

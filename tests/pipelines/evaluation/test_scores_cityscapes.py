"""Evaluation scores against the official Cityscapes script; both must be bitwise equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipelines.data.dataset import open_dataset
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.inference import predict_image
from pipelines.evaluation.scores import Scores
from pipelines.network.precision import Numerics
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.cityscapes import CLASSES, Cityscapes
from tests.support.cityscapes import make_cityscapes, official_scores

CPU = Numerics.choose(torch.device("cpu"), "fp32")


class ColorClassifier(nn.Module):
    """Classify by a fixed mixture of the channels at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("mixture", torch.randn(19, 3, 1, 1, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.avg_pool2d(images, 2), self.mixture)


@pytest.mark.parametrize(
    "ids",
    [
        list(range(34)),  # every label id: all 19 classes and the unscored ids
        [0, 3, 7, 8, 26, 26, 26, 33],  # most classes occur only in the predictions
    ],
)
def test_scores_equal_those_of_the_official_script(tmp_path: Path, ids: list[int]) -> None:
    root, model = tmp_path / "cityscapes", ColorClassifier()
    make_cityscapes(root, ids, np.random.default_rng(len(ids)))
    prepare(Cityscapes(root), tmp_path / "prepared")
    split = open_dataset(tmp_path / "prepared").split("val")
    scores: Scores = evaluate(model, EvaluationBatches(split, batch=2), 19, CPU)

    label_ids = np.array([entry[0] for entry in CLASSES], np.uint8)
    (tmp_path / "results").mkdir()
    for index, identifier in enumerate(split.identifiers):
        image, _ = split.read(index)
        prediction = predict_image(model, torch.tensor(image), CPU).numpy()
        Image.fromarray(label_ids[prediction]).save(tmp_path / "results" / f"{identifier}.png")

    expected = official_scores(root, tmp_path / "results")
    for index, (_, name, _) in enumerate(CLASSES):
        iou, expected_iou = scores.iou[index].item(), expected["classScores"][name]
        assert iou == expected_iou or (np.isnan(iou) and np.isnan(expected_iou)), name
    assert scores.miou == expected["averageScoreClasses"]
    assert 0 < scores.miou < 1

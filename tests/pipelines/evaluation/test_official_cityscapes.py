"""Evaluation scores against the official Cityscapes script; both must be bitwise equal."""

from __future__ import annotations

import argparse
import copy
import glob
from pathlib import Path
from typing import Any

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

official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

CPU = Numerics.choose(torch.device("cpu"), "fp32")
FRAMES = ("munster_000000_000019", "munster_000001_000019", "lindau_000000_000019")


class ColorClassifier(nn.Module):
    """Classify by a fixed mixture of the channels at half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("mixture", torch.randn(19, 3, 1, 1, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.avg_pool2d(images, 2), self.mixture)


def make_cityscapes(root: Path, ids: list[int], random: np.random.Generator) -> None:
    """Write validation images and labels with patches of `ids`, scored or not."""
    for frame in FRAMES:
        city = frame.split("_")[0]
        patches = random.choice(ids, (6, 8)).astype(np.uint8)
        label = patches.repeat(5, axis=0).repeat(7, axis=1)
        pixels = random.integers(0, 256, (6, 8, 3), np.uint8).repeat(5, 0).repeat(7, 1)
        for folder, kind, values in (
            ("leftImg8bit", "leftImg8bit", pixels),
            ("gtFine", "gtFine_labelIds", label),
        ):
            path = root / folder / "val" / city / f"{frame}_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def official_scores(root: Path, predictions: Path) -> dict[str, Any]:
    """Return the scores that the official script computes for the files in `predictions`."""
    args: argparse.Namespace = copy.copy(official.args)
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    args.predictionPath, args.predictionWalk = str(predictions), None
    label_files = glob.glob(str(root / "gtFine" / "val" / "*" / "*_gtFine_labelIds.png"))
    prediction_files = [official.getPrediction(args, label_file) for label_file in label_files]
    assert len(prediction_files) == len(FRAMES)
    result: dict[str, Any] = official.evaluateImgLists(prediction_files, label_files, args)
    return result


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

"""A small Cityscapes in the published layout, and the benchmark's official script."""

import argparse
import copy
import glob
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
from PIL import Image

FRAMES = ("munster_000000_000019", "munster_000001_000019", "lindau_000000_000019")


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
    args: argparse.Namespace = copy.copy(evalPixelLevelSemanticLabeling.args)
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    args.predictionPath, args.predictionWalk = str(predictions), None
    label_files = glob.glob(str(root / "gtFine" / "val" / "*" / "*_gtFine_labelIds.png"))
    prediction_files = [
        evalPixelLevelSemanticLabeling.getPrediction(args, label_file) for label_file in label_files
    ]
    assert len(prediction_files) == len(FRAMES)
    result: dict[str, Any] = evalPixelLevelSemanticLabeling.evaluateImgLists(
        prediction_files, label_files, args
    )
    return result

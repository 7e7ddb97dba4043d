"""Writes the result files of a finished training: confusion matrix, counts, prediction panels."""

import csv
from pathlib import Path

import numpy as np
import torch

from pipelines.evaluation.counts import write_counts
from pipelines.evaluation.inference import predict_image
from pipelines.evaluation.statistics_file import write_statistics
from pipelines.figures.panels import draw_confusion, draw_panels
from pipelines.training.loop import Training, TrainingReport

PANEL_ROWS = 5


def write_results(directory: Path, training: Training, report: TrainingReport) -> None:
    """Write the result files into `directory`.

    `confusion.csv`, `confusion.png`, `counts.arrow` (per image and class), `statistics.arrow` (per
    image, for the experiment's own choice of metrics) and `panels.png` need a validation split.
    `pretrained.txt` or `init.txt` list the weights that were loaded and those that were not. The
    panels show images spaced evenly over the validation split, the same for every variant.
    """
    directory.mkdir(parents=True)
    if training.pretrained is not None:
        (directory / "pretrained.txt").write_text(f"{training.pretrained}\n")
    if training.initial is not None:
        (directory / "init.txt").write_text(f"{training.initial}\n")
    experiment = training.experiment
    if report.scores is None or experiment.data.validation_split is None:
        return
    names = training.classes
    confusion = report.scores.confusion.numpy()
    with (directory / "confusion.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")  # quotes names that contain a comma
        writer.writerow(["label", *names])
        writer.writerows([name, *row] for name, row in zip(names, confusion, strict=True))
    title = f"epoch {report.epoch}: mIoU {100 * report.scores.miou:.1f} %, validation split"
    iou = report.scores.iou.numpy()
    draw_confusion(directory / "confusion.png", confusion, iou, names, title)

    split = training.samples(experiment.data.validation_split)
    counts = report.scores.images
    assert counts is not None, "the images were counted"
    write_counts(directory / "counts.arrow", counts, split.identifiers, names, split.groups)
    configs = experiment.evaluation.metric_configs
    write_statistics(directory, counts, report.scores.measured, configs, split.identifiers)
    positions = np.linspace(0, len(split) - 1, min(PANEL_ROWS, len(split))).round().astype(int)
    rows = []
    for position in positions:
        image, label = split.read(int(position))
        prediction = predict_image(
            training.scored_model,
            torch.tensor(image),
            training.numerics,
            experiment.evaluation,
            split.image_format,
        )
        drawn = split.image_format.drawn(image)
        rows.append((split.identifiers[position], drawn, label, prediction.numpy()))
    draw_panels(directory / "panels.png", rows, training.dataset.manifest.classes, title)

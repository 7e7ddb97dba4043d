"""Scoring a model on a whole split: the confusion matrix, and the figures that follow from it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from models import split_output
from pipelines.augmentation import normalise
from pipelines.dataset import IGNORE_INDEX
from pipelines.loading import EvaluationBatches
from pipelines.precision import Numerics


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is scored: single scale, whole images.

    batch: images of one size that a worker computes at once; does not change the score.
    every: epochs from one validation to the next; the last epoch is always validated.
    """

    __pydantic_config__ = {"extra": "forbid"}

    batch: int = 4
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. All values are in [0, 1]; an absent class has IoU NaN.

    confusion: int64 `(classes, classes)`, row = label, column = prediction, in pixels.
    """

    confusion: Tensor

    @property
    def iou(self) -> Tensor:
        """Intersection over union per class, float64 `(classes,)`; NaN where a class occurs
        neither in the labels nor in the predictions."""
        matrix = self.confusion.double()
        intersection = matrix.diagonal()
        return intersection / (matrix.sum(dim=0) + matrix.sum(dim=1) - intersection)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur in a label or a prediction."""
        return float(self.iou.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted right."""
        matrix = self.confusion.double()
        return float(matrix.diagonal().sum() / matrix.sum())


def predict(model: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Class indices, int64 `(batch, height, width)` of `size`, for normalised `images`.

    The logits are resized bilinearly to the label's own size, in float32, before the argmax.
    """
    logits, _ = split_output(model(images))
    logits = logits.float()
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits.argmax(dim=1)


@torch.no_grad()
def predict_image(model: nn.Module, image: Tensor, numerics: Numerics) -> Tensor:
    """Class indices, uint8 `(height, width)`, for one `image`, uint8 `(height, width, 3)`."""
    training = model.training
    model.eval()
    try:
        images = normalise(image.permute(2, 0, 1).unsqueeze(0).to(numerics.device))
        with numerics.autocast():
            prediction = predict(model, numerics.arrange(images), (image.shape[0], image.shape[1]))
        return prediction[0].to("cpu", torch.uint8)
    finally:
        model.train(training)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: EvaluationBatches, classes: int, numerics: Numerics
) -> Scores:
    """Score `model` on all images of `batches`, summed over all workers.

    Every image counts once: the workers' `batches` must partition the split. The model is left in
    the mode it came in.
    """
    metric = MulticlassConfusionMatrix(classes, ignore_index=IGNORE_INDEX, validate_args=False).to(
        numerics.device
    )
    # A worker without images must take part in the sum all the same: it adds nothing.
    nothing = torch.empty(0, dtype=torch.int64, device=numerics.device)
    metric.update(nothing, nothing)
    training = model.training
    model.eval()
    try:
        for batch in batches:
            labels = batch.labels.to(numerics.device, torch.int64, non_blocking=True)
            images = numerics.arrange(
                normalise(batch.images.to(numerics.device, non_blocking=True))
            )
            with numerics.autocast():
                prediction = predict(model, images, (labels.shape[-2], labels.shape[-1]))
            metric.update(prediction, labels)
        return Scores(metric.compute().cpu().long())
    finally:
        model.train(training)

"""Scoring a model on a whole split."""

from collections.abc import Callable

import torch
from torch import nn

from pipelines.data.loading import EvaluationBatches
from pipelines.data.normalization import normalize
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import InferenceConfig, predict, predict_image, scaled_size
from pipelines.evaluation.scores import Scores, ScoreState
from pipelines.network.precision import Numerics

__all__ = [
    "EvaluationConfig",
    "Scores",
    "count_pixels",
    "evaluate",
    "predict",
    "predict_image",
]

# Logits, in values, that are computed at once where there is a choice: 1 GiB.
_LOGITS = 2**28


def evaluate(
    model: nn.Module,
    batches: EvaluationBatches,
    classes: int,
    numerics: Numerics,
    config: EvaluationConfig | None = None,
) -> Scores:
    """Score `model` on all images of `batches`, summed over all workers.

    Every image counts once: the workers' `batches` must partition the split. The model is left in
    the mode it came in.

    Raises ValueError where a label holds a class beyond `classes`.
    """
    return count_pixels(model, batches, classes, numerics, config).scores()


@torch.no_grad()
def count_pixels(
    model: nn.Module,
    batches: EvaluationBatches,
    classes: int,
    numerics: Numerics,
    config: EvaluationConfig | None = None,
    advance: Callable[[int], None] | None = None,
) -> ScoreState:
    """What `evaluate` scores, before it is summed over the workers.

    advance: is told how many images have been counted since it was last called.
    """
    config = config or EvaluationConfig()
    state = ScoreState(classes, len(batches.identifiers), config.boundary).to(numerics.device)
    # A worker without images must take part in the sum all the same: it adds nothing.
    nothing = torch.empty(0, 1, 1, dtype=torch.int64, device=numerics.device)
    state.update(nothing, nothing, torch.empty(0))
    training = model.training
    model.eval()
    try:
        for batch in batches:
            size = (batch.labels.shape[-2], batch.labels.shape[-1])
            part = _images_at_once(size, classes, config)
            for images, labels, positions in zip(
                batch.images.split(part),
                batch.labels.split(part),
                batch.indices.split(part),
                strict=True,
            ):
                pixels = normalize(images.to(numerics.device, non_blocking=True))
                with numerics.autocast():
                    prediction = predict(model, numerics.to_memory_format(pixels), size, config)
                truth = labels.to(numerics.device, torch.int64, non_blocking=True)
                state.update(prediction, truth, positions)
                if advance is not None:
                    advance(len(positions))
        return state
    finally:
        model.train(training)


def _images_at_once(size: tuple[int, int], classes: int, config: InferenceConfig) -> int:
    height, width = scaled_size(size, max(1.0, *config.scales))
    return max(1, _LOGITS // (classes * height * width))

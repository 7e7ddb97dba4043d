"""Score a model on a whole split."""

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

# Most logits computed in one forward pass: 2**28 float32 values, 1 GiB.
_MOST_LOGITS = 2**28


def evaluate(
    model: nn.Module,
    batches: EvaluationBatches,
    classes: int,
    numerics: Numerics,
    config: EvaluationConfig | None = None,
) -> Scores:
    """Return the scores of `model` on all images of `batches`, summed over all workers.

    The workers' `batches` must partition the split, so that every image counts once. The model's
    training mode is restored.

    Raises ValueError if a label is not below `classes`.
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
    """Return the counts of this worker's images, not yet summed over the workers.

    advance: called after each forward pass with the number of images it has counted.
    """
    config = config or EvaluationConfig()
    state = ScoreState(classes, len(batches.identifiers), config.boundary).to(numerics.device)
    # A worker without images must still take part in the sum over workers.
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
    return max(1, _MOST_LOGITS // (classes * height * width))

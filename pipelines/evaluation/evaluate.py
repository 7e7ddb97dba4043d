"""Score a model on a whole split."""

from collections.abc import Callable

import torch
from torch import nn

from pipelines.data.image_format import ImageFormat
from pipelines.data.loading import EvaluationBatches
from pipelines.data.normalization import normalize
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import predict, predict_image
from pipelines.evaluation.measuring import build_metrics
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

    Raises ValueError if a label is not below `classes`, MetricError if a metric cannot be used.
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
    image_format: ImageFormat | None = None,
) -> ScoreState:
    """Return the counts of this worker's images, not yet summed over the workers.

    advance: called with 1 after each image. image_format: of the images that the model was trained
    on, with their normalization; by default, that of `batches`.
    """
    config = config or EvaluationConfig()
    metrics = build_metrics(config.metric_configs, classes)
    state = ScoreState(classes, len(batches.identifiers), metrics).to(numerics.device)
    # A worker without images must still take part in the sum over workers.
    nothing = torch.empty(0, 1, 1, dtype=torch.int64, device=numerics.device)
    state.update(nothing, nothing, torch.empty(0))
    training = model.training
    model.eval()
    try:
        for batch in batches:
            size = (batch.labels.shape[-2], batch.labels.shape[-1])
            # One image at a time: convolutions sum in another order for another batch size, which
            # would make the score depend on it.
            for image, label, position in zip(
                batch.images.split(1), batch.labels.split(1), batch.indices.split(1), strict=True
            ):
                stored = image.to(numerics.device, non_blocking=True)
                pixels = normalize(stored, image_format or batches.image_format)
                probabilities = None
                if state.takes_probabilities:
                    probabilities = pixels.new_empty((1, classes, *size))
                with numerics.autocast():
                    pixels = numerics.to_memory_format(pixels)
                    prediction = predict(model, pixels, size, config, probabilities)
                truth = label.to(numerics.device, torch.int64, non_blocking=True)
                state.update(prediction, truth, position, probabilities)
                if advance is not None:
                    advance(1)
        return state
    finally:
        model.train(training)

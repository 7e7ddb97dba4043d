"""What is evaluated of finished trials: protocols, a submission, the latency."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from pipelines.data.split_names import check_split_name
from pipelines.evaluation.config import (
    EvaluationConfig,
    InferenceConfig,
    MetricConfig,
    checked_metrics,
    metric_configs,
)

# Under this name, the latency of a trial's network is recorded among its evaluations.
LATENCY = "latency"
_MAX_SIDE = 65536  # pixels


@dataclass(frozen=True)
class ProtocolConfig(InferenceConfig):
    """How the last checkpoint is scored under a protocol: inference settings and a split.

    split: split whose images are scored; each trial's `data.validation_split` by default.
    metrics: metrics computed in addition to those of each trial's `evaluation`: names, or mappings
        of `name`, `arguments` and `key`. Trials that are finished are scored again, not trained.
    """

    __pydantic_config__ = {"extra": "forbid"}

    split: str | None = None
    metrics: tuple[str | MetricConfig, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None:
            check_split_name("split", self.split)
        object.__setattr__(self, "metrics", checked_metrics(self.metrics))

    @property
    def inference(self) -> InferenceConfig:
        """How the model is applied to an image."""
        return InferenceConfig(**self._inference_settings)

    @property
    def _inference_settings(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(InferenceConfig)}

    def evaluation(self, training: EvaluationConfig) -> EvaluationConfig:
        """Return how a trial is scored under the protocol. training: the trial's own evaluation
        during training, which sets batch size and metrics; the protocol adds metrics, or replaces
        those with the same key."""
        added = metric_configs(self.metrics)
        keys = {metric.key for metric in added}
        kept = [metric for metric in metric_configs(training.metrics) if metric.key not in keys]
        return EvaluationConfig(
            **self._inference_settings,
            batch=training.batch,
            metrics=(*kept, *added),
        )


@dataclass(frozen=True)
class Submission:
    """Predictions packaged for a benchmark's test server.

    benchmark: benchmark whose label map format is written.
    split: split whose images are predicted.
    protocol: inference protocol, one of `protocols`; single scale on whole images by default.
    """

    __pydantic_config__ = {"extra": "forbid"}

    benchmark: Literal["cityscapes", "ade20k"]
    split: str = "test"
    protocol: str | None = None

    def __post_init__(self) -> None:
        check_split_name("split", self.split)


@dataclass(frozen=True)
class LatencyConfig:
    """What is timed of each finished trial's network, on the device that the study trains on.

    size: height and width of the images in pixels.
    batch: number of images in one forward pass.
    """

    __pydantic_config__ = {"extra": "forbid"}

    size: tuple[int, int]
    batch: int = 1

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(
                f"size must be a height and a width of at least 1 pixel, received {list(self.size)}"
            )
        if max(self.size) > _MAX_SIDE or self.batch > _MAX_SIDE:
            raise ValueError(f"size and batch must be at most {_MAX_SIDE}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, received {self.batch}")

    @property
    def tag(self) -> str:
        """The text that records with a measurement what was timed."""
        height, width = self.size
        return f"{height}x{width}, batch {self.batch}"

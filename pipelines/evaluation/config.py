"""How a trained model is scored."""

from dataclasses import dataclass

from pipelines.evaluation.inference import InferenceConfig


@dataclass(frozen=True)
class EvaluationConfig(InferenceConfig):
    """How a model is scored; the default is a single scale on whole images.

    batch: images of one size that a worker reads together; does not change the score, because the
        network is applied to one image at a time.
    every: validate every this many epochs; the last epoch is always validated.
    boundary: tolerance in pixels of the boundary F-score; 0 to skip it.
    """

    __pydantic_config__ = {"extra": "forbid"}

    batch: int = 4
    every: int = 1
    boundary: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.boundary < 0:
            raise ValueError(
                f"boundary must be a tolerance in pixels, or 0 to skip it; received {self.boundary}"
            )

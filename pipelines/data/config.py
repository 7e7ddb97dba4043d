"""The data of an experiment: data set, splits, cropping and augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.data.augmentation import AugmentationConfig


@dataclass(frozen=True)
class DataConfig:
    """The data of an experiment.

    dataset: path or URI of a prepared data set, or `streets` for the embedded one.
    crop: height and width of a training crop in pixels.
    train_split: a split of the data set, or several splits joined, such as `train+val`.
    validation_split: split to score during training; null for none, as when training on all labeled
        images for a test server.
    class_uniform: fraction of each epoch, 0 to 1, that is sampled uniformly over classes instead of
        images; the paper uses 0.5 for Cityscapes.
    """

    __pydantic_config__ = {"extra": "forbid"}

    dataset: str = "streets"
    crop: tuple[int, int] = (1024, 1024)
    train_split: str = "train"
    validation_split: str | None = "val"
    class_uniform: float = 0.0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(
                f"crop must be two sizes in pixels, height and width, such as (512, 1024); "
                f"received {self.crop}"
            )
        if not 0 <= self.class_uniform <= 1:
            raise ValueError(
                f"class_uniform must be a fraction from 0 to 1, received {self.class_uniform}"
            )
        if not self.dataset:
            raise ValueError("dataset must not be empty")
        for name in ("train_split", "validation_split"):
            value = getattr(self, name)
            if value is None:
                continue
            parts = value.split("+")
            if not all(parts) or len(set(parts)) < len(parts):
                raise ValueError(
                    f"{name} must name a split, or different splits joined by +, such as "
                    f"train+val; received {value!r}"
                )

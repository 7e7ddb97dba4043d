"""What a training sees of a data set: which one, which splits, how it is cropped and augmented."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.augmentation import AugmentationConfig


@dataclass(frozen=True)
class DataConfig:
    """The data of an experiment.

    dataset: `streets` for the embedded data set, else the path or URI of a prepared one.
    crop: height and width of a training crop in pixels.
    train_split, validation_split: names of splits in the data set.
    """

    __pydantic_config__ = {"extra": "forbid"}

    dataset: str = "streets"
    crop: tuple[int, int] = (1024, 1024)
    train_split: str = "train"
    validation_split: str = "val"
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(
                f"crop must be two sizes in pixels, height and width, such as (512, 1024); "
                f"received {self.crop}"
            )
        for name in ("dataset", "train_split", "validation_split"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")

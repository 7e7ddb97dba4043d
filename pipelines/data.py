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
    class_uniform: share of each epoch that is drawn class by class, 0 to 1, instead of picture by
        picture; the paper draws half of its Cityscapes epochs so.
    """

    __pydantic_config__ = {"extra": "forbid"}

    dataset: str = "streets"
    crop: tuple[int, int] = (1024, 1024)
    train_split: str = "train"
    validation_split: str = "val"
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
                f"class_uniform must be a share from 0 to 1, received {self.class_uniform}"
            )
        for name in ("dataset", "train_split", "validation_split"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")

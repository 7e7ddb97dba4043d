"""The data of an experiment: data set, splits, cropping and augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, get_args

from models.registry import ClassConfig, Registry
from pipelines.data.split_names import FoldBy, FoldName, check_split_name, parse_fold

#: Transforms by name, the values of `transforms:`. All built-in ones are settings of their own.
TRANSFORMS: Registry[Any] = Registry("transform", "torch.nn:Module")


@dataclass(frozen=True)
class TransformConfig(ClassConfig):
    """A transform with arguments.

    name: `package.module:Class` of an augmentation of kornia, such as
        `kornia.augmentation:RandomElasticTransform`, or of another `nn.Module`.
    arguments: arguments of its constructor.
    """

    registry = TRANSFORMS


@dataclass(frozen=True)
class AugmentationConfig:
    """Strength of each augmentation; an augmentation that is off changes no bit.

    scale: smallest and largest factor of the random resize; (1, 1) turns it off.
    flip: probability of a horizontal flip.
    vertical_flip: probability of a vertical flip.
    rotate90: probability of a rotation by 90, 180 or 270 degrees, all equally likely. A crop that
        is not square is rotated by 180 degrees.
    brightness, contrast, saturation: x, for a factor drawn from [1 - x, 1 + x]; at most 1.
    hue: x, for a hue shift drawn from [-x, x] as a fraction of the color circle; at most 0.5.
    blur: smallest and largest standard deviation of the Gaussian blur in pixels; (0, 0) turns it
        off.
    transforms: further augmentations, applied in this order after those above: each
        `package.module:Class`, or a mapping of `name` and `arguments`.
    cutmix: probability that a rectangle of the crop is replaced, with its labels, by the same
        rectangle of another crop, of any image of the split. Above 0, twice as much is loaded.
    classmix: probability that all pixels of half of the classes of another crop are pasted instead;
        `cutmix` and `classmix` are at most 1 together.
    """

    __pydantic_config__ = {"extra": "forbid"}

    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.25
    blur: tuple[float, float] = (0.15, 1.30)
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    transforms: tuple[str | TransformConfig, ...] = ()
    cutmix: float = 0.0
    classmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"scale must be a smallest and a largest factor above 0, such as (0.5, 2.0); "
                f"received {self.scale}"
            )
        for name in ("flip", "vertical_flip", "rotate90", "cutmix", "classmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} must be a probability from 0 to 1, received {getattr(self, name)}"
                )
        if self.cutmix + self.classmix > 1:
            raise ValueError(
                "classmix and cutmix must be at most 1 together, because a crop is mixed once; "
                f"received {self.classmix} and {self.cutmix}"
            )
        for name, limit in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(
                    f"{name} must be from 0 to {limit}, received {getattr(self, name)}"
                )
        if not (self.blur == (0, 0) or 0 < self.blur[0] <= self.blur[1]):
            raise ValueError(
                f"blur must be a smallest and a largest sigma above 0, such as (0.15, 1.3), "
                f"or (0, 0) for none; received {self.blur}"
            )
        short = tuple(each.short_form() for each in self.transform_configs)
        object.__setattr__(self, "transforms", short)

    @property
    def mixes(self) -> bool:
        """Whether crops are mixed with others."""
        return self.cutmix > 0 or self.classmix > 0

    @property
    def transform_configs(self) -> tuple[TransformConfig, ...]:
        """`transforms` in their long form."""
        return tuple(TransformConfig.read(each, "transforms") for each in self.transforms)


@dataclass(frozen=True)
class DataConfig:
    """The data of an experiment.

    dataset: path or URI of a prepared data set, or `streets` for the embedded one.
    crop: height and width of a training crop in pixels.
    train_split: a split of the data set, or several splits joined, such as `train+val`.
    validation_split: split to score during training; null for none, as when training on all labeled
        images for a test server. With `folds`, it is the held-out fold and must be left out.
    class_uniform: fraction of each epoch, 0 to 1, that is sampled uniformly over classes instead of
        images; the paper uses 0.5 for Cityscapes.
    folds: number of folds that `train_split` is divided into for cross-validation; none by default.
    fold: the fold, from 0, that is held out for validation; the others are trained on.
    fold_by: what is assigned to folds: `group`, so that images of the same group of the data set
        (city, drive, patient) are in the same fold; or each `image` by itself.
    """

    __pydantic_config__ = {"extra": "forbid"}

    dataset: str = "streets"
    crop: tuple[int, int] = (1024, 1024)
    train_split: str = "train"
    validation_split: str | None = "val"
    class_uniform: float = 0.0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    folds: int | None = None
    fold: int | None = None
    fold_by: FoldBy = "group"

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
            if value is not None:
                check_split_name(name, value)
        self._hold_out()

    @property
    def trained_on(self) -> str:
        """The split of the training images: `train_split`, without the held-out fold."""
        held_out = self.held_out
        return self.train_split if held_out is None else str(replace(held_out, held_out=False))

    @property
    def held_out(self) -> FoldName | None:
        """The held-out fold of `train_split`; None without folds."""
        if self.folds is None or self.fold is None:
            return None
        return FoldName(self.train_split, self.fold, self.folds, self.fold_by)

    def _hold_out(self) -> None:
        """Set `validation_split` to the held-out fold. Raises ValueError."""
        if (self.folds is None) != (self.fold is None):
            raise ValueError(
                f"folds and fold must be set together, such as 5 and 0; received {self.folds} and "
                f"{self.fold}"
            )
        if self.fold_by not in get_args(FoldBy):
            raise ValueError(
                f"fold_by must be one of {', '.join(get_args(FoldBy))}, received {self.fold_by!r}"
            )
        held_out = self.held_out
        if held_out is None:
            if self.fold_by != "group":
                raise ValueError(f"fold_by needs folds and fold, received {self.fold_by!r} alone")
            return
        if parse_fold(self.train_split) is not None:
            raise ValueError(
                f"train_split must be a whole split with folds, received {self.train_split!r}"
            )
        default = DataConfig.validation_split
        if self.validation_split not in (default, str(held_out)):
            raise ValueError(
                "validation_split must be left out with folds, because the held-out fold is "
                f"scored; received {self.validation_split!r}"
            )
        object.__setattr__(self, "validation_split", str(held_out))

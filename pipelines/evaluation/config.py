"""How a trained model is applied to images and scored."""

import re
from dataclasses import dataclass
from typing import Any

from models.registry import ClassConfig, Registry, is_class_name

#: Metrics that every evaluation computes, from the pixel counts of each image.
COUNTED = ("miou", "dice", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")

#: Other metrics by name, the values of `metrics:`.
METRICS: Registry[Any] = Registry(
    "metric",
    "pipelines.evaluation.metrics:Metric",
    {
        "boundary_f": "pipelines.evaluation.boundaries:BoundaryF",
        "boundary_iou": "pipelines.evaluation.boundaries:BoundaryIoU",
        "calibration_error": "pipelines.evaluation.calibration:CalibrationError",
    },
)

# Names under which an evaluation records other values, in MLflow or in the statistics by image.
_RESERVED = (*COUNTED, "iou", "best_miou", "seconds", "identifier")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_LARGEST_SCALE = 16  # an image has 256 times as many pixels at this scale


@dataclass(frozen=True)
class InferenceConfig:
    """How a model is applied to an image; the default is a single scale, whole image, no flip.

    scales: factors by which the image is resized; the probabilities are averaged.
    flip: also predict the mirrored image, at every scale.
    window: height and width in pixels of a window that slides over the resized image, cropped to a
        smaller image; None for the whole image.
    stride: rows and columns from one window to the next; None for two thirds of the window.
    """

    __pydantic_config__ = {"extra": "forbid"}

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        possible = all(0 < scale <= _LARGEST_SCALE for scale in self.scales)
        if not (self.scales and possible and len(set(self.scales)) == len(self.scales)):
            raise ValueError(
                f"scales must be different factors above 0 and at most {_LARGEST_SCALE}, such as "
                f"(0.5, 1, 1.5); received {self.scales}"
            )
        for name, sizes in (("window", self.window), ("stride", self.stride)):
            if sizes is not None and (len(sizes) != 2 or min(sizes) < 1):
                raise ValueError(
                    f"{name} must be two sizes in pixels, height and width, such as (512, 1024); "
                    f"received {sizes}"
                )
        if self.stride is None:
            return
        if self.window is None:
            raise ValueError(f"stride needs a window; received stride {self.stride} without one")
        if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
            raise ValueError(
                f"stride must not exceed the window {self.window}, or pixels between two windows "
                f"would not be predicted; received {self.stride}"
            )

    @property
    def step(self) -> tuple[int, int] | None:
        """The effective stride; None without a window."""
        if self.window is None or self.stride is not None:
            return self.stride
        height, width = self.window
        return max(1, 2 * height // 3), max(1, 2 * width // 3)

    @property
    def views(self) -> tuple[tuple[float, bool], ...]:
        """(scale, mirrored) of every pass over an image."""
        mirrored = (False, True) if self.flip else (False,)
        return tuple((scale, flipped) for scale in self.scales for flipped in mirrored)

    @property
    def protocol(self) -> str:
        """A name that is unique to these settings, of letters, digits, `-`, `_` and `.`.

        Examples: `whole`, `whole_flip`, `window-512x512-by-341x341_scales-0.5-1-1.5_flip`.
        """
        parts = ["whole"]
        if self.window is not None and self.step is not None:
            size, step = ("x".join(map(str, sizes)) for sizes in (self.window, self.step))
            parts = [f"window-{size}-by-{step}"]
        if self.scales != (1.0,):
            parts.append("-".join(["scales", *(f"{scale:.9g}" for scale in self.scales)]))
        return "_".join(parts + ["flip"] * self.flip)


@dataclass(frozen=True)
class MetricConfig(ClassConfig):
    """A metric with arguments.

    name: `boundary_f`, `boundary_iou`, `calibration_error`, or `package.module:Class` of a
        `pipelines.evaluation.metrics.Metric`.
    arguments: arguments of its constructor, such as `tolerance`.
    key: name of its scores in the tracking store and in `report.columns`; by default the short
        name, or the name of the class.
    """

    key: str = ""

    registry = METRICS

    def __post_init__(self) -> None:
        _check_not_counted(self.name, "name")
        super().__post_init__()
        if not self.key:
            object.__setattr__(self, "key", self.name.rpartition(":")[2])
        if not _KEY.fullmatch(self.key) or self.key in _RESERVED:
            raise ValueError(
                f"key of a metric must be a letter followed by letters, digits and . _ -, and none "
                f"of {', '.join(_RESERVED)}; received {self.key!r}"
            )


def _check_not_counted(name: object, field: str) -> None:
    if name in COUNTED:
        raise ValueError(f"{field} is {name!r}, which is always computed; remove it")


def checked_metrics(metrics: tuple[str | MetricConfig, ...]) -> tuple[str | MetricConfig, ...]:
    """Return a configuration's metrics, each in its short form.

    Raises:
        ValueError: a metric is unknown, or two have the same key.
    """
    return tuple(config.short_form() for config in metric_configs(metrics))


def metric_configs(metrics: tuple[str | MetricConfig, ...]) -> tuple[MetricConfig, ...]:
    """Return a configuration's metrics in their long form.

    Raises:
        ValueError: a metric is unknown, or two have the same key.
    """
    for each in metrics:
        _check_not_counted(each, "metrics")
    configs = tuple(MetricConfig.read(each, "metrics") for each in metrics)
    keys = [config.key for config in configs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"metrics has {key!r} twice; give one of them another key")
    return configs


@dataclass(frozen=True)
class EvaluationConfig(InferenceConfig):
    """How a model is scored; the default is a single scale on whole images.

    batch: images of one size that a worker reads together; does not change the score, because the
        network is applied to one image at a time.
    every: validate every this many epochs; the last epoch is always validated.
    metrics: metrics computed in addition to those from pixel counts: names, or mappings of `name`,
        `arguments` and `key`.
    """

    __pydantic_config__ = {"extra": "forbid"}

    batch: int = 4
    every: int = 1
    metrics: tuple[str | MetricConfig, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")
        object.__setattr__(self, "metrics", checked_metrics(self.metrics))

    @property
    def metric_configs(self) -> tuple[MetricConfig, ...]:
        """`metrics` in their long form."""
        return metric_configs(self.metrics)

    @property
    def metric_class_names(self) -> list[str]:
        """The metrics named as `package.module:Class`."""
        return [config.name for config in self.metric_configs if is_class_name(config.name)]

"""The options of a study's report: columns, metrics and their labels, figures."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.evaluation.config import COUNTED

# Columns of the report's table.
TABLE_COLUMNS = (
    "miou",
    "n",
    "compared_to",
    "difference",
    "p",
    "entered",
    "published",
    "published_difference",
    "published_elsewhere",
    "best",
    "parameters_m",
    "gflops",
    "latency_ms",
    "inference_memory_gib",
    "images_per_second",
    "hours",
)
# Labels of scores. Metrics with a key or a class of the user's own have their key.
SCORE_LABELS = {
    "miou": "mIoU",
    "dice": "Dice",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_f": "boundary F",
    "boundary_iou": "boundary IoU",
    "calibration_error": "calibration error",
    "iou": "IoU",
}
OTHER_METRICS = ("memory_gib", "learning_rate", "epoch")


@dataclass(frozen=True)
class ReportOptions:
    """Options of the study's report.

    protocol: protocol of the mIoU in the table, one of `protocols`; by default, the one used for
        validation during training.
    expected_difference: difference in points of mIoU that the study should detect; the report
        states how likely its seeds are to detect it. By default, the smallest published difference
        of the study's own setting.
    published_setting: the setting of the published values: dotted keys of the experiment, such as
        `data.dataset`, each with a value or a list of values. Cells that differ show the published
        values apart. By default, all published values are of the study's own setting.
    columns: columns of the table after the variant, in this order: `miou`, `n`, `compared_to`,
        `difference`, `p`, `entered`, `published`, `published_difference`, `published_elsewhere`,
        `best`, `parameters_m`, `gflops`, `latency_ms`, `inference_memory_gib`, `images_per_second`,
        `hours`, or any metric of the trials' runs, such as `dice`, `boundary_f`, `iou/pole` (these
        under the report's protocol), the key of a metric of `evaluation.metrics`, or `memory_gib`.
        `difference/dice` is the difference in another metric than mIoU. By default, the named ones
        that have values.
    class_groups: lists of classes by name, such as `thin: [pole, fence]`. `iou/thin` is then a
        column with their mean IoU, and `difference/iou/thin` the difference in it.
    images: number of images listed as best, and number listed as worst; 0 lists none.
    figures: figures drawn when the study ends: `comparison` (images on which the mIoU of the last
        row and of `compare_to` differs most) and `features` (feature maps before and after the
        flows); both by default.
    """

    __pydantic_config__ = {"extra": "forbid"}

    protocol: str | None = None
    expected_difference: float | None = None
    published_setting: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    class_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: int = 5
    figures: tuple[Literal["comparison", "features"], ...] | None = None

    def __post_init__(self) -> None:
        if self.expected_difference is not None and not 0 < self.expected_difference <= 100:
            raise ValueError(
                "expected_difference must be above 0 and at most 100 points of mIoU, received "
                f"{self.expected_difference}"
            )
        if self.columns == ():
            raise ValueError("columns must not be empty; leave it out for the default columns")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns must be different, received {list(self.columns)}")
        if self.images < 0:
            raise ValueError(f"images must not be negative, received {self.images}")
        for name, classes in self.class_groups.items():
            if not classes:
                raise ValueError(f"class_groups has {name!r} without classes; name at least one")

    @property
    def differences(self) -> tuple[str, ...]:
        """The metrics in `columns` as `difference/METRIC`."""
        prefix = "difference/"
        return tuple(n.removeprefix(prefix) for n in self.columns or () if n.startswith(prefix))

    @property
    def resampled_metrics(self) -> tuple[str, ...]:
        """The metrics besides mIoU that `columns` need the statistics of each image for."""
        groups = {f"iou/{name}" for name in self.class_groups}
        counted = [
            name
            for name in self.columns or ()
            if name in groups or (name in COUNTED and name != "miou")
        ]
        return tuple(dict.fromkeys((*self.differences, *counted)))


def score_label(key: str) -> str:
    """Return the label of a score, such as `IoU pole` of `iou/pole`."""
    kind, _, class_name = key.partition("/")
    return SCORE_LABELS.get(kind, kind) + f" {class_name}" * bool(class_name)

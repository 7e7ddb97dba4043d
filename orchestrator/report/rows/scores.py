"""The scores that a table's columns show besides mIoU, and their values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.rows.row import Row
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.study.config import StudyConfig
from orchestrator.study.repetition import Repetition, fold_of
from orchestrator.study.report_options import SCORE_LABELS, score_label
from pipelines.data.manifest import metric_name
from pipelines.evaluation.config import MetricConfig


@dataclass(frozen=True)
class Score:
    """A score by its name under the report's protocol, such as `dice` or `iou/pole`.

    prefix: of its name in the tracking store. factor: to the values that the table shows.
    """

    key: str
    label: str
    prefix: str
    factor: float
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        """The header of its column, such as `IoU pole %`."""
        return f"{self.label} %" if self.factor == 100 else self.label

    def values(self, row: Row) -> dict[Repetition, float]:
        """Return the score of each trial of a row that has one, by seed (and fold). A fold whose
        labels lack the class of a score has none."""
        values: dict[Repetition, float] = {}
        for result in row.finished:
            value = None
            if fold_of(result.trial.repetition) is not None and self._is_unlabeled(result.counts):
                continue
            if result.run is not None:
                value = result.run.metrics.get(metric_name(f"{self.prefix}/{self.key}"))
            if value is None and result.counts is not None and self.key in result.counts.metrics:
                # A run has no metric of a group of classes; it follows from the counts.
                value = result.counts.metrics[self.key].score
            if value is not None and math.isfinite(value):
                values[result.trial.repetition] = self.factor * value
        return values

    def _is_unlabeled(self, counts: ResampledCounts | None) -> bool:
        """Whether this is the IoU of a class that no label of the images has."""
        name = self.key.removeprefix("iou/")
        if counts is None or name == self.key or name not in counts.classes:
            return False
        return not counts.labeled[counts.classes.index(name)]


def shown_columns(config: StudyConfig) -> tuple[str, ...]:
    """Return the columns that a study asks for beyond the default ones: those of `report.columns`,
    and the metric by which a search chooses."""
    metric = () if config.sampling is None else (config.sampling.metric,)
    return tuple(dict.fromkeys((*(config.report.columns or ()), *metric)))


def find_score(config: StudyConfig, rows: Sequence[Row], key: str) -> Score | None:
    """Return the score of that name; None if there is no such metric in any evaluation."""
    kind, _, _ = key.partition("/")
    metric = _metrics(config, rows).get(kind)
    if metric is None and kind not in SCORE_LABELS:
        return None
    label = score_label(key)
    protocol = config.report.protocol
    prefix = "val" if protocol is None else f"eval/{protocol}"
    if metric is None:
        return Score(key, label, prefix, 100.0)
    # torch is imported where it is needed only.
    from pipelines.evaluation.measuring import metric_class

    cls = metric_class(metric)
    return Score(key, label, prefix, 100.0 if cls.in_percent else 1.0, cls.higher_is_better)


def _metrics(config: StudyConfig, rows: Sequence[Row]) -> Mapping[str, MetricConfig]:
    protocol = config.report.protocol
    evaluations = [
        config.evaluation_under(protocol, result.trial.experiment.evaluation)
        for row in rows
        for result in row.results[:1]
    ]
    return {metric.key: metric for each in evaluations for metric in each.metric_configs}

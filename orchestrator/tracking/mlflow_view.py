"""How MLflow first shows a study: its trials, the best first, with the columns that matter, and
charts that compare them.

MLflow keeps the columns in the browser and hides every metric of a study it has not shown before.
What a user shares by its "Share" button it keeps as JSON in a tag of the experiment; such a view is
set here, and the addresses that the commands print lead to it. A shared view cannot unfold a run,
but where runs are sorted by a metric MLflow lists them all, folded into none.
"""

import json
from typing import Any

from orchestrator.study.study import Study

VIEW_TAG = "mlflow.sharedViewState.study"
VIEW_QUERY = "?viewStateShareKey=study"
_METRICS = (
    "val/miou",
    "val/best_miou",
    "train/loss",
    "epoch",
    "model/parameters_m",
    "model/gflops",
    "images_per_second",
    "trial/seconds",
)
_NAME, _DURATION = "attributes.`Run Name`", "attributes.`Duration`"
# In pixels: names are read whole, figures need little.
_WIDTHS = {_NAME: 330, _DURATION: 90}
_METRIC_WIDTH = 100
_SECTION = "study"
_LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


def study_view(study: Study) -> str:
    """The view of a study, as MLflow writes it."""
    config = study.config
    protocols = [f"eval/{name}/miou" for name in config.protocols]
    figure = "val/miou" if config.report.protocol is None else f"eval/{config.report.protocol}/miou"
    if config.kind == "profile":
        figure = "model/gflops"
    metrics = dict.fromkeys([figure, _METRICS[0], *protocols, *_METRICS[1:]])
    columns = [f"metrics.`{name}`" for name in metrics]
    view = {
        "selectedColumns": [*columns, _DURATION],
        "columnOrder": [_NAME, *columns, _DURATION],
        "columnWidths": {**_WIDTHS, **dict.fromkeys(columns, _METRIC_WIDTH)},
        "orderByKey": columns[0],
        "orderByAsc": False,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [] if config.kind == "profile" else _charts(),
        "compareRunSections": [
            {"uuid": _SECTION, "name": "study", "display": True, "isReordered": True}
        ],
        "isAccordionReordered": True,  # else MLflow sorts its sections by name
    }
    return json.dumps(view)


def _charts() -> list[dict[str, Any]]:
    """What compares trials at a glance. MLflow adds one of its own for every other metric."""
    loss, miou, gflops = "train/loss", "val/miou", "model/gflops"
    return [
        _chart("LINE", "mIoU by epoch", metricKey=miou, selectedMetricKeys=[miou], **_LINE),
        _chart("LINE", "loss by epoch", metricKey=loss, selectedMetricKeys=[loss], **_LINE),
        _chart("BAR", "mIoU", metricKey=miou),
        _chart(
            "SCATTER",
            "mIoU against GFLOPs",
            xaxis={"key": gflops, "type": "METRIC"},
            yaxis={"key": miou, "type": "METRIC"},
        ),
    ]


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    """A chart of MLflow's. name: unlike that of any other."""
    return {
        "uuid": f"study-{name}",
        "type": kind,
        "metricSectionId": _SECTION,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }

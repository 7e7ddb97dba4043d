"""The default view of a study in MLflow: trials sorted by score, useful columns, and charts.

MLflow stores the selected columns in the browser, and hides all metrics of an experiment that the
browser has not shown before. A view that is shared with the "Share" button is stored as JSON in a
tag of the experiment. This module builds such a view; the URLs that the commands print select it. A
shared view cannot expand parent runs, but MLflow lists runs flat when they are sorted by a metric.
"""

import json
from typing import Any

from orchestrator.study.study import Study

VIEW_TAG = "mlflow.sharedViewState.study"
_WORKFLOW = "workflowType=machine_learning"  # otherwise a new browser shows the GenAI pages
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
# In pixels: wide enough for whole names, narrow for numbers.
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


def runs_path(experiment_id: str) -> str:
    """Return the path of an experiment's runs in MLflow, in the study's view."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey=study&{_WORKFLOW}"


def run_path(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Return the path of a run's page in MLflow. tab: such as `/artifacts`."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab}?{_WORKFLOW}"


def report_path(experiment_id: str, parent_id: str) -> str:
    """Return the path of a study's report in MLflow, which starts with its tables.

    The page of the study's run has the table too, but in a narrow window below its child runs.
    """
    return run_path(experiment_id, parent_id, "/artifacts/report/report.html")


def study_view(study: Study) -> str:
    """Return the view of a study, in MLflow's JSON."""
    config = study.config
    protocols = [f"eval/{name}/miou" for name in config.protocols]
    score = "val/miou" if config.report.protocol is None else f"eval/{config.report.protocol}/miou"
    if config.kind == "profile":
        score = "model/gflops"
    metrics = dict.fromkeys([score, _METRICS[0], *protocols, *_METRICS[1:]])
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
        "isAccordionReordered": True,  # otherwise MLflow sorts its sections by name
    }
    return json.dumps(view)


def _charts() -> list[dict[str, Any]]:
    """Return charts that compare the trials. MLflow adds a chart for every other metric."""
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
    """Return a chart in MLflow's JSON. name: unique among the charts."""
    return {
        "uuid": f"study-{name}",
        "type": kind,
        "metricSectionId": _SECTION,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }

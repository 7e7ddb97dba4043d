"""How MLflow first shows a study: its trials, the best first, with the columns that matter.

MLflow keeps the columns in the browser and hides every metric of a study it has not shown before.
What a user shares by its "Share" button it keeps as JSON in a tag of the experiment; such a view is
set here, and the addresses that the commands print lead to it. A shared view cannot unfold a run,
but where runs are sorted by a metric MLflow lists them all, folded into none.
"""

import json

from orchestrator.study import Plan

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


def study_view(plan: Plan) -> str:
    """The view of a study, as MLflow writes it."""
    study = plan.study
    protocols = [f"eval/{name}/miou" for name in study.protocols]
    figure = "val/miou" if study.report.protocol is None else f"eval/{study.report.protocol}/miou"
    if study.kind == "profile":
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
    }
    return json.dumps(view)

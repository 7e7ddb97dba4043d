"""How MLflow first shows a study: its trials unfolded, with the columns that matter.

MLflow keeps the columns in the browser and hides every metric of a study it has not shown before.
What a user shares by its "Share" button it keeps as JSON in a tag of the experiment; such a view is
set here, and the addresses that the commands print lead to it.
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


def study_view(plan: Plan, parent_id: str) -> str:
    """The view of a study, as MLflow writes it. parent_id: of the study's own run."""
    protocols = [f"eval/{name}/miou" for name in plan.study.protocols]
    columns = [f"metrics.`{name}`" for name in (*_METRICS[:2], *protocols, *_METRICS[2:])]
    view = {
        "selectedColumns": ["attributes.`Duration`", *columns],
        "runsExpanded": {parent_id: True},
        "runsHiddenMode": "FIRST_20_RUNS",
    }
    return json.dumps(view)

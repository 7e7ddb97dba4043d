"""Runs studies: trials on Ray, results in MLflow, tables with statistics, and the commands.

A study flows through the packages in this order: study -> planning -> preflight -> scheduling ->
training -> tracking -> evaluation -> report; `sweep` drives them on a cluster that `cluster`
provides. Only this package imports Ray, MLflow and pydantic.
"""

import orchestrator.namesakes  # noqa: F401  exits where another `models` would be imported

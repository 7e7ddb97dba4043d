"""Runs studies: trials on Ray, results in MLflow, tables with statistics, and the commands.

A study flows through the packages in this order: study -> planning -> preflight -> scheduling ->
training -> tracking -> evaluation -> report; `sweep` drives them on a cluster that `cluster`
provides. Only this package imports Ray, MLflow and pydantic.

    from orchestrator import Study, StudyError, UserError

They are imported when they are first used (PEP 562), so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import orchestrator.namesakes  # noqa: F401  exits where another `models` would be imported

if TYPE_CHECKING:
    from orchestrator.api import Study
    from orchestrator.study.yaml_source import StudyError
    from pipelines.errors import UserError

__all__ = ["Study", "StudyError", "UserError"]

_MODULES = {
    "Study": "orchestrator.api",
    "StudyError": "orchestrator.study.yaml_source",
    "UserError": "pipelines.errors",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What `orchestrator.Study` returns: the plan and the report of a study."""

import html
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.console import check_directory, open_console
from pipelines.imports import importing_libraries, whole_imports

if TYPE_CHECKING:
    import pandas

    from orchestrator.planning.plan import StudyPlan
    from orchestrator.report.documents.report import Report
    from orchestrator.report.study_report import StudyReport

_FRAME_HEIGHT = 800  # pixels of a report in a notebook


class PlanView:
    """The plan of a study: what `--plan` prints, and its numbers as frames."""

    def __init__(self, plan: "StudyPlan") -> None:
        self._plan = plan

    @property
    def trials(self) -> "pandas.DataFrame":
        """One row for each trial. seconds: of the remaining training, with its 80 % interval; empty
        if nothing remains. disk_bytes: what the trial keeps."""
        records = []
        for each in self._plan.forecast.trials:
            trial, estimate = each.trial, each.estimate
            records.append(
                {
                    "trial": trial.name,
                    "state": str(self._plan.states[trial.name]),
                    "identity": trial.identity,
                    "parameters_m": trial.cost.parameters_m,
                    "gflops": trial.cost.gflops,
                    "epochs": trial.duration.epochs,
                    "steps": trial.duration.steps,
                    "seconds": estimate.value if estimate else None,
                    "seconds_low": estimate.low if estimate else None,
                    "seconds_high": estimate.high if estimate else None,
                    "device_hours": each.device_hours,
                    "disk_bytes": each.disk,
                }
            )
        texts, integers = {"trial", "state", "identity"}, {"epochs", "steps", "disk_bytes"}
        return frame(records, texts, integers)

    @property
    def totals(self) -> "pandas.DataFrame":
        """The totals of the study with their 80 % intervals, one row each: `wall_seconds` of the
        whole run, `longest_trial_seconds`, `device_hours`, and `cost` if there is a price."""
        forecast = self._plan.forecast
        estimates = {
            "wall_seconds": self._plan.wall,
            "longest_trial_seconds": forecast.longest,
            "device_hours": forecast.device_hours,
            "cost": forecast.cost,
        }
        records = [
            {"total": name, "estimate": each.value, "low": each.low, "high": each.high}
            for name, each in estimates.items()
            if each is not None
        ]
        return frame(records, texts={"total"}).set_index("total")

    def __str__(self) -> str:
        from orchestrator.planning.plan_table import show_plan

        return _printed(lambda console: show_plan(self._plan, console))

    __repr__ = __str__  # a terminal shows it too

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class ReportView:
    """The report of a study at one moment. `str` gives the tables as the command prints them."""

    def __init__(self, study_report: "StudyReport", report: "Report") -> None:
        self._study_report = study_report
        self._report = report

    @property
    def complete(self) -> bool:
        """Whether every trial has a score."""
        return self._report.complete

    def markdown(self) -> str:
        """Return the tables and notes as GitHub Markdown."""
        return self._report.markdown()

    def latex(self) -> str:
        """Return the tables and notes as LaTeX."""
        return self._report.latex()

    def save(self, directory: str | PathLike[str]) -> None:
        """Write table.md, table.csv, table.tex, report.html and figures/ to a directory.

        Raises InputError if it is a file.
        """
        check_directory(Path(directory))
        from orchestrator.report.study_report import write_documents

        write_documents(Path(directory), self._documents)

    @cached_property
    def _documents(self) -> dict[str, str | bytes]:
        with whole_imports():
            return self._study_report.documents(self._report)

    def __str__(self) -> str:
        return _printed(self._report.print)

    __repr__ = __str__  # a terminal shows it too

    def _repr_html_(self) -> str:
        # In a frame, the page's styles do not change those of the notebook.
        page = html.escape(str(self._documents["report.html"]))
        style = f"width: 100%; height: {_FRAME_HEIGHT}px; border: 0"
        return f'<iframe srcdoc="{page}" style="{style}"></iframe>'


def _printed(show: Callable[[Console], None]) -> str:
    """Return what `show` prints on a console."""
    text = io.StringIO()
    show(open_console(text))
    return text.getvalue()


def frame(
    records: Sequence[Mapping[str, Any]],
    texts: Collection[str] = (),
    integers: Collection[str] = (),
) -> "pandas.DataFrame":
    """Return records as a frame whose dtypes do not depend on the values: missing numbers are NaN,
    or NA in a column of whole numbers.

    texts, integers: columns of text and of whole numbers; all others are float64.
    """
    with importing_libraries():
        import pandas

    def dtype(name: str) -> Any:
        if name in texts:
            return pandas.StringDtype(na_value=math.nan)
        return "Int64" if name in integers else "float64"

    table = pandas.DataFrame.from_records(records)
    return table.astype({name: dtype(name) for name in table.columns})

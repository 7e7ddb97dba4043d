"""Studies from Python and notebooks: the commands `sweep` and `report` as methods of `Study`."""

import html
import io
import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.cluster.address import is_remote
from orchestrator.console import InputError, open_console, warn
from orchestrator.context import RunContext
from orchestrator.report.command import open_report
from orchestrator.storage import Storage
from orchestrator.study.load import load_study
from orchestrator.study.yaml_source import mapping_source
from orchestrator.sweep.__main__ import parser
from orchestrator.sweep.command import (
    open_log,
    readable_disk_errors,
    run_context,
    run_here,
    stop_on_signals,
    submit,
)
from pipelines.data.storage import check_no_secret
from pipelines.imports import importing_libraries

if TYPE_CHECKING:
    import pandas

    from orchestrator.planning.plan_table import StudyPlan
    from orchestrator.report.study_report import Report, StudyReport

_FRAME_HEIGHT = 800  # pixels of a report in a notebook


class Study:
    """A study, loaded and validated: what the command `orchestrator sweep` runs.

    Errors of the user, such as an invalid key, are raised as `pipelines.errors.UserError`.

        study = Study("ablations.yaml", set={"training.epochs": 2})
        study.plan()
        study.run()
        study.table()
    """

    def __init__(
        self,
        source: str | PathLike[str] | Mapping[str, Any],
        *,
        set: Mapping[str, Any] | None = None,
        only: str | Sequence[str] = (),
        storage: str | PathLike[str] = "storage",
        tracking: str | None = None,
    ) -> None:
        """Load a study.

        source: path of a study file, or a mapping of the same keys, of which `extends` is relative
            to the working directory.
        set: values by dotted key that override the study, as `--set`.
        only: patterns of the trials to run, as `--only`.
        storage: directory or URI, as `--storage`.
        tracking: store that tables and reports are read from, as `--tracking` of
            `orchestrator.report`; by default, the store that `run` writes to.

        Raises StudyError with all problems of the study at once.
        """
        overrides = mapping_source(set or {}, "set").value
        # JSON is YAML, but YAML has no escapes of surrogate pairs.
        self._set = {key: json.dumps(each, ensure_ascii=False) for key, each in overrides.items()}
        self._only = [only] if isinstance(only, str) else list(only)
        self._storage = str(storage)
        self._tracking = tracking
        check_no_secret(self._storage)
        given = source if isinstance(source, Mapping) else Path(source)
        self._study = load_study(given, list(self._set.items()), self._only)

    def __repr__(self) -> str:
        config = self._study.config
        return f"<Study {config.study!r}: {len(self._study.trials)} trials>"

    @property
    def name(self) -> str:
        """The name of the study."""
        return self._study.config.study

    @property
    def trials(self) -> list[str]:
        """The names of the trials, in the order of the file."""
        return [trial.name for trial in self._study.trials]

    def plan(self, address: str | None = None) -> "PlanView":
        """Return the trials with their state and cost, as `--plan`; trains nothing.

        Where nothing is known about this device, a few training steps are timed. address: of a
        running Ray cluster, as for `run`.
        """
        if self._study.config.kind == "profile":
            raise InputError(f"{self.name} is a profile, which trains nothing; see its report()")
        options = self._options(address, "--plan")
        if is_remote(options.address):
            raise InputError(
                f"plan() cannot submit to the dashboard {options.address}; use the command "
                "orchestrator sweep --plan, or the address of the cluster on one of its nodes"
            )
        with self._context(options) as (context, _):
            with importing_libraries():
                from orchestrator.sweep.run import plan_study
            for warning in self._study.warnings:
                warn(context.console, str(warning))
            return PlanView(plan_study(self._study, context))

    def run(
        self,
        address: str | None = None,
        *,
        retry_failed: bool = False,
        retrain_stale: bool = False,
        preflight: bool = True,
    ) -> bool:
        """Train the missing trials and print the table; return whether all trials are finished.

        Interrupting the cell stops the study as Ctrl-C stops the command: trials write a checkpoint
        and end, and the next `run` resumes them. A second interrupt stops immediately.

        address: of a running Ray cluster, as `--address`; None starts one on this machine, unless
            `RAY_ADDRESS` is set. retry_failed, retrain_stale, preflight: as the command's options.

        Raises UserError if the study cannot run.
        """
        flags = {
            "--retry-failed": retry_failed,
            "--retrain-stale": retrain_stale,
            "--no-preflight": not preflight,
        }
        options = self._options(address, *(flag for flag, is_on in flags.items() if is_on))
        if is_remote(options.address):
            return submit(self._study, options, open_console()) == 0
        with self._context(options) as (context, options):
            return run_here(self._study, context, options)

    def table(self) -> "pandas.DataFrame":
        """Return the table of the study, one row for each line of `table.csv`: mIoU in percent,
        differences in percentage points."""
        return _frame(self._read().records())

    def runs(self) -> "pandas.DataFrame":
        """Return one row for each trial: state, scores in percent, run id, and all metrics of its
        run under their names in MLflow, such as `val/iou/road`."""
        with importing_libraries():
            from orchestrator.report.records import trial_records
        report = self._read()
        return _frame(trial_records(report.study, report.rows))

    def report(self) -> "ReportView":
        """Return the report of the study, which a notebook shows as a page."""
        return ReportView(self._study_report, self._read())

    def _read(self) -> "Report":
        return self._study_report.read()

    @cached_property
    def _study_report(self) -> "StudyReport":
        return open_report(self._study, Storage.parse(self._storage).local, self._tracking)

    def _options(self, address: str | None, *flags: str) -> Namespace:
        """Return the options of the sweep command."""
        arguments = [f"--set={key}={value}" for key, value in self._set.items()]
        arguments += [f"--only={pattern}" for pattern in self._only]
        arguments += [f"--storage={self._storage}", *flags]
        arguments += [f"--address={address}"] if address is not None else []
        return parser().parse_args([self.name, *arguments])

    @contextmanager
    def _context(self, options: Namespace) -> Iterator[tuple[RunContext, Namespace]]:
        """Yield the context of a run. The libraries' output goes to a log in the storage."""
        with (
            open_log(options) as (storage, console, log),
            stop_on_signals(console, is_command=False) as stop,
            readable_disk_errors(storage),
        ):
            yield run_context(options, storage, log, console, stop), options


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
                    "seconds": estimate.seconds if estimate else None,
                    "seconds_low": estimate.low if estimate else None,
                    "seconds_high": estimate.high if estimate else None,
                    "device_hours": each.device_hours,
                    "disk_bytes": each.disk,
                }
            )
        return _frame(records)

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
            {"total": name, "estimate": each.seconds, "low": each.low, "high": each.high}
            for name, each in estimates.items()
            if each is not None
        ]
        return _frame(records).set_index("total")

    def __str__(self) -> str:
        from orchestrator.planning.plan_table import show_plan

        return _printed(lambda console: show_plan(self._plan, console))

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
        """Write table.md, table.csv, table.tex, report.html and figures/ to a directory."""
        from orchestrator.report.study_report import write_documents

        write_documents(Path(directory), self._documents)

    @cached_property
    def _documents(self) -> dict[str, str | bytes]:
        return self._study_report.documents(self._report)

    def __str__(self) -> str:
        return _printed(self._report.print)

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


def _frame(records: Sequence[Mapping[str, Any]]) -> "pandas.DataFrame":
    with importing_libraries():
        import pandas

    return pandas.DataFrame.from_records(records)

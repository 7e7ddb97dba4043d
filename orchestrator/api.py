"""Studies from Python and notebooks: the commands `sweep` and `report` as methods of `Study`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.address import is_remote
from orchestrator.console import InputError, open_console, warn
from orchestrator.context import RunContext
from orchestrator.report.command import open_report
from orchestrator.storage import Storage
from orchestrator.study.load import load_study
from orchestrator.study.mapping_source import mapping_source
from orchestrator.study.yaml_source import text_problem
from orchestrator.sweep.command import (
    open_log,
    readable_disk_errors,
    run_context,
    run_here,
    stop_on_signals,
    submit,
)
from orchestrator.sweep.options import SweepOptions, default_address
from orchestrator.views import PlanView, ReportView, frame
from pipelines.data.storage import check_no_secret
from pipelines.imports import importing_libraries, whole_imports
from pipelines.wording import counted, options_written

if TYPE_CHECKING:
    import pandas

    from orchestrator.report.documents.report import Report
    from orchestrator.report.study_report import StudyReport

# Options of the command that are no arguments of the same name.
_OTHER_OPTIONS = {"plan": "plan()", "no-preflight": "`preflight=False`"}
_TYPES = {
    "source": ((str, PathLike, Mapping), "the path of a study file or a dict of its keys"),
    "set": ((Mapping, NoneType), "a dict such as {'training.epochs': 2}"),
    "only": ((str, Sequence, NoneType), "a pattern or a list of patterns"),
    "storage": ((str, PathLike), "a directory or a URI"),
    "tracking": ((str, NoneType), "a tracking URI of MLflow, such as sqlite:///FILE"),
    "address": ((str, NoneType), "the address of a Ray cluster as text"),
}


def _check(**arguments: object) -> None:
    """Raise InputError if an argument is of another type than it may be, or is text that is empty
    or no path can hold."""
    for name, value in arguments.items():
        types, expected = _TYPES[name]
        if not isinstance(value, types) or value == "":
            received = "empty" if value == "" else f"of type {type(value).__name__}"
            raise InputError(f"`{name}` is {received}; use {expected}")
        if isinstance(value, str | PathLike) and (problem := text_problem(str(value))):
            raise InputError(f"`{name}` is {str(value)!a}: {problem}")


@contextmanager
def _in_python() -> Iterator[None]:
    """Within this context, imports are whole, and messages name arguments instead of options."""
    with whole_imports(), options_written(lambda name: _OTHER_OPTIONS.get(name, f"`{name}`")):
        yield


class Study:
    """A study, loaded and validated: what the command `orchestrator sweep` runs.

    Errors of the user, such as an invalid key, are raised as `orchestrator.UserError`.

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
        only: str | Sequence[str] | None = None,
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
        _check(source=source, set=set, only=only, storage=storage, tracking=tracking)
        self._only = [only] if isinstance(only, str) else list(only or ())
        for pattern in self._only:
            _check(only=pattern)
        self._storage, self._tracking = str(storage), tracking
        check_no_secret(self._storage)
        overrides = mapping_source(set or {}, "set").value
        # JSON is YAML, but YAML has no escapes of surrogate pairs.
        self._overrides = [
            (key, json.dumps(each, ensure_ascii=False)) for key, each in overrides.items()
        ]
        given = source if isinstance(source, Mapping) else Path(source)
        with _in_python():
            self._study = load_study(given, self._overrides, self._only)

    def __repr__(self) -> str:
        config = self._study.config
        return f"<Study {config.study!r}: {counted(len(self._study.trials), 'trial')}>"

    @property
    def name(self) -> str:
        """The name of the study."""
        return self._study.config.study

    @property
    def trials(self) -> list[str]:
        """The names of the trials, in the order of the file."""
        return [trial.name for trial in self._study.trials]

    @_in_python()
    def plan(
        self,
        address: str | None = None,
        *,
        retry_failed: bool = False,
        retrain_stale: bool = False,
    ) -> "PlanView | ReportView":
        """Return the trials with their state and cost, as `--plan`; trains nothing.

        Where nothing is known about this device, a few training steps are timed. The plan of a
        profile is its report. address: of a running Ray cluster, as for `run`. retry_failed,
        retrain_stale: count these trials too, as `run` with the same arguments trains them.
        """
        options = self._options(
            address, plan=True, retry_failed=retry_failed, retrain_stale=retrain_stale
        )
        if is_remote(options.address):
            raise InputError(
                f"plan() cannot submit to the dashboard {options.address}; use the command "
                "orchestrator sweep with --plan, or the address of the cluster on one of its nodes"
            )
        with self._context(options) as context:
            for warning in self._study.warnings:
                warn(context.console, str(warning))
            if self._study.config.kind == "profile":
                with importing_libraries():
                    from orchestrator.sweep.profile import open_profile
                profile = open_profile(self._study, context)
                return ReportView(profile, profile.read())
            with importing_libraries():
                from orchestrator.planning.reconcile import ReconcileOptions
                from orchestrator.sweep.run import plan_study
            trained = ReconcileOptions(retry_failed, retrain_stale)
            return PlanView(plan_study(self._study, context, trained))

    @_in_python()
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
        and end, and the next `run` resumes them. Then it raises KeyboardInterrupt, or SystemExit if
        the process was asked to end. A second interrupt stops immediately.

        address: of a running Ray cluster, as `--address`; None starts one on this machine, unless
            `RAY_ADDRESS` is set. retry_failed, retrain_stale, preflight: as the command's options.

        Raises UserError if the study cannot run.
        """
        options = self._options(
            address,
            retry_failed=retry_failed,
            retrain_stale=retrain_stale,
            preflight=preflight,
        )
        if is_remote(options.address):
            return submit(self._study, options, open_console()) == 0
        with self._context(options) as context:
            return run_here(self._study, context, options)

    @_in_python()
    def table(self) -> "pandas.DataFrame":
        """Return the table of the study, one row for each line of `table.csv`: mIoU in percent,
        differences in percentage points."""
        return self._frame(self._read().records())

    @_in_python()
    def runs(self) -> "pandas.DataFrame":
        """Return one row for each trial: state, scores in percent, run id, and all metrics of its
        run under their names in MLflow, such as `val/iou/road`."""
        with importing_libraries():
            from orchestrator.report.documents.records import trial_records
        report = self._read()
        return self._frame(trial_records(report.study, report.rows))

    @_in_python()
    def report(self) -> "ReportView":
        """Return the report of the study, which a notebook shows as a page."""
        return ReportView(self._study_report, self._read())

    def _frame(self, records: Sequence[Mapping[str, Any]]) -> "pandas.DataFrame":
        """Return the records of a report as a frame."""
        from orchestrator.report.documents.records import INTEGERS, TEXTS

        config = self._study.config
        return frame(records, {*TEXTS, *config.grid, *config.sample}, INTEGERS)

    def _read(self) -> "Report":
        return self._study_report.read()

    @cached_property
    def _study_report(self) -> "StudyReport":
        return open_report(self._study, Storage.parse(self._storage).local, self._tracking)

    def _options(self, address: str | None, **flags: bool) -> SweepOptions:
        """Return the options of a run. flags: fields of `SweepOptions`."""
        _check(address=address)
        return SweepOptions(
            self._overrides,
            self._only,
            self._storage,
            default_address() if address is None else address,
            **flags,
        )

    @contextmanager
    def _context(self, options: SweepOptions) -> Iterator[RunContext]:
        """Yield the context of a run. The libraries' output goes to a log in the storage."""
        with (
            open_log(options, "the call continues") as (storage, console, log),
            stop_on_signals(console, is_command=False) as stop,
            readable_disk_errors(storage),
        ):
            yield run_context(options, storage, log, console, stop)

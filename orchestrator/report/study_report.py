"""The report of a study: read from the tracking store, written as files, saved to its run."""

import errno
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from orchestrator.report.charts.drawing import Series, as_pdf
from orchestrator.report.charts.figures import MIOU, ReportFigure, class_maps, draw_figures
from orchestrator.report.documents.html import render_page
from orchestrator.report.documents.report import Report, column_keys
from orchestrator.report.rows.comparisons import compare_rows
from orchestrator.report.rows.match_runs import current_code_versions, find_runs
from orchestrator.report.rows.results import Result, Results
from orchestrator.report.rows.row import build_rows
from orchestrator.report.tables.class_differences import HeatMap
from orchestrator.report.tables.search import best_rows, search_result
from orchestrator.report.tables.table import (
    GridCell,
)
from orchestrator.study.model_cost import ModelCost
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.search_result import FILE
from orchestrator.study.study import Study, Trial
from orchestrator.tracking.queries import (
    StoreSnapshot,
    history,
    parent_run_id,
    read_snapshot,
    run_url,
    study_figures,
    viewing_instructions,
)
from orchestrator.tracking.samples import recorded_samples, with_matching_samples
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_page import find_page
from pipelines.data.files import atomic_file

FOLDER = "report"


def _with_runs(study: Study, snapshot: StoreSnapshot) -> list[Trial]:
    """Return the trials of a study that have runs."""
    found = find_runs(study, snapshot.trials, current_code_versions(study))
    return [trial for trial in study.trials if trial.name in found]


@dataclass
class StudyReport:
    """Generates the report of one study repeatedly; counts and finished histories are read once.

    identities, costs: by trial name, if the trials have been resolved (see `of_trials`).
    """

    study: Study
    store: TrackingStore
    identities: Mapping[str, str] | None = None
    costs: Mapping[str, ModelCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._results = self._results_of(self.study)
        self._histories: dict[tuple[str, str], Series] = {}

    @staticmethod
    def of_trials(study: Study, store: TrackingStore, trials: list[ResolvedTrial]) -> "StudyReport":
        """Return the report of a study whose trials have been resolved."""
        identities = {trial.name: trial.identity for trial in trials}
        costs = {trial.name: trial.cost for trial in trials}
        return StudyReport(study, store, identities, costs)

    def read(self, snapshot: StoreSnapshot | None = None) -> Report:
        """Read the report from the tracking store. snapshot: of the store; None takes one now."""
        snapshot = snapshot or read_snapshot(self.store)
        study, reader = self.study, self._results
        if self.identities is None and (recorded := recorded_samples(study, snapshot.trials)):
            study = with_matching_samples(study, recorded, partial(_with_runs, snapshot=snapshot))
            reader = self._results_of(study)
        results = reader.read(snapshot)
        compared = compare_rows(study, build_rows(study, results, self.costs))
        selected = {trial.name for trial in study.trials}
        rows = [
            row
            for row in compared.rows
            if any(result.trial.name in selected for result in row.results)
        ]
        shown = {row.variant for row in rows}
        overall = [each for each in compared.overall if each.variant in shown]
        return Report(study, rows, overall, compared.rows)

    def _results_of(self, study: Study) -> Results:
        # All trials are read whatever is shown: all comparisons of the study are one family.
        return Results(study.whole, self.store, self.identities)

    def documents(self, report: Report, links: bool = True) -> dict[str, str | bytes]:
        """Return the content of the report's files by file name: tables, page, and figures as
        PDF.

        links: whether the page links to the runs in MLflow and says how to start it here.
        """
        maps = class_maps(report.study, best_rows(report.study, report.rows))
        figures = draw_figures(report.study, report.rows, self._history, maps)
        found = search_result(report.study, report.rows)
        return {
            "table.md": report.markdown(),
            "table.csv": report.csv(),
            "table.tex": report.latex(),
            **({} if found is None else {FILE: found.as_yaml()}),
            "report.html": self._page(report, figures, maps, links),
            **{f"figures/{each.name}.pdf": as_pdf(each.figure) for each in figures},
        }

    def keep(self, documents: Mapping[str, str | bytes]) -> str:
        """Save the files as artifacts of the study's run if its page shows this table. Return the
        reason if they were not saved, else an empty string."""
        parent = parent_run_id(self.store, self.study.config.study)
        if parent is None:
            return "the tracking store has no run of this study"
        page = find_page(self.store, parent, self.study.overridden)
        if not page.is_own:
            return page.note
        with tempfile.TemporaryDirectory(prefix="report-") as directory:
            write_documents(Path(directory), documents)
            try:
                self.store.log_artifact(parent, Path(directory), FOLDER)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                return f"the study's artifacts cannot be written ({error})"
        return ""

    def _page(
        self,
        report: Report,
        figures: Sequence[ReportFigure],
        maps: Mapping[GridCell, HeatMap],
        links: bool,
    ) -> str:
        tables, name = report.tables, report.study.config.study
        return render_page(
            report.study,
            report.rows,
            tables,
            # The page's figures show differences whatever columns the tables have.
            report.notes.on(column_keys(tables) | {"difference", "p", "published_difference"}),
            figures,
            maps,
            self._history,
            lambda result: run_url(self.store, result.run) if links and result.run else "",
            viewing_instructions(self.store, name) if links else "",
            study_figures(self.store, name),
        )

    def _history(self, result: Result, metric: str) -> Series:
        """Return a metric by epoch, mIoU in percent. Finished trials are read once."""
        run = result.run
        if run is None:
            return []
        key = run.run_id, metric
        if key in self._histories:
            return self._histories[key]
        scale = 100.0 if metric == MIOU else 1.0
        points = [(step, scale * value) for step, value in history(self.store, *key)]
        if run.status == "FINISHED":
            self._histories[key] = points
        return points


def write_documents(directory: Path, documents: Mapping[str, str | bytes]) -> None:
    """Write the files to a directory. They get their names once all are written, so that a full
    disk leaves none of them, and no new table beside an old page."""
    with ExitStack() as files:
        for name, content in documents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = files.enter_context(atomic_file(path))
            partial.write_bytes(content.encode() if isinstance(content, str) else content)

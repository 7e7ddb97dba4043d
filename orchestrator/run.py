"""Running a study: from what its file asks for and what the ledger holds to a true table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from orchestrator import fleet, table
from orchestrator.announcement import announce, show_outcome
from orchestrator.cells import Cell, resolve_cells
from orchestrator.dispatch import train
from orchestrator.extensions import modules_of, runtime_environment
from orchestrator.initial_weights import local_weights
from orchestrator.ledger import Ledger, Record, RunStatus, StudyRun
from orchestrator.plan import placement, show_plan
from orchestrator.profile import run_profile
from orchestrator.reconciliation import standings
from orchestrator.setting import Setting
from orchestrator.study import Plan


def run_study(plan: Plan, setting: Setting, plan_only: bool = False) -> bool:
    """Train what is not finished and print the table; returns whether all trials are finished.

    plan_only: show the trials and their standing, and train nothing.

    Raises DatasetError, fleet.CapacityError or ledger.LedgerError before anything is trained.
    """
    if plan.study.kind == "profile":
        return run_profile(plan, setting)
    ray_logs = None
    environment = runtime_environment(
        {m.__name__: m for t in plan.trials for m in modules_of(t.experiment, plan.study.imports)}
    )
    if setting.address is None:
        gang = fleet.plan_gang(plan.study.resources, fleet.this_machine())
    else:
        ray_logs = fleet.connect(setting.address, environment)
        gang = fleet.plan_gang(plan.study.resources, fleet.connected_nodes())
    try:
        setting.console.print(
            "opening the data; the embedded set is made on first use", style="dim"
        )
        cells = resolve_cells(
            plan.trials,
            gang.device,
            setting.storage / "datasets",
            plan.study.imports,
            partial(local_weights, storage=setting.storage),
        )
        ledger = Ledger(setting.tracking_uri, setting.artifacts)
        if plan_only:
            known = standings(cells, ledger.find(cells, plan.study.study))
            show_plan(plan, cells, known, gang, setting.console)
            return True
        return _Course(plan, setting, gang, cells, ledger, environment, ray_logs).run()
    finally:
        fleet.disconnect()


@dataclass
class _Course:
    """One run of a study's command, step by step."""

    plan: Plan
    setting: Setting
    gang: fleet.Gang
    cells: list[Cell]
    ledger: Ledger
    environment: Mapping[str, object]
    ray_logs: str | None

    def run(self) -> bool:
        study_run = StudyRun.open(self.ledger, self.plan)
        status: RunStatus = "FAILED"
        try:
            records = self.ledger.find(self.cells, self.plan.study.study)
            known = standings(self.cells, records)
            announce(self.plan, self.cells, known, self.setting.console)
            done = ("finished", "stale")
            todo = [cell for cell in self.cells if known[cell.trial.name] not in done]
            finished = {
                cell.trial.name: records[cell.identity] for cell in self.cells if cell not in todo
            }
            failures: dict[str, str] = {}
            if todo:
                self._start_cluster()
                self._train(study_run, todo, records, finished, failures)
            self._conclude(study_run, finished, failures)
            if len(finished) == len(self.cells):
                status = "FINISHED"
            elif self.setting.stop.requested:
                status = "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            study_run.close(status)
        return status == "FINISHED"

    def _start_cluster(self) -> None:
        if self.ray_logs is None:
            self.ray_logs = fleet.connect(None, self.environment)
        console = self.setting.console
        console.print(
            f"Ray's logs: {self.ray_logs}\nother output: {self.setting.log}",
            style="dim",
            soft_wrap=True,
            highlight=False,
        )
        console.print(placement(self.plan, self.gang) + "\n", highlight=False)

    def _train(
        self,
        study_run: StudyRun,
        todo: list[Cell],
        records: Mapping[str, Record],
        finished: dict[str, Record],
        failures: dict[str, str],
    ) -> None:
        """Train `todo`, and enter each cell into `finished` or `failures`."""
        # Cells that ask for the same training, such as two names of one row, share it.
        trained = {cell.identity: cell for cell in reversed(todo)}
        cells = list(reversed(trained.values()))
        recorder = train(cells, records, self.plan, self.gang, study_run, self.setting)
        for cell in todo:
            name = trained[cell.identity].trial.name
            if name in recorder.finished_runs:
                finished[cell.trial.name] = recorder.finished_runs[name]
            if name in recorder.failures:
                failures[cell.trial.name] = recorder.failures[name]

    def _conclude(
        self, study_run: StudyRun, finished: Mapping[str, Record], failures: Mapping[str, str]
    ) -> None:
        """Show the outcome, and keep the table with the study's run."""
        console = self.setting.console
        show_outcome(self.plan, self.cells, finished, failures, console)
        rows = table.build_rows(self.plan, self.cells, finished)
        documents = {
            "table.md": table.as_markdown(self.plan, rows),
            "table.csv": table.as_csv(self.plan, rows),
        }
        study_run.log_documents(documents)
        how = self.ledger.how_to_look(study_run.experiment_id)
        console.print(f"\n{how}", highlight=False, soft_wrap=True)

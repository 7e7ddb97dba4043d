"""Running a study: from what its file asks for and what the ledger holds to a true table."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator import fleet, table
from orchestrator.cells import Cell, resolve_cells
from orchestrator.extensions import modules_of, runtime_environment
from orchestrator.ledger import Ledger, Record, RunStatus, Standing, standing, tracking_uri
from orchestrator.progress import StudyProgress, TrialProgress
from orchestrator.provenance import git_commit
from orchestrator.recorder import Recorder
from orchestrator.study import Plan
from orchestrator.trial import Job
from orchestrator.worker import WorkerTask


@dataclass
class StopFlag:
    """Whether the user has asked to stop: set by the signal handler, read by the run.

    graceful: trials are running, which takes a moment to end well; before and after, a stop is at
    once.
    """

    requested: bool = False
    graceful: bool = False


@dataclass(frozen=True)
class Setting:
    """Where a command runs. address: of a Ray cluster, None for one of its own on this machine;
    log: the file that takes the libraries' output."""

    storage: Path
    address: str | None
    console: Console
    log: Path
    stop: StopFlag

    @property
    def tracking_uri(self) -> str:
        """`MLFLOW_TRACKING_URI`, or a SQLite file in the storage."""
        return tracking_uri(self.storage)

    @property
    def artifacts(self) -> Path | None:
        """Where a new study keeps its artifacts; a tracking server keeps them itself."""
        return None if self.tracking_uri.startswith("http") else self.storage / "artifacts"


def run_study(plan: Plan, setting: Setting, plan_only: bool = False) -> bool:
    """Train what is not finished and print the table; returns whether all trials are finished.

    plan_only: show the trials and their standing, and train nothing.

    Raises DatasetError, fleet.CapacityError or ledger.LedgerError before anything is trained.
    """
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
            plan.trials, gang.device, setting.storage / "datasets", plan.study.imports
        )
        ledger = Ledger(setting.tracking_uri, setting.artifacts)
        if plan_only:
            _show_plan(plan, cells, ledger, gang, setting.console)
            return True
        return _Run(plan, setting, gang, cells, ledger, environment, ray_logs).execute()
    finally:
        fleet.disconnect()


@dataclass
class _Run:
    plan: Plan
    setting: Setting
    gang: fleet.Gang
    cells: list[Cell]
    ledger: Ledger
    environment: Mapping[str, object]
    ray_logs: str | None

    def execute(self) -> bool:
        self.ledger.open_study(self.plan)
        status: RunStatus = "FAILED"
        documents: dict[str, str] = {}
        try:
            records = self.ledger.find(self.cells)
            standings = _standings(self.cells, records)
            done = ("finished", "stale")
            todo = [cell for cell in self.cells if standings[cell.trial.name] not in done]
            finished = {
                cell.trial.name: records[cell.identity] for cell in self.cells if cell not in todo
            }
            self._announce(standings)
            failures: dict[str, str] = {}
            if todo:
                # Cells that ask for the same training, such as two names of one row, share it.
                trained = {cell.identity: cell for cell in reversed(todo)}
                recorder = self._train(list(reversed(trained.values())), records)
                for cell in todo:
                    name = trained[cell.identity].trial.name
                    if name in recorder.finished_runs:
                        finished[cell.trial.name] = recorder.finished_runs[name]
                    if name in recorder.failures:
                        failures[cell.trial.name] = recorder.failures[name]
            documents = self._conclude(finished, failures)
            if len(finished) == len(self.cells):
                status = "FINISHED"
            elif self.setting.stop.requested:
                status = "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self.ledger.close_study(status, documents)
        return status == "FINISHED"

    def _announce(self, standings: Mapping[str, Standing]) -> None:
        counts = Counter(standings.values())
        told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        say = self.setting.console.print
        say(f"[bold]{self.plan.study.study}[/]: {len(self.cells)} trials: {told}", highlight=False)
        loaded = {
            f"{cell.trial.experiment.training.backbone_weights}: {cell.pretrained.layout}, "
            f"{len(cell.pretrained.loaded)} tensors loaded, {len(cell.pretrained.missing)} of the "
            "backbone not in it (each trial's pretrained.txt lists them)"
            for cell in self.cells
            if cell.pretrained is not None
        }
        for line in sorted(loaded):
            say(line, markup=False, highlight=False, soft_wrap=True)

    def _train(self, todo: list[Cell], records: Mapping[str, Record]) -> Recorder:
        console = self.setting.console
        if self.ray_logs is None:
            self.ray_logs = fleet.connect(None, self.environment)
        console.print(
            f"Ray's logs: {self.ray_logs}\nother output: {self.setting.log}",
            style="dim",
            soft_wrap=True,
            highlight=False,
        )
        console.print(_placement(self.plan, self.gang) + "\n", highlight=False)
        commit = git_commit(Path(__file__).parent)
        run_ids: dict[str, str] = {}
        logged: dict[str, set[int]] = {}
        for cell in todo:
            record = records.get(cell.identity)
            name = cell.trial.name
            run_ids[name] = self.ledger.begin_trial(cell, commit, record)
            logged[name] = self.ledger.logged_epochs(record)
        progress = StudyProgress.of(
            console,
            [
                TrialProgress(
                    cell.trial.name,
                    cell.trial.experiment.training.epochs,
                    resumed_at=max(logged[cell.trial.name], default=0),
                )
                for cell in todo
            ],
        )
        recorder = Recorder(
            self.ledger,
            progress,
            {cell.trial.name: cell for cell in todo},
            run_ids,
            logged,
            self.plan.study.imports,
            lambda: self.setting.stop.requested,
        )
        self.setting.stop.graceful = True
        with progress:
            fleet.run_jobs(
                [self._job(cell, run_ids[cell.trial.name]) for cell in todo],
                self.gang.concurrent,
                recorder,
                self.setting.storage / "tune",
                f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            )
        self.setting.stop.graceful = False
        return recorder

    def _job(self, cell: Cell, run_id: str) -> Job:
        resources = self.plan.study.resources
        return Job(
            name=cell.trial.name,
            run_name=f"{cell.identity[:16]}-{run_id}",
            task=WorkerTask(
                experiment=cell.trial.experiment,
                dataset=cell.location,
                threads=max(1, int(resources.cpus_per_worker)),
                imports=self.plan.study.imports,
                cache=resources.cache(),
                checkpoint_steps=resources.checkpoint_steps,
            ),
            workers=resources.workers,
            resources=self.gang.per_worker,
            use_gpu=self.gang.device == "cuda",
            retries=resources.retries,
            storage=str(self.setting.storage / "trials"),
        )

    def _conclude(
        self, finished: Mapping[str, Record], failures: Mapping[str, str]
    ) -> dict[str, str]:
        """Print what failed, the table, and where to look; return the table's documents."""
        console = self.setting.console
        rows = table.build_rows(self.plan, self.cells, finished)
        console.print()
        for name, cause in failures.items():
            console.print(f"[bold red]failed[/]  {name}: ", end="", highlight=False)
            console.print(cause, markup=False, highlight=False, soft_wrap=True)
        names = [cell.trial.name for cell in self.cells]
        left = [name for name in names if name not in finished and name not in failures]
        if left:
            console.print(
                f"[yellow]not finished[/]  {', '.join(left)} (run the same command to go on)",
                highlight=False,
            )
        console.print(table.as_rich(self.plan, rows))
        for note in table.footnotes(self.plan, rows):
            console.print(f"  {note}", style="dim", highlight=False)
        console.print(f"\n{self.ledger.how_to_look()}", highlight=False, soft_wrap=True)
        return {
            "table.md": table.as_markdown(self.plan, rows),
            "table.csv": table.as_csv(self.plan, rows),
        }


def _show_plan(
    plan: Plan, cells: list[Cell], ledger: Ledger, gang: fleet.Gang, console: Console
) -> None:
    standings = _standings(cells, ledger.find(cells))
    rows = Table(title=f"{plan.study.study}: {len(cells)} trials", title_justify="left")
    for name in ("trial", "standing", "identity", "params M", "GFLOPs", "epochs", "steps"):
        rows.add_column(name, justify="left" if name in ("trial", "standing") else "right")
    for cell in cells:
        rows.add_row(
            cell.trial.name,
            standings[cell.trial.name],
            cell.identity[:12],
            f"{cell.cost.parameters_m:.2f}",
            f"{cell.cost.gflops:.2f}",
            str(cell.trial.experiment.training.epochs),
            str(cell.steps),
        )
    console.print(rows)
    console.print(_placement(plan, gang), highlight=False)


def _standings(cells: list[Cell], records: Mapping[str, Record]) -> dict[str, Standing]:
    """By the trial's name; `records` by identity."""
    return {cell.trial.name: standing(records.get(cell.identity), cell.code) for cell in cells}


def _placement(plan: Plan, gang: fleet.Gang) -> str:
    workers = plan.study.resources.workers
    return (
        f"{gang.concurrent} trial{'' if gang.concurrent == 1 else 's'} at a time, "
        f"{workers} worker{'' if workers == 1 else 's'} each, on {gang.device}"
    )

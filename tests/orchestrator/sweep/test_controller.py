"""The sweep controller on studies whose trials are already recorded, without Ray."""

import csv
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.context import RunContext, StopRequest
from orchestrator.evaluation.records import protocol_tag
from orchestrator.planning.reconcile import ReconcileOptions
from orchestrator.report import study_report as reports
from orchestrator.report.study_report import StudyReport
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.storage import Storage
from orchestrator.studies.__main__ import main
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.sweep import controller, summary
from orchestrator.sweep.controller import SweepController
from orchestrator.sweep.run import study_report
from orchestrator.tracking import lock
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.runs import RunStatus
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.evaluation.config import EvaluationConfig

STUDY = """\
study: swept
description: Three rows.
compare_to: weak
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 2, precision: fp32}
variants:
  weak: {set: {model: {flows: []}}}
  strong: {}
  late: {set: {model: {supervision: [3]}}}
protocols: {flip: {flip: true}}
resources: {device: cpu}
"""


class SweptStudy:
    """A study that is swept repeatedly in one storage."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = file
        self.store = TrackingStore(tracking_uri(file.parent), file.parent / "artifacts")
        self.registered: list[str] = []
        self.figures_drawn = 0
        self.on_score: Callable[[], None] = lambda: None
        self.output = ""
        self.names: dict[str, str] = {}
        self.stop = StopRequest()
        self._resolved: dict[str, dict[str, ResolvedTrial]] = {}

        def register(store: TrackingStore, study: str, run_id: str) -> str:
            self.registered.append(self.names[run_id])
            return f"models:/{study}@best"

        def draw(*_: object) -> None:
            self.figures_drawn += 1

        def score(*_: object) -> dict[str, str]:
            self.on_score()
            return {}

        monkeypatch.setattr(summary, "register_best", register)
        monkeypatch.setattr(controller, "draw_study_figures", draw)
        monkeypatch.setattr(controller, "evaluate_finished", score)
        # The charts of each report take a second.
        monkeypatch.setattr(reports, "draw_figures", lambda *_: [])

    def resolved(self, study: Study) -> list[ResolvedTrial]:
        """Resolve the trials of a study once."""
        if study.resolved not in self._resolved:
            trials = resolve_trials(study.all_trials, "cpu", self.file.parent)
            self._resolved[study.resolved] = {trial.name: trial for trial in trials}
        return [self._resolved[study.resolved][trial.name] for trial in study.trials]

    def train(self, outcomes: Mapping[str, float | RunStatus], **overrides: str) -> None:
        """Record runs in the tracking store.

        outcomes: by trial, the mIoU of a finished trial or the final status of another.
        """
        study = load_study(
            self.file, [(key.replace("_", "."), overrides[key]) for key in overrides]
        )
        study_run = StudyRun.open(self.store, study)
        for trial in self.resolved(study):
            outcome = outcomes.get(trial.name)
            if outcome is None:
                continue
            run_id = study_run.begin_trial(trial, None, None)
            self.names[run_id] = trial.name
            study_run.start_trial(run_id, trial.code)
            finished = isinstance(outcome, float)
            study_run.log_epoch(
                run_id, 1, {"val/miou": outcome if isinstance(outcome, float) else 0.1}
            )
            study_run.end_trial(run_id, "FINISHED" if finished else outcome, "")  # type: ignore[arg-type]
        study_run.close("KILLED")

    def sweep(self, *only: str, **overrides: str) -> bool:
        study = load_study(
            self.file, [(key.replace("_", "."), overrides[key]) for key in overrides], only
        )
        storage = Storage(self.file.parent, str(self.file.parent))
        console = Console(record=True, width=200)
        self.stop = StopRequest()
        context = RunContext(storage, None, console, storage.local / "log", self.stop)
        placement = plan_placement(study.config.resources, [{"CPU": 4.0}])
        trials = self.resolved(study)
        cluster: Any = SimpleNamespace(start=lambda: None)
        planner: Any = None
        report = study_report(study, self.store, trials)
        self.registered.clear()
        try:
            return SweepController(
                study,
                context,
                ReconcileOptions(),
                placement,
                trials,
                self.store,
                cluster,
                planner,
                report,
                self.resolved,
            ).run()
        finally:
            self.output = console.export_text()

    @property
    def parent_run(self) -> Any:
        experiment = self.store.client.get_experiment_by_name("swept").experiment_id
        (run,) = self.store.search([experiment], "tags.`orchestrator.kind` = 'study'")
        return run

    def table(self) -> dict[str, str]:
        """Return the mIoU of each row of the table that is logged to the study's run."""
        uri = f"runs:/{self.parent_run.info.run_id}/report/table.csv"
        text = self.store.download(uri, self.file.parent / "read").read_text()
        return {row["variant"]: row["miou_mean"] for row in csv.DictReader(text.splitlines())}


@pytest.fixture
def swept_study(
    tmp_path: Path, small_streets: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> SweptStudy:
    shutil.copy(empty_store, tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    return SweptStudy(file, monkeypatch)


@pytest.mark.slow
def test_sweep_of_some_trials_concludes_over_all_trials(swept_study: SweptStudy) -> None:
    swept_study.train({"weak": 0.4, "strong": 0.6})
    assert swept_study.sweep("weak"), "its own trial is finished"
    assert swept_study.parent_run.info.status == "KILLED", "the study's trials are not"
    assert {name: bool(miou) for name, miou in swept_study.table().items()} == {
        "weak": True,
        "strong": True,
        "late": False,
    }
    assert "strong" in swept_study.parent_run.data.tags["mlflow.note.content"]
    assert swept_study.registered == ["strong"]
    assert "strong" in swept_study.output
    assert swept_study.figures_drawn == 0
    swept_study.train({"late": "FAILED"})
    assert swept_study.sweep("weak", "strong")
    assert swept_study.parent_run.info.status == "FAILED"


@pytest.mark.slow
def test_sweep_of_the_last_trials_finishes_the_study(swept_study: SweptStudy) -> None:
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert swept_study.sweep("late")
    assert swept_study.parent_run.info.status == "FINISHED"
    assert swept_study.registered == ["strong"]
    assert swept_study.sweep()
    assert swept_study.parent_run.info.status == "FINISHED"
    assert swept_study.figures_drawn == 1


@pytest.mark.slow
def test_runs_of_rows_that_exchanged_their_names_are_renamed_at_once(
    swept_study: SweptStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the run of the row that `--only` leaves out."""
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    ids = {name: run_id for run_id, name in swept_study.names.items()}
    text = swept_study.file.read_text()
    for old, new in (("weak:", "third:"), ("late:", "weak:"), ("strong:", "late:")):
        text = text.replace(f"  {old}", f"  {new}")
    swept_study.file.write_text(text.replace("  third:", "  strong:"))
    assert swept_study.sweep("weak")
    client = swept_study.store.client
    assert {name: client.get_run(ids[name]).data.tags["orchestrator.trial"] for name in ids} == {
        "weak": "strong",
        "strong": "late",
        "late": "weak",
    }
    for run_id in ids.values():
        tags = client.get_run(run_id).data.tags
        assert "orchestrator.superseded" not in tags
        name = tags["orchestrator.trial"]
        assert tags["mlflow.note.content"].startswith(f"**{name}**")
        assert client.get_run(run_id).info.run_name.startswith(f"{name}, ")
    assert main(["status", "swept", "--storage", str(swept_study.file.parent)]) == 0
    assert "3 finished" in capsys.readouterr().out


@pytest.mark.slow
def test_sweep_with_overrides_keeps_the_results_of_the_file(swept_study: SweptStudy) -> None:
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert swept_study.sweep()
    before, table = swept_study.parent_run, swept_study.table()
    overrides = {"training_epochs": "1"}
    swept_study.train({"weak": 0.9, "strong": 0.8, "late": 0.7}, **overrides)
    assert swept_study.parent_run.info.status == "FINISHED"
    assert swept_study.sweep(**overrides)
    assert "90.0" in swept_study.output.replace("90.00", "90.0"), "its own table is printed"
    assert "--set training.epochs=1" in swept_study.output
    assert "--set study=NAME" in swept_study.output
    assert (swept_study.table(), swept_study.registered, swept_study.figures_drawn) == (
        table,
        [],
        1,
    )
    after = swept_study.parent_run
    assert after.info.status == "FINISHED"
    note = "mlflow.note.content"
    assert after.data.tags[note] == before.data.tags[note]
    # A setting that affects no result does not make another table.
    assert swept_study.sweep(resources_retries="5")
    assert swept_study.registered == ["strong"]


@pytest.mark.slow
def test_sweep_with_overrides_is_logged_while_the_file_has_no_results(
    swept_study: SweptStudy,
) -> None:
    overrides = {"training_epochs": "1"}
    swept_study.train({"weak": 0.9, "strong": 0.8, "late": 0.7}, **overrides)
    for _ in range(2):
        assert swept_study.sweep(**overrides)
        assert swept_study.parent_run.info.status == "FINISHED"
        assert swept_study.registered == ["weak"]
        assert set(map(bool, swept_study.table().values())) == {True}
    # The report of the file's own table is not logged to that run either.
    file_report = StudyReport(load_study(swept_study.file), swept_study.store)
    documents = file_report.documents(file_report.read())
    reason = file_report.keep(documents)
    assert reason.startswith("This table used the study file. ")
    assert "still show `--set training.epochs=1`" in reason
    assert set(map(bool, swept_study.table().values())) == {True}
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert swept_study.sweep()
    assert swept_study.registered == ["strong"]
    assert file_report.keep(documents) == ""
    assert swept_study.sweep(**overrides)
    assert swept_study.registered == []
    assert "the study file" in swept_study.output


@pytest.mark.slow
def test_best_model_is_chosen_by_the_latest_scores(swept_study: SweptStudy) -> None:
    text = swept_study.file.read_text()
    swept_study.file.write_text(text + "report: {protocol: flip}\n")
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    (empty := swept_study.file.parent / "empty").mkdir()
    scores = {"weak": 0.7, "strong": 0.1, "late": 0.2}

    def log_scores() -> None:
        study = load_study(swept_study.file)
        trials = {trial.name: trial for trial in swept_study.resolved(study)}
        for run_id, name in swept_study.names.items():
            config = study.config.protocols["flip"].evaluation(EvaluationConfig())
            tags = {
                "protocol": protocol_tag(config),
                "data": trials[name].dataset.manifest.fingerprint,
                "split": "val",
                "checkpoint": "last",
                "code": trials[name].code,
            }
            log_evaluation(swept_study.store, run_id, "flip", {"miou": scores[name]}, tags, empty)

    swept_study.on_score = log_scores
    assert swept_study.sweep()
    assert swept_study.registered == ["weak"]


@pytest.mark.slow
def test_study_taken_over_by_another_process_is_not_concluded(
    swept_study: SweptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 0.05)

    def take_over(*_: object) -> None:
        owner = {"orchestrator.owner": str(replace(Owner.this_process(), host="another-host"))}
        swept_study.store.set_tags(swept_study.parent_run.info.run_id, owner)
        while not swept_study.stop.requested:
            time.sleep(0.02)

    monkeypatch.setattr(controller, "announce", take_over)
    assert not swept_study.sweep()
    assert swept_study.registered == []
    assert swept_study.parent_run.info.status == "RUNNING"
    assert "another-host" in swept_study.output


@pytest.mark.slow
def test_store_that_vanishes_before_the_study_is_closed(
    swept_study: SweptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept_study.train({"weak": 0.4})

    # MLflow logs the traceback of each failed statement.
    monkeypatch.setattr(logging.getLogger("mlflow.store.db.utils"), "disabled", True)

    def vanish(*_: object) -> None:
        swept_study.store.client._tracking_client.store.engine.dispose()
        storage = swept_study.file.parent
        (storage / "mlflow.db").rename(storage / "elsewhere.db")
        (storage / "mlflow.db").mkdir()  # SQLite would create a file
        raise KeyboardInterrupt

    monkeypatch.setattr(controller, "announce", vanish)
    threads_before = set(threading.enumerate())
    with pytest.raises(TrackingError, match=r"cannot be written \(unable to open database file\)"):
        swept_study.sweep()
    started = set(threading.enumerate()) - threads_before
    beating = [thread for thread in started if "_keep_alive" in thread.name]
    assert not beating, "the study would seem to run as long as this process"


@pytest.mark.slow
def test_table_shows_the_states_of_stopped_trials(
    swept_study: SweptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was killed by the stop reports nothing; its run is still open."""
    swept_study.train({"weak": 0.4})

    def train(self: SweepController, study_run: StudyRun, todo: Any, *_: object) -> None:
        for trial in todo:
            run_id = study_run.begin_trial(trial, None, None)
            if trial.name == "strong":
                study_run.start_trial(run_id, trial.code)
        self.context.stop.requested = True

    monkeypatch.setattr(SweepController, "_train", train)
    assert not swept_study.sweep()
    rows = [line.split() for line in swept_study.output.splitlines() if line.startswith("│")]
    assert [(row[1], row[3]) for row in rows] == [
        ("weak", "40.0"),
        ("strong", "interrupted"),
        ("late", "missing"),  # it never started
    ]


@pytest.mark.slow
def test_nothing_starts_once_the_limit_of_hours_is_reached(swept_study: SweptStudy) -> None:
    swept_study.train({"weak": 0.4, "strong": 0.6})
    run_id = next(iter(swept_study.names))
    swept_study.store.log_metrics(run_id, {"trial/worker_hours": 2.5}, 2)
    swept_study.file.write_text(swept_study.file.read_text() + "limits: {gpu_hours: 2}\n")
    assert not swept_study.sweep()  # starting the cluster would raise an error
    assert "stopped limits.gpu_hours: this study has used 2.5 of 2 worker-hours" in " ".join(
        swept_study.output.split()
    )
    assert "run the same command" not in swept_study.output
    experiment = swept_study.parent_run.info.experiment_id
    trials = swept_study.store.search([experiment], "tags.`orchestrator.kind` = 'trial'")
    assert {run.info.run_id for run in trials} == swept_study.names.keys()
    assert swept_study.parent_run.info.status == "KILLED"


def status(swept_study: SweptStudy, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Return the cells of the lines that `studies status` prints about the study and its trials."""
    capsys.readouterr()
    assert main(["status", "swept", "--storage", str(swept_study.file.parent)]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    table = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return [table[1], *table[3:]]


@pytest.mark.slow
def test_edited_names_and_labels_are_those_of_the_runs(
    swept_study: SweptStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the beginning of the command on, and also back."""
    monkeypatch.setenv("COLUMNS", "200")
    swept_study.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert swept_study.sweep()
    run_ids = {name: run_id for run_id, name in swept_study.names.items()}
    original = swept_study.file.read_text()
    edited = original.replace("strong: {}", "best: {label: Ours}") + "seeds: [0, 1]\n"
    seen: list[list[list[str]]] = []

    def train(self: SweepController, study_run: StudyRun, todo: Any, *_: object) -> None:
        for trial in todo:
            study_run.start_trial(study_run.begin_trial(trial, None, None), trial.code)
        seen.append(status(swept_study, capsys))
        self.context.stop.requested = True

    monkeypatch.setattr(SweepController, "_train", train)
    swept_study.file.write_text(edited)
    assert not swept_study.sweep()
    names = [f"{name}, seed {seed}" for seed in (0, 1) for name in ("weak", "best", "late")]
    for (study, *trials), other in ((seen[0], "training"), (status(swept_study, capsys), None)):
        assert study[2] == f"3 finished, 3 {other or 'interrupted'}"
        assert [trial[0] for trial in trials] == names
    storage = ["--storage", str(swept_study.file.parent)]
    for name in ("best, seed 0", "Ours, seed 0"):
        assert main(["logs", name, *storage]) == 2  # the trial is known, and has printed nothing
        assert "trial 'best, seed 0' has no log of worker 0" in capsys.readouterr().out
    assert main(["logs", "strong", *storage]) == 2
    assert "strong is called best, seed 0 since its study was edited" in capsys.readouterr().err

    swept_study.file.write_text(original)
    assert swept_study.sweep()
    assert main(["logs", "Ours, seed 0", *storage]) == 2
    assert "Ours, seed 0 is called strong since" in capsys.readouterr().err
    study, *trials = status(swept_study, capsys)
    assert study[2] == "3 finished, 3 not in the study any more"
    current = {trial[0]: trial[-1] for trial in trials if trial[1] == "finished"}
    assert current == run_ids


@pytest.mark.slow
def test_trials_that_a_limit_kept_from_starting_say_so(
    swept_study: SweptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: SweepController, study_run: StudyRun, todo: Any, *_: object) -> None:
        for trial in todo:
            study_run.begin_trial(trial, None, None)
        assert self.budget is not None
        self.budget.pause("limits.gpu_hours: used up")
        self.budget.leave_out()

    monkeypatch.setattr(SweepController, "_train", train)
    assert not swept_study.sweep()
    experiment = swept_study.parent_run.info.experiment_id
    trials = swept_study.store.search([experiment], "tags.`orchestrator.kind` = 'trial'")
    reasons = {run.data.tags["orchestrator.reason"] for run in trials}
    assert reasons == {"limits.gpu_hours: used up"}

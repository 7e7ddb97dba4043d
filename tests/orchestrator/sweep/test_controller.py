"""The course of a study whose trials are there already: what its command concludes, without Ray."""

import csv
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.context import RunContext, StopRequest
from orchestrator.evaluation.records import protocol_config, protocol_tag
from orchestrator.planning.reconcile import ReconcileOptions
from orchestrator.report.study_report import StudyReport
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.storage import Storage
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.sweep import controller, summary
from orchestrator.sweep.controller import SweepController
from orchestrator.sweep.run import study_report
from orchestrator.tracking import lock
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.runs import RunStatus
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun
from pipelines.evaluation.evaluate import EvaluationConfig

STUDY = """\
study: course
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


class Desk:
    """A storage in which the study's command is given again and again."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = file
        self.store = TrackingStore(tracking_uri(file.parent), file.parent / "artifacts")
        self.best: list[str] = []
        self.drawn = 0
        self.scored: Callable[[], None] = lambda: None
        self.said = ""
        self.names: dict[str, str] = {}
        self.stop = StopRequest()

        def register(store: TrackingStore, study: str, run_id: str) -> str:
            self.best.append(self.names[run_id])
            return f"models:/{study}@best"

        def draw(*_: object) -> None:
            self.drawn += 1

        def score(*_: object) -> dict[str, str]:
            self.scored()
            return {}

        monkeypatch.setattr(summary, "register_best", register)
        monkeypatch.setattr(controller, "draw_study_figures", draw)
        monkeypatch.setattr(controller, "evaluate_finished", score)

    def train(self, fates: Mapping[str, float | RunStatus], **sets: str) -> None:
        """Leave runs in the ledger. fates: mIoU of a finished trial, or how it ended."""
        study = load_study(self.file, [(key.replace("_", "."), sets[key]) for key in sets])
        study_run = StudyRun.open(self.store, study)
        for trial in resolve_trials(study.trials, "cpu", self.file.parent):
            fate = fates.get(trial.name)
            if fate is None:
                continue
            run_id = study_run.begin_trial(trial, None, None)
            self.names[run_id] = trial.name
            study_run.start_trial(run_id, trial.code)
            finished = isinstance(fate, float)
            study_run.log_epoch(run_id, 1, {"val/miou": fate if isinstance(fate, float) else 0.1})
            study_run.end_trial(run_id, "FINISHED" if finished else fate, "")  # type: ignore[arg-type]
        study_run.close("KILLED")

    def sweep(self, *only: str, **sets: str) -> bool:
        study = load_study(self.file, [(key.replace("_", "."), sets[key]) for key in sets], only)
        storage = Storage(self.file.parent, str(self.file.parent))
        console = Console(record=True, width=200)
        self.stop = StopRequest()
        context = RunContext(storage, None, console, storage.local / "log", self.stop)
        placement = plan_placement(study.config.resources, [{"CPU": 4.0}])
        trials = resolve_trials(study.trials, "cpu", self.file.parent)
        cluster: Any = SimpleNamespace(start=lambda: None)
        planner: Any = None
        report = study_report(study, self.store, trials)
        self.best.clear()
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
            ).run()
        finally:
            self.said = console.export_text()

    @property
    def page(self) -> Any:
        experiment = self.store.client.get_experiment_by_name("course").experiment_id
        (run,) = self.store.search([experiment], "tags.`orchestrator.kind` = 'study'")
        return run

    def table(self) -> dict[str, str]:
        """mIoU by row of the table that the study's run keeps."""
        uri = f"runs:/{self.page.info.run_id}/report/table.csv"
        text = self.store.download(uri, self.file.parent / "read").read_text()
        return {row["variant"]: row["miou_mean"] for row in csv.DictReader(text.splitlines())}


@pytest.fixture
def desk(
    tmp_path: Path, small_streets: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(small_streets)))
    return Desk(file, monkeypatch)


def test_a_command_about_some_trials_concludes_over_all(desk: Desk) -> None:
    desk.train({"weak": 0.4, "strong": 0.6})
    assert desk.sweep("weak"), "its own trial is finished"
    assert desk.page.info.status == "KILLED", "the study's trials are not"
    assert {name: bool(miou) for name, miou in desk.table().items()} == {
        "weak": True,
        "strong": True,
        "late": False,
    }
    assert "strong" in desk.page.data.tags["mlflow.note.content"]
    assert desk.best == ["strong"]
    assert "strong" in desk.said
    assert desk.drawn == 0
    desk.train({"late": "FAILED"})
    assert desk.sweep("weak", "strong")
    assert desk.page.info.status == "FAILED"


def test_the_last_part_of_a_study_finishes_it(desk: Desk) -> None:
    desk.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert desk.sweep("late")
    assert desk.page.info.status == "FINISHED"
    assert desk.best == ["strong"]
    assert desk.sweep()
    assert desk.page.info.status == "FINISHED"
    assert desk.drawn == 1


def test_another_table_leaves_the_page_of_the_file(desk: Desk) -> None:
    desk.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert desk.sweep()
    before, table = desk.page, desk.table()
    changed = {"training_epochs": "1"}
    desk.train({"weak": 0.9, "strong": 0.8, "late": 0.7}, **changed)
    assert desk.page.info.status == "FINISHED"
    assert desk.sweep(**changed)
    assert "90.0" in desk.said.replace("90.00", "90.0"), "its own table is printed"
    assert "--set training.epochs=1" in desk.said
    assert "--set study=NAME" in desk.said
    assert (desk.table(), desk.best, desk.drawn) == (table, [], 1)
    after = desk.page
    assert after.info.status == "FINISHED"
    note = "mlflow.note.content"
    assert after.data.tags[note] == before.data.tags[note]
    # What decides no result makes no other table.
    assert desk.sweep(resources_retries="5")
    assert desk.best == ["strong"]


def test_another_table_has_the_page_while_no_other_is_there(desk: Desk) -> None:
    changed = {"training_epochs": "1"}
    desk.train({"weak": 0.9, "strong": 0.8, "late": 0.7}, **changed)
    for _ in range(2):
        assert desk.sweep(**changed)
        assert desk.page.info.status == "FINISHED"
        assert desk.best == ["weak"]
        assert set(map(bool, desk.table().values())) == {True}
    # The report of the file's own table is not mixed into that page either.
    of_the_file = StudyReport(load_study(desk.file), desk.store)
    documents = of_the_file.documents(of_the_file.read())
    why_not = of_the_file.keep(documents)
    assert why_not.startswith("This table used the study file. ")
    assert "still show `--set training.epochs=1`" in why_not
    assert set(map(bool, desk.table().values())) == {True}
    desk.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    assert desk.sweep()
    assert desk.best == ["strong"]
    assert of_the_file.keep(documents) == ""
    assert desk.sweep(**changed)
    assert desk.best == []
    assert "the study file" in desk.said


def test_the_best_is_chosen_by_what_scoring_has_just_added(desk: Desk) -> None:
    text = desk.file.read_text()
    desk.file.write_text(text + "report: {protocol: flip}\n")
    desk.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    (empty := desk.file.parent / "empty").mkdir()
    scores = {"weak": 0.7, "strong": 0.1, "late": 0.2}

    def scored() -> None:
        study = load_study(desk.file)
        trials = {c.name: c for c in resolve_trials(study.trials, "cpu", desk.file.parent)}
        for run_id, name in desk.names.items():
            config = protocol_config(study.config.protocols["flip"], EvaluationConfig())
            tags = {
                "protocol": protocol_tag(config, config.boundary),
                "data": trials[name].dataset.manifest.fingerprint,
                "split": "val",
                "checkpoint": "last",
                "code": trials[name].code,
            }
            desk.store.log_evaluation(run_id, "flip", {"miou": scores[name]}, tags, empty)

    desk.scored = scored
    assert desk.sweep()
    assert desk.best == ["weak"]


def test_a_study_that_is_taken_over_is_left_without_a_conclusion(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.train({"weak": 0.4, "strong": 0.6, "late": 0.5})
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 0.05)

    def take_over(*_: object) -> None:
        owner = {"orchestrator.owner": str(replace(Owner.this_process(), host="another-host"))}
        desk.store.set_tags(desk.page.info.run_id, owner)
        while not desk.stop.requested:
            time.sleep(0.02)

    monkeypatch.setattr(controller, "announce", take_over)
    assert not desk.sweep()
    assert desk.best == []
    assert desk.page.info.status == "RUNNING"
    assert "another-host by now" in desk.said

"""Protocols and submissions: what is missing of them, and a study that has both."""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file

from orchestrator.evaluation import scoring
from orchestrator.evaluation.missing import evaluate_missing
from orchestrator.evaluation.protocols import missing_scores
from orchestrator.evaluation.records import is_current, protocol_tag
from orchestrator.evaluation.submissions import missing_packages
from orchestrator.study.load import load_study
from orchestrator.study.resolve import ResolvedTrial, check_submission, resolve_trials
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun
from pipelines.data.dataset import DatasetError
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.evaluate import EvaluationConfig, evaluate
from pipelines.evaluation.inference import InferenceConfig
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.precision import Numerics
from pipelines.preparation.readers import cityscapes as official
from pipelines.submission import SubmissionError, pack

NUMERICS = Numerics.choose(torch.device("cpu"), "fp32", "auto")
STUDY = """\
study: after
base:
  data: {dataset: DATASET, crop: [32, 32], train_split: train+val}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 1, batch: 3, learning_rate: 0.01, precision: fp32}
variants:
  small: {entered: {miou: 12.5, source: a test server, when: {data.validation_split: null}}}
grid: {data.validation_split: [null, val]}
protocols:
  flip: {flip: true}
  windows: {scales: [1, 1.5], window: [24, 24]}
submission: {benchmark: cityscapes, split: test, protocol: windows}
resources: {node_cache: null}
"""


@pytest.fixture
def study(tmp_path: Path, cityscapes: Path) -> Study:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(cityscapes)))
    return load_study(file)


@pytest.fixture
def trials(study: Study, tmp_path: Path) -> list[ResolvedTrial]:
    return resolve_trials(study.trials, "cpu", tmp_path)


UNVALIDATED, VALIDATED = "small, None", "small, val"


def wanted(
    study: Study, trials: Sequence[ResolvedTrial], known: dict[str, dict[str, str]]
) -> list[str]:
    """The protocols missing of a run that both trials share, with `known` recorded of it."""
    run_ids = {UNVALIDATED: "run", VALIDATED: "run"}
    return [entry.name for entry in missing_scores(study, trials, run_ids, lambda _: known)]


def test_a_protocol_is_missing_until_it_is_recorded_as_asked(
    study: Study, trials: list[ResolvedTrial]
) -> None:
    fingerprint = trials[0].dataset.manifest.fingerprint
    recorded = {
        name: {"protocol": protocol_tag(config), "data": fingerprint, "split": "val", "code": "any"}
        for name, config in study.config.protocols.items()
    }
    assert wanted(study, trials, {}) == ["flip", "windows"]
    assert wanted(study, trials, {"flip": recorded["flip"]}) == ["windows"]
    assert wanted(study, trials, recorded) == []
    for key, value in (("protocol", "{}"), ("data", "0" * 64), ("split", "train")):
        changed = {**recorded, "flip": {**recorded["flip"], key: value}}
        assert wanted(study, trials, changed) == ["flip"]
    # Unfinished trials, and those that validate on nothing, are not scored.
    assert not list(missing_scores(study, trials, {}, lambda _: {}))
    assert not list(missing_scores(study, trials, {UNVALIDATED: "run"}, lambda _: {}))


def test_settings_tell_protocols_apart() -> None:
    one, other = InferenceConfig(window=(24, 24)), InferenceConfig(window=(24, 24), stride=(8, 8))
    assert protocol_tag(one) != protocol_tag(other)
    tags = {"protocol": protocol_tag(one, 3), "data": "x", "split": "val"}
    assert is_current(tags, one, 3, "x", "val")
    assert not is_current(tags, one, 0, "x", "val")


def test_a_package_is_missing_until_it_is_recorded(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path
) -> None:
    run_ids = {UNVALIDATED: "one", VALIDATED: "two"}
    missing = list(missing_packages(study, trials, run_ids, lambda _: {}, tmp_path))
    assert [entry.run_id for entry in missing] == ["one", "two"]
    tags = {
        "protocol": protocol_tag(study.config.protocols["windows"]),
        "data": trials[0].dataset.manifest.fingerprint,
        "split": "test",
    }
    known = {"submission-cityscapes": tags}
    assert not list(missing_packages(study, trials, run_ids, lambda _: known, tmp_path))


def test_a_submission_that_no_server_takes_is_refused_before_training(
    study: Study, trials: list[ResolvedTrial], small_streets: Path, tmp_path: Path
) -> None:
    check_submission(study, trials)
    submission = study.config.submission
    assert submission is not None
    absent = replace(
        study, config=replace(study.config, submission=replace(submission, split="all"))
    )
    with pytest.raises(DatasetError, match="no samples in split 'all'; it has train"):
        check_submission(absent, trials)
    file = tmp_path / "streets.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("split: test", "split: val")
    file.write_text(text)
    streets = load_study(file)
    with pytest.raises(SubmissionError, match="cityscapes wants 19 classes"):
        check_submission(streets, resolve_trials(streets.trials, "cpu", tmp_path))


def test_a_package_is_the_same_each_time(tmp_path: Path) -> None:
    files = {"b_000000_000019": b"second", "a_000000_000019": b"first"}
    for name in ("one", "two"):
        pack(tmp_path / "deep" / f"{name}.zip", files)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("deep/*")}
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "deep" / "one.zip") as archive:
        assert archive.namelist() == ["a_000000_000019.png", "b_000000_000019.png"]
        assert archive.read("a_000000_000019.png") == b"first"


def test_what_is_scored_and_packed_is_recorded(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the way to Ray's processes: the tasks' shares are worked off here."""

    def here(task: Any, model: Any, work: tuple[Any, ...], parts: int, *_: object) -> Iterator[Any]:
        shares = min(2, parts)
        for share in range(shares):
            yield task._function(model, *work, share, shares)

    monkeypatch.setattr(scoring, "_in_shares", here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = TrackingStore(tracking_uri(tmp_path), tmp_path / "artifacts")
    study_run = StudyRun.open(store, study)
    run_ids = {}
    for trial in trials:
        run_id = run_ids[trial.name] = study_run.begin_trial(trial, None, None)
        checkpoint, directory = tmp_path / run_id, tmp_path / "models" / run_id
        checkpoint.mkdir()
        network = build_network(trial.experiment.model, 19, seed=0)
        save_file(dict(network.state_dict()), checkpoint / "model.safetensors")
        manifest = trial.dataset.manifest
        write_model_directory(directory, checkpoint, trial.experiment, manifest)
        store.log_artifact(run_id, directory, "last")
        study_run.end_trial(run_id, "FINISHED")
    study_run.close("FINISHED")

    console = Console(quiet=True)
    scores = list(missing_scores(study, trials, run_ids, store.evaluations))
    packed = tmp_path / "submissions"
    packages = list(missing_packages(study, trials, run_ids, store.evaluations, packed))
    missing = [*scores, *packages]
    assert evaluate_missing(missing, store, (), console, lambda: False) == {}
    # Nothing is missing any more.
    assert not list(missing_scores(study, trials, run_ids, store.evaluations))
    assert not list(missing_packages(study, trials, run_ids, store.evaluations, packed))

    found = trials[1].dataset.split("val")
    network = build_network(trials[1].experiment.model, 19, seed=0).eval()
    for name, protocol in study.config.protocols.items():
        config = EvaluationConfig(**asdict(protocol))
        wanted = evaluate(network, EvaluationBatches(found, 1), 19, NUMERICS, config)
        recorded = store.trial_run(run_ids[VALIDATED]).metrics
        assert recorded[f"eval/{name}/miou"] == pytest.approx(wanted.miou)
    assert "eval/flip/miou" not in store.trial_run(run_ids[UNVALIDATED]).metrics
    ids = {label_id for label_id, _, _ in official.CLASSES}
    for archive in ("small-None.zip", "small-val.zip"):
        with zipfile.ZipFile(packed / archive) as files:
            assert files.namelist() == [f"berlin_00000{i}_000019.png" for i in range(2)]
            for name in files.namelist():
                with files.open(name) as stream, Image.open(stream) as picture:
                    pixels = np.asarray(picture)
                assert pixels.shape == (32, 64)
                assert set(np.unique(pixels)) <= ids


def test_what_cannot_be_scored_is_named_and_the_rest_is_scored(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = TrackingStore(tracking_uri(tmp_path), tmp_path / "artifacts")
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trials[1], None, None)
    study_run.close("FINISHED")
    missing = list(missing_scores(study, trials, {VALIDATED: run_id}, store.evaluations))
    failures = evaluate_missing(missing, store, (), Console(quiet=True), lambda: False)
    assert list(failures) == [VALIDATED]
    assert "not scored under windows" in failures[VALIDATED]
    stopped = evaluate_missing(missing, store, (), Console(quiet=True), lambda: True)
    assert stopped == {VALIDATED: "not scored under flip: stopped"}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (WorkerCrashedError(), WorkerCrashedError),
        (OutOfMemoryError("killed"), OutOfMemoryError),
        (RayTaskError("count", "", DatasetError("damaged")), DatasetError),
    ],
)
def test_the_shares_of_what_failed_are_cancelled(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever one share ends with, the others do not run on, and the bar goes."""
    cancelled: list[int] = []

    def get(reference: int) -> str:
        if reference == 1:
            raise raised
        return "counted"

    monkeypatch.setattr(scoring.ray, "put", lambda model: model)
    monkeypatch.setattr(scoring.ray, "wait", lambda waiting: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(scoring.ray, "get", get)
    monkeypatch.setattr(scoring.ray, "cancel", cancelled.append)
    monkeypatch.setattr(scoring, "_machines", lambda: [{"CPU": 1.0}])
    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: given[-2]))
    bar = Progress(disable=True)
    shares = scoring._in_shares(task, None, (), 4, bar, "scored")  # type: ignore[arg-type]
    assert next(shares) == "counted"
    with pytest.raises(expected):
        next(shares)
    assert cancelled == [2, 3]
    assert not bar.tasks

"""Protocols of a study: which scores are missing, and how they are recorded."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from orchestrator.evaluation import scoring
from orchestrator.evaluation.missing import evaluate_missing
from orchestrator.evaluation.protocols import missing_scores
from orchestrator.evaluation.records import protocol_tag
from orchestrator.evaluation.submissions import missing_packages
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.evaluate import EvaluationConfig, evaluate
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.precision import Numerics
from pipelines.preparation.readers import cityscapes as official

NUMERICS = Numerics.choose(torch.device("cpu"), "fp32", "auto")
UNVALIDATED, VALIDATED = "small, None", "small, val"


def wanted(
    study: Study, trials: Sequence[ResolvedTrial], known: dict[str, dict[str, str]]
) -> list[str]:
    """The protocols missing of a run that both trials share, with `known` recorded of it."""
    run_ids = {UNVALIDATED: "run", VALIDATED: "run"}
    return [entry.name for entry in missing_scores(study, trials, run_ids, lambda _: known)]


def test_a_protocol_is_missing_until_it_is_recorded_as_asked(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path
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


def test_what_is_scored_and_packed_is_recorded(
    study: Study,
    trials: list[ResolvedTrial],
    tmp_path: Path,
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything but the way to Ray's processes: the tasks' shares are worked off here."""

    def here(task: Any, model: Any, work: tuple[Any, ...], parts: int, *_: object) -> Iterator[Any]:
        shares = min(2, parts)
        for share in range(shares):
            yield task._function(model, *work, share, shares)

    monkeypatch.setattr(scoring, "_in_shares", here)
    store = TrackingStore(tracking_uri(own_store), tmp_path / "artifacts")
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
    study: Study, trials: list[ResolvedTrial], tmp_path: Path, own_store: Path
) -> None:
    store = TrackingStore(tracking_uri(own_store), tmp_path / "artifacts")
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trials[1], None, None)
    study_run.close("FINISHED")
    missing = list(missing_scores(study, trials, {VALIDATED: run_id}, store.evaluations))
    failures = evaluate_missing(missing, store, (), Console(quiet=True), lambda: False)
    assert list(failures) == [VALIDATED]
    assert "not scored under windows" in failures[VALIDATED]
    stopped = evaluate_missing(missing, store, (), Console(quiet=True), lambda: True)
    assert stopped == {VALIDATED: "not scored under flip: stopped"}

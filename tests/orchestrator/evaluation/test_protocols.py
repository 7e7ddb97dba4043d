"""A study's protocols: which scores are missing, and how scores are recorded."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
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
from orchestrator.evaluation.submissions import missing_submissions
from orchestrator.study.config import EarlyStopping
from orchestrator.study.evaluation_options import ProtocolConfig
from orchestrator.study.resolve import check_class_names, check_protocols
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.data.loading import EvaluationBatches
from pipelines.data.manifest import DatasetError
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.evaluate import evaluate
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.precision import Numerics
from pipelines.preparation.readers import cityscapes as official

NUMERICS = Numerics.choose(torch.device("cpu"), "fp32", "auto")
UNVALIDATED, VALIDATED = "small, None", "small, val"


def missing_names(
    study: Study, trials: Sequence[ResolvedTrial], recorded: dict[str, dict[str, str]]
) -> list[str]:
    """Return the protocols missing for a run shared by both trials, given its `recorded` tags."""
    run_ids = {UNVALIDATED: "run", VALIDATED: "run"}
    return [entry.name for entry in missing_scores(study, trials, run_ids, lambda _: recorded)]


@pytest.mark.slow
def test_protocol_is_missing_until_recorded_with_its_settings(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path
) -> None:
    fingerprint = trials[0].dataset.manifest.fingerprint
    recorded = {
        name: {"protocol": protocol_tag(config), "data": fingerprint, "split": "val", "code": "any"}
        for name, config in study.config.protocols.items()
    }
    assert missing_names(study, trials, {}) == ["flip", "windows"]
    assert missing_names(study, trials, {"flip": recorded["flip"]}) == ["windows"]
    assert missing_names(study, trials, recorded) == []
    for key, value in (("protocol", "{}"), ("data", "0" * 64), ("split", "train")):
        changed = {**recorded, "flip": {**recorded["flip"], key: value}}
        assert missing_names(study, trials, changed) == ["flip"]
    # Unfinished trials and trials without a validation split are not scored.
    assert not list(missing_scores(study, trials, {}, lambda _: {}))
    assert not list(missing_scores(study, trials, {UNVALIDATED: "run"}, lambda _: {}))


@pytest.mark.slow
def test_protocol_with_a_split_scores_that_split(study: Study, trials: list[ResolvedTrial]) -> None:
    protocol = ProtocolConfig(split="train")
    study = replace(study, config=replace(study.config, protocols={"train": protocol}))
    check_protocols(study, trials)
    run_ids = {UNVALIDATED: "first", VALIDATED: "second"}
    missing = list(missing_scores(study, trials, run_ids, lambda _: {}))
    # A trial without a validation split is scored, too.
    assert [(entry.run_id, entry.split) for entry in missing] == [
        ("first", "train"),
        ("second", "train"),
    ]
    assert missing[0].dataset.split == "train"
    recorded = {
        "protocol": protocol_tag(protocol),
        "data": trials[0].dataset.manifest.fingerprint,
        "split": "train",
    }
    assert not list(missing_scores(study, trials, run_ids, lambda _: {"train": recorded}))


def test_split_that_cannot_be_scored_is_rejected_before_training(
    study: Study, trials: list[ResolvedTrial]
) -> None:
    for split, message in (("all", "no samples in split 'all'"), ("test", "no labeled pixel")):
        protocols = {"more": ProtocolConfig(split=split)}
        changed = replace(study, config=replace(study.config, protocols=protocols))
        with pytest.raises(DatasetError, match=f"protocol 'more': .*{message}"):
            check_protocols(changed, trials)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"class_groups": {"thin": ("pole", "fense")}},
            r"thin has 'fense', .* did you mean `fence`",
        ),
        ({"class_groups": {"pole": ("pole",)}}, r"class_groups\.pole has the name of a class"),
        ({"columns": ("difference/iou/poles",)}, r"report\.columns has 'poles', which is no"),
    ],
)
def test_groups_of_unknown_classes_are_rejected_before_training(
    study: Study, trials: list[ResolvedTrial], options: dict[str, Any], message: str
) -> None:
    report = replace(study.config.report, class_groups={"thin": ("pole", "fence")})
    check_class_names(replace(study, config=replace(study.config, report=report)), trials)
    report = replace(study.config.report, **options)
    with pytest.raises(DatasetError, match=message):
        check_class_names(replace(study, config=replace(study.config, report=report)), trials)


def test_search_ranked_by_an_unknown_class_is_rejected_before_training(
    study: Study, trials: list[ResolvedTrial]
) -> None:
    for metric in ("miou", "iou/traffic sign"):
        config = replace(study.config, early_stopping=EarlyStopping(metric=metric))
        check_class_names(replace(study, config=config), trials)
    config = replace(study.config, early_stopping=EarlyStopping(metric="iou/cat"))
    with pytest.raises(DatasetError, match=r"early_stopping\.metric has 'cat', which is no class"):
        check_class_names(replace(study, config=config), trials)


@pytest.mark.slow
def test_scores_and_packages_are_recorded(
    study: Study,
    trials: list[ResolvedTrial],
    tmp_path: Path,
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Score and pack without Ray: the chunks of each task run in this process."""

    def run_in_process(
        task: Any, model: Any, work: tuple[Any, ...], parts: int, *_: object
    ) -> Iterator[Any]:
        chunks = min(2, parts)
        for chunk in range(chunks):
            yield task(model, *work, chunk, chunks)

    monkeypatch.setattr(scoring, "_in_chunks", run_in_process)
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
        store.log_artifact(run_id, directory, "model")
        study_run.end_trial(run_id, "FINISHED")
    study_run.close("FINISHED")

    console = Console(quiet=True)
    scores = list(missing_scores(study, trials, run_ids, store.evaluations))
    packages_directory = tmp_path / "submissions"
    packages = list(
        missing_submissions(study, trials, run_ids, store.evaluations, packages_directory)
    )
    missing = [*scores, *packages]
    assert evaluate_missing(missing, store, (), console, lambda waits: "") == {}
    # Nothing is missing anymore.
    assert not list(missing_scores(study, trials, run_ids, store.evaluations))
    assert not list(
        missing_submissions(study, trials, run_ids, store.evaluations, packages_directory)
    )

    samples = trials[1].dataset.split("val")
    network = build_network(trials[1].experiment.model, 19, seed=0).eval()
    for name, protocol in study.config.protocols.items():
        config = EvaluationConfig(**asdict(protocol.inference))
        expected = evaluate(network, EvaluationBatches(samples, 1), 19, NUMERICS, config)
        recorded = store.trial_run(run_ids[VALIDATED]).metrics
        assert recorded[f"eval/{name}/miou"] == pytest.approx(expected.miou)
    assert "eval/flip/miou" not in store.trial_run(run_ids[UNVALIDATED]).metrics
    ids = {label_id for label_id, _, _ in official.CLASSES}
    for archive in ("small-None.zip", "small-val.zip"):
        with zipfile.ZipFile(packages_directory / archive) as files:
            assert files.namelist() == [f"berlin_00000{i}_000019.png" for i in range(2)]
            for name in files.namelist():
                with files.open(name) as stream, Image.open(stream) as image:
                    pixels = np.asarray(image)
                assert pixels.shape == (32, 64)
                assert set(np.unique(pixels)) <= ids


def test_unscorable_trial_is_reported(
    study: Study, trials: list[ResolvedTrial], tmp_path: Path, own_store: Path
) -> None:
    store = TrackingStore(tracking_uri(own_store), tmp_path / "artifacts")
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trials[1], None, None)
    study_run.close("FINISHED")
    missing = list(missing_scores(study, trials, {VALIDATED: run_id}, store.evaluations))
    failures = evaluate_missing(missing, store, (), Console(quiet=True), lambda waits: "")
    assert list(failures) == [VALIDATED]
    assert "not scored under windows" in failures[VALIDATED]
    stopped = evaluate_missing(missing, store, (), Console(quiet=True), lambda waits: "stopped")
    assert stopped == {VALIDATED: "not scored under flip: stopped"}

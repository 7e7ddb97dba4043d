"""The latency of finished trials: which measurements are missing, and how they are recorded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from orchestrator.evaluation import latency
from orchestrator.evaluation.latency import missing_latencies
from orchestrator.evaluation.missing import evaluate_missing
from orchestrator.evaluation.records import is_current
from orchestrator.study.evaluation_options import LATENCY, LatencyConfig
from orchestrator.study.load import load_study
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import StudyError
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network

CONFIG = LatencyConfig((24, 32), batch=3)


@pytest.fixture
def timed(study: Study) -> Study:
    return replace(study, config=replace(study.config, latency=CONFIG))


@pytest.mark.slow
def test_each_run_is_measured_once(timed: Study, trials: list[ResolvedTrial]) -> None:
    names = [trial.name for trial in trials]
    shared = dict.fromkeys(names, "run")
    assert [each.run_id for each in missing_latencies(timed, trials, shared, lambda _: {})] == [
        "run"
    ]
    recorded = {LATENCY: {"timed": CONFIG.tag, "device": "any", "code": "other"}}
    assert not list(missing_latencies(timed, trials, shared, lambda _: recorded))
    other = {LATENCY: {**recorded[LATENCY], "timed": LatencyConfig((24, 24)).tag}}
    assert list(missing_latencies(timed, trials, shared, lambda _: other))
    unfinished = {names[0]: "run"}
    assert len(list(missing_latencies(timed, trials, unfinished, lambda _: {}))) == 1
    without = replace(timed, config=replace(timed.config, latency=None))
    assert not list(missing_latencies(without, trials, shared, lambda _: {}))


@pytest.mark.slow
def test_measurement_is_recorded(
    timed: Study,
    trials: list[ResolvedTrial],
    tmp_path: Path,
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Measured in this process, without Ray."""
    monkeypatch.setattr(
        latency, "run_on_device", lambda task, model, arguments, *_: task(model, *arguments)
    )
    store = TrackingStore(tracking_uri(own_store), tmp_path / "artifacts")
    study_run = StudyRun.open(store, timed)
    trial = trials[1]
    run_id = study_run.begin_trial(trial, None, None)
    checkpoint, directory = tmp_path / "checkpoint", tmp_path / "model"
    checkpoint.mkdir()
    network = build_network(trial.experiment.model, 19, seed=0)
    save_file(dict(network.state_dict()), checkpoint / "model.safetensors")
    write_model_directory(directory, checkpoint, trial.experiment, trial.dataset.manifest)
    store.log_artifact(run_id, directory, "model")
    study_run.end_trial(run_id, "FINISHED")
    study_run.close("FINISHED")

    shapes: list[tuple[int, ...]] = []
    original = torch.nn.Module.__call__

    def recorded_call(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        if type(module) is type(network):
            shapes.append(tuple(arguments[0].shape))
            assert not module.training
            assert torch.is_inference_mode_enabled()
        return original(module, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "__call__", recorded_call)
    threads = torch.get_num_threads()
    missing = list(missing_latencies(timed, [trial], {trial.name: run_id}, store.evaluations))
    try:
        assert evaluate_missing(missing, store, (), Console(quiet=True), lambda waits: "") == {}
    finally:
        torch.set_num_threads(threads)
    assert set(shapes) == {(3, 3, 24, 32)}
    metrics = store.trial_run(run_id).metrics
    low, median, high = (metrics[f"eval/latency/latency_ms{end}"] for end in ("_p5", "", "_p95"))
    assert 0 < low <= median <= high
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert metrics["eval/latency/inference_memory_gib"] > 0.9 * weights / 2**30
    file = store.download_file(run_id, "eval/latency/milliseconds.json", tmp_path)
    times = json.loads(file.read_text())
    assert len(times) == len(shapes) - 2  # two are not counted
    assert median == pytest.approx(sorted(times)[len(times) // 2], rel=0.5)
    tags = store.evaluations(run_id)[LATENCY]
    assert "core" in tags["device"]
    # It is not taken for scores of the images.
    fingerprint = trial.dataset.manifest.fingerprint
    assert not is_current(tags, trial.experiment.evaluation, fingerprint, "val")
    assert not list(missing_latencies(timed, [trial], {trial.name: run_id}, store.evaluations))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[24, 32]", "[24]", "size"),
        ("[24, 32]", "[0, 32]", "size must be a height and a width of at least 1 pixel"),
        ("batch: 3", "batch: 0", "batch must be at least 1, received 0"),
        ("protocols: {}", "protocols: {latency: {}}", "cannot be named 'latency'"),
        ("latency: {size: [24, 32], batch: 3}", "", "the study does not measure it; set `latency`"),
    ],
)
def test_wrong_studies(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = """\
study: timed
variants: {a: {}}
protocols: {}
latency: {size: [24, 32], batch: 3}
report: {columns: [miou, latency_ms]}
"""
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert load_study(path).config.latency == CONFIG
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert message in str(caught.value)

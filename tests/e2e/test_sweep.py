"""orchestrator.sweep on real studies with Ray Tune, Ray Train and MLflow."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from orchestrator.tracking.recorded import STUDY_ARTIFACTS, TRIAL_ARTIFACTS, TRIAL_METRICS
from orchestrator.tracking.store import TrackingStore
from pipelines.preparation.embedded import prepare_streets
from tests.support.sweep_command import command, runs, sweep


def is_documented(name: str, table: Iterable[str]) -> bool:
    """Whether a metric or artifact has a row in a table of `orchestrator.tracking.recorded`."""
    rows = [entry.rstrip("/") for row in table for entry in row.split(", ")]
    return any(re.fullmatch(re.sub(r"[A-Z]{4,}", ".+", row), name) for row in rows)


@pytest.mark.slow
def test_study_trains_all_trials_and_a_second_run_only_reports_them(
    group_study: Path, tmp_path: Path
) -> None:
    study = group_study
    with study.open("a") as file:
        file.write("latency: {size: [32, 48], batch: 2}\n")
    shutil.rmtree(study.parent / "storage")  # the command creates it
    first = sweep(study)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stderr == ""
    assert "3 trials: 3 missing" in first.stdout
    assert "full: epoch 3/3, loss" in first.stdout
    assert "mlflow ui --backend-store-uri sqlite:" in first.stdout
    (row,) = [line for line in first.stdout.splitlines() if line.startswith("│ FENet")]
    assert "80.1" in row
    assert "+2.8" in row

    parents, trials, client = runs(study)
    (parent,) = parents
    assert parent.info.status == "FINISHED"
    documents = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert all(is_documented(name, STUDY_ARTIFACTS) for name in documents)
    assert documents == {
        "study.yaml",
        "study.resolved.yaml",
        "report",
        "figures",
    }
    # Variants with the same configuration share one run.
    table = Path(client.download_artifacts(parent.info.run_id, "report/table.csv")).read_text()
    lines = {line["variant"]: line for line in csv.DictReader(table.splitlines())}
    assert lines["twin"]["runs"] == lines["strong"]["runs"]
    assert lines["twin"]["miou_mean"] == lines["strong"]["miou_mean"]
    assert float(lines["full"]["latency_ms_p5"]) <= float(lines["full"]["latency_ms"])
    assert "core" in lines["full"]["latency_device"]
    figures = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "figures")}
    kinds = ("comparison", "features")
    assert figures == {f"figures/{kind}.{suffix}" for kind in kinds for suffix in ("png", "pdf")}
    registered = client.get_model_version_by_alias("tiny", "best")
    assert registered.run_id in {run.info.run_id for run in trials.values()}
    assert "best model: models:/tiny@best (" in first.stdout
    assert set(trials) == {"strong", "full"}
    assert trials["full"].info.run_name == "full, dfnet1, streets, seed 0"
    for run in trials.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for metric in ("train/loss", "val/miou", "learning_rate", "images_per_second", "epoch"):
            history = client.get_metric_history(run.info.run_id, metric)
            assert [entry.step for entry in history] == [1, 2, 3], metric
        assert run.data.metrics["model/parameters_m"] > 1
        assert run.data.metrics["model/gflops"] > 0
        assert 0 < run.data.metrics["memory_gib"] < 8
        assert 0 < run.data.metrics["eval/latency/latency_ms"] < 10_000
        assert run.data.metrics["eval/latency/inference_memory_gib"] >= 0
        seconds = run.data.metrics["trial/seconds"]
        assert seconds > 0
        assert run.data.metrics["trial/worker_hours"] == pytest.approx(2 * seconds / 3600)
        assert all(is_documented(name, TRIAL_METRICS) for name in run.data.metrics)
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        artifacts = {e.split("/")[0] for row in TRIAL_ARTIFACTS for e in row.split(", ")}
        assert {entry.name for entry in folder.iterdir()} <= artifacts
        for name in ("confusion.png", "panels.png"):
            with Image.open(folder / name) as image:
                image.load()
        assert len((folder / "confusion.csv").read_text().splitlines()) == 11
        weights = load_file(folder / "best" / "model.safetensors")
        store = TrackingStore(client.tracking_uri, None)
        model = store.download(f"runs:/{run.info.run_id}/model", tmp_path / run.info.run_id)
        assert weights.keys() == load_file(next(model.rglob("model.safetensors"))).keys()
    full, strong = trials["full"], trials["strong"]
    assert full.data.metrics["model/gflops"] > strong.data.metrics["model/gflops"]
    assert "train/loss/stage3" in full.data.metrics

    again = sweep(study)
    assert again.returncode == 0
    assert "3 trials: 3 finished" in again.stdout
    assert "ms for a pass" in first.stdout
    assert "ms for a pass" not in again.stdout
    assert row in again.stdout
    parents_after, trials_after, _ = runs(study)
    assert len(parents_after) == 1
    assert {r.info.run_id for r in trials_after.values()} == {
        r.info.run_id for r in trials.values()
    }


@pytest.mark.slow
def test_failed_trial_does_not_affect_the_others(study: Path, tmp_path: Path) -> None:
    """Neither does an environment without UTF-8, with few file descriptors, an odd path, another
    working directory and a study from a pipe."""
    text = study.read_text()
    odd = tmp_path / "a b#1%\N{LATIN SMALL LETTER U WITH DIAERESIS}"
    odd.mkdir()
    study = odd / "study.yaml"
    study.write_text(
        text.replace("supervision: [3, 4]}", "supervision: [3, 4]}, data: {dataset: D}").replace(
            "epochs: 3", "epochs: 1"
        )
    )
    received = tmp_path / "received.json"
    with study.open("a") as file:
        file.write(f"""notify: {{command: [sh, -c, 'cat > "$0"', "{received}"]}}\n""")
    broken = study.parent / "broken"
    prepare_streets(broken, train=6, val=2, size=(32, 64))
    study.write_text(study.read_text().replace("dataset: D}", f"dataset: {broken}}}"))
    (shard,) = broken.glob("*train*.parquet")
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    shard.write_bytes(content)

    limited = f"ulimit -n 256; cat {shlex.quote(str(study))} | {shlex.join(command(study))}"
    done = subprocess.run(
        ["sh", "-c", limited.replace(f" {shlex.quote(str(study))} --", " /dev/stdin --")],
        capture_output=True,
        encoding="latin-1",
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "COLUMNS": "20"},
        cwd="/",
        timeout=400,
    )
    assert done.returncode == 1, done.stdout
    assert "\\u" not in done.stdout, "a character that this terminal lacks"
    notification = json.loads(received.read_text())
    assert notification["text"].startswith("tiny: failed, 2 of 3 trials finished; full failed: ")
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
    assert len(failed) == 1, done.stdout
    (line,) = failed
    assert "full: DatasetError: " in line
    assert str(shard) in line
    (parent,), trials, _ = runs(study)
    assert parent.info.status == "FAILED"
    assert trials["strong"].info.status == "FINISHED"
    assert trials["full"].info.status == "FAILED"
    assert "DatasetError" in trials["full"].data.tags["mlflow.note.content"]

"""The command itself: real studies through Ray Tune, Ray Train and MLflow."""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from orchestrator.tracking.store import TrackingStore
from pipelines.preparation.embedded import prepare_streets

STUDY = """\
study: tiny
description: Two variants, two workers.
compare_to: strong
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, batch: 6, learning_rate: 0.02}
variants:
  strong:
    set: {model: {flows: []}}
    reference: {miou: 77.3, source: "Table 1(a)"}
  full:
    label: FENet
    set: {model: {supervision: [3, 4]}}
    reference: {miou: 80.1, source: "Table 1(a)"}
  twin:
    set: {model: {flows: []}}
resources: {workers: 2, cpus_per_worker: 0.5, node_cache: CACHE}
"""

# Epochs of a study that is to be interrupted: more than it trains while a stop is on its way.
LONG = 60


@pytest.fixture
def study(tmp_path: Path, small_streets: Path) -> Path:
    path = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets))
    path.write_text(text.replace("CACHE", str(tmp_path / "cache")))
    return path


def command(study: Path, *options: str) -> list[str]:
    storage = study.parent / "storage"
    line = [sys.executable, "-m", "orchestrator.sweep", str(study), "--storage", str(storage)]
    return [*line, *options]


def environment() -> dict[str, str]:
    """This process's, without a tracking store that may be named in it."""
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def sweep(study: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(study, *options), capture_output=True, text=True, timeout=400, env=environment()
    )


def studies_command(study: Path, name: str, *options: str) -> list[str]:
    storage = study.parent / "storage"
    line = [sys.executable, "-m", "orchestrator.studies", name, "--storage", str(storage)]
    return [*line, *options]


def studies(study: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        studies_command(study, name, *options),
        capture_output=True,
        text=True,
        timeout=400,
        env=environment(),
    )


def runs(study: Path) -> tuple[list[Run], dict[str, Run], MlflowClient]:
    """The study's parent runs and its trials' runs by name."""
    client = MlflowClient(f"sqlite:///{study.parent / 'storage' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if run.data.tags["orchestrator.kind"] == "study"]
    trials = [run for run in found if run.data.tags["orchestrator.kind"] == "trial"]
    assert len({run.info.run_name for run in trials}) == len(trials)
    return parents, {run.data.tags["orchestrator.trial"]: run for run in trials}, client


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def train_workers(pid: int) -> list[psutil.Process]:
    """Ray Train's worker processes of a command's cluster; forked ones are not below it."""
    raylets = {str(child.pid) for child in psutil.Process(pid).children(recursive=True)}
    found = []
    for process in psutil.process_iter():
        try:
            if "RayTrainWorker" not in " ".join(process.cmdline()):
                continue
            if process.environ().get("RAY_RAYLET_PID") in raylets:
                found.append(process)
        except psutil.Error:
            continue  # it ended between being listed and being asked
    return found


@pytest.mark.slow
def test_a_study_from_file_to_table(study: Path, tmp_path: Path) -> None:
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
    assert documents == {
        "study.yaml",
        "study.resolved.yaml",
        "report",
        "figures",
    }
    # Two names of one training: trained once, shown twice.
    table = Path(client.download_artifacts(parent.info.run_id, "report/table.csv")).read_text()
    lines = {line["variant"]: line for line in csv.DictReader(table.splitlines())}
    assert lines["twin"]["runs"] == lines["strong"]["runs"]
    assert lines["twin"]["miou_mean"] == lines["strong"]["miou_mean"]
    drawn = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "figures")}
    kinds = ("comparison", "features")
    assert drawn == {f"figures/{kind}.{suffix}" for kind in kinds for suffix in ("png", "pdf")}
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
        seconds = run.data.metrics["trial/seconds"]
        assert seconds > 0
        assert run.data.metrics["trial/worker_hours"] == pytest.approx(2 * seconds / 3600)
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        for picture in ("confusion.png", "panels.png"):
            with Image.open(folder / picture) as image:
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
    assert row in again.stdout
    parents_after, trials_after, _ = runs(study)
    assert len(parents_after) == 1
    assert {r.info.run_id for r in trials_after.values()} == {
        r.info.run_id for r in trials.values()
    }


@pytest.mark.slow
def test_a_lost_worker_a_stop_from_another_terminal_a_kill_and_going_on(study: Path) -> None:
    """A worker is killed, the command is stopped, resumed and killed itself; then it is run again,
    and every epoch was recorded once."""
    study.write_text(study.read_text().replace("epochs: 3", f"epochs: {LONG}"))
    output = study.parent / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command(study, "--only", "strong"), stdout=file, env=environment()
        )
    children: list[psutil.Process] = []
    try:
        wait_for(lambda: f"epoch 2/{LONG}" in output.read_text() or process.poll() is not None, 200)
        assert process.poll() is None, output.read_text()
        workers = train_workers(process.pid)
        assert len(workers) == 2
        workers[1].kill()
        reached = output.read_text().count("epoch ")
        wait_for(
            lambda: output.read_text().count("epoch ") > reached + 2 or process.poll() is not None,
            200,
        )
        assert process.poll() is None, output.read_text()

        paused = train_workers(process.pid)  # or they would be done before the next commands are
        for worker in paused:
            worker.suspend()
        second = sweep(study)
        assert second.returncode == 2
        assert f"is being run by process {process.pid} on" in second.stdout
        assert "strong  training" in studies(study, "status", "tiny").stdout
        assert f"epoch 2 of {LONG}: train/loss" in studies(study, "logs", "strong").stdout
        for worker in paused:
            worker.resume()
        children = psutil.Process(process.pid).children(recursive=True)
        stopped = studies(study, "stop", "tiny")
        assert stopped.returncode == 0, stopped.stdout
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert "asked to stop from another terminal" in output.read_text()
    assert "not finished" in output.read_text()
    wait_for(lambda: not any(child.is_running() for child in children), 20)

    (parent,), trials, client = runs(study)
    assert parent.info.status == "KILLED"
    assert trials["strong"].info.status == "KILLED"
    reached = int(trials["strong"].data.metrics["epoch"])
    assert reached >= 2
    # As a worker leaves it that is killed while it writes a checkpoint.
    run = trials["strong"]
    identity = run.data.tags["orchestrator.identity"][:16]
    left = Path(tempfile.mkdtemp(prefix=f"checkpoint-{identity}-{run.info.run_id}-"))
    output = study.parent / "resumed.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            studies_command(study, "resume", "tiny"), stdout=file, env=environment()
        )
    try:
        wait_for(lambda: output.read_text().count("epoch ") > 1 or process.poll() is not None, 200)
        assert process.poll() is None, output.read_text()
        children = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if not " ".join(child.cmdline())
            .strip()
            .endswith("Agent")  # Ray's own agents stay for a minute
        ]
    finally:
        process.kill()
        process.wait()
    assert "1 interrupted" in output.read_text()
    # Whether it ended with an epoch or within one, it had a checkpoint there.
    logs = studies(study, "logs", "strong").stdout
    assert f"resumed after epoch {reached} of {LONG}" in logs
    wait_for(lambda: not any(child.is_running() for child in children), 30)
    assert "strong  stopped" in studies(study, "status", "tiny").stdout

    assert not left.exists()

    # The last epochs are enough to see that it went on and did not begin again.
    resumed = sweep(study, "--only", "strong")
    assert resumed.returncode == 0, resumed.stdout
    assert "1 interrupted" in resumed.stdout
    assert f"epoch 1/{LONG}" not in resumed.stdout
    (parent,), trials, client = runs(study)
    assert trials["strong"].info.status == "FINISHED"
    history = client.get_metric_history(trials["strong"].info.run_id, "val/miou")
    assert sorted(entry.step for entry in history) == list(range(1, LONG + 1))
    logs = studies(study, "logs", "strong").stdout
    assert f"epoch {LONG} of {LONG}: train/loss" in logs


@pytest.mark.slow
def test_one_failing_trial_leaves_the_others_alone(study: Path) -> None:
    study.write_text(
        study.read_text()
        .replace("supervision: [3, 4]}", "supervision: [3, 4]}, data: {dataset: D}")
        .replace("epochs: 3", "epochs: 1")
    )
    broken = study.parent / "broken"
    prepare_streets(broken, train=6, val=2, size=(32, 64))
    study.write_text(study.read_text().replace("dataset: D}", f"dataset: {broken}}}"))
    (shard,) = broken.glob("*train*.parquet")
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    shard.write_bytes(content)

    done = sweep(study)
    assert done.returncode == 1, done.stdout
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


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        (
            "epochs: 3",
            "epoch: 3",
            [],
            "study.yaml:7:14: unknown key `training.epoch`; did you mean",
        ),
        ("", "", ["--set", "data.dataset=/nowhere"], "/nowhere: does not exist"),
        ("", "", ["--set", "data.train_split=training"], "no samples in split 'training'; it has"),
        (
            "workers: 2",
            "workers: 999",
            [],
            "`resources.workers` is 999, but strong has",
        ),
        ("0.5, node", "99, node", [], "resources.workers is 2 with 99 CPU each, but the"),
        (
            "",
            "",
            ["--only", "nothing"],
            "--only nothing: matches no trial; the study has: strong; full; twin",
        ),
    ],
)
def test_bad_input_gets_a_sentence(
    study: Path, old: str, new: str, options: list[str], message: str
) -> None:
    study.write_text(study.read_text().replace(old, new) if old else study.read_text())
    done = sweep(study, *options)
    assert done.returncode == 2
    assert message in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (study.parent / "storage" / "mlflow.db").exists()

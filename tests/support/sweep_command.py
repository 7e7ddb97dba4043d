"""Run `orchestrator.sweep` on a study of a few seconds and read its runs from MLflow."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import psutil
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.studies.__main__ import main as studies_main

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

# Epochs of a study that a test interrupts, of two steps each.
LONG = 60
# One trial of one worker; the file `pace` next to the study sets the length of its steps.
PACED_STUDY = f"""\
study: tiny
base:
  data: {{dataset: DATASET, crop: [32, 48]}}
  model:
    network: "tests.support.paced_network:PacedNetwork"
    arguments: {{pace: PACE}}
  training: {{epochs: {LONG}, batch: 6, learning_rate: 0.02}}
variants: {{strong: {{}}}}
resources: {{workers: 1, cpus_per_worker: 0.5, node_cache: CACHE}}
"""


def set_pace(study: Path, seconds: float) -> None:
    """Set the least time of a training step of a paced study. Acts at once."""
    pace = study.parent / "pace"
    partial = pace.with_suffix(".partial")
    partial.write_text(str(seconds))
    partial.replace(pace)


def command(study: Path, *options: str) -> list[str]:
    """Return the sweep command of a study file, with `storage` next to the file."""
    storage = study.parent / "storage"
    line = [sys.executable, "-m", "orchestrator.sweep", str(study), "--storage", str(storage)]
    return [*line, *options]


def sweep(study: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the sweep command to its end."""
    return subprocess.run(command(study, *options), capture_output=True, text=True, timeout=600)


def studies_command(study: Path, name: str, *options: str) -> list[str]:
    """Return the command `orchestrator.studies NAME` for the storage of a study file."""
    storage = study.parent / "storage"
    line = [sys.executable, "-m", "orchestrator.studies", name, "--storage", str(storage)]
    return [*line, *options]


def studies(study: Path, name: str, *options: str) -> str:
    """Run `orchestrator.studies NAME` in this process; return its output."""
    arguments = studies_command(study, name, *options)
    output = io.StringIO()
    with redirect_stdout(output):
        status = studies_main(arguments[arguments.index("orchestrator.studies") + 1 :])
    assert status == 0, output.getvalue()
    return output.getvalue()


def runs(study: Path) -> tuple[list[Run], dict[str, Run], MlflowClient]:
    """Return the study's parent runs, its trials' runs by trial name, and the MLflow client."""
    client = MlflowClient(f"sqlite:///{study.parent / 'storage' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    all_runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in all_runs if run.data.tags["orchestrator.kind"] == "study"]
    trials = [run for run in all_runs if run.data.tags["orchestrator.kind"] == "trial"]
    assert len({run.info.run_name for run in trials}) == len(trials)
    return parents, {run.data.tags["orchestrator.trial"]: run for run in trials}, client


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition holds, and fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def train_workers(pid: int) -> list[psutil.Process]:
    """Return the Ray Train workers of a command's cluster, including detached ones."""
    return _workers(pid, "RayTrainWorker")


def trial_processes(pid: int) -> list[psutil.Process]:
    """Return the processes of Tune functions in a command's cluster, which train the trials of one
    worker."""
    return _workers(pid, "ImplicitFunc")


def _workers(pid: int, title: str) -> list[psutil.Process]:
    raylets = {str(child.pid) for child in psutil.Process(pid).children(recursive=True)}
    workers = []
    for process in psutil.process_iter():
        try:
            if title not in " ".join(process.cmdline()):
                continue
            if process.environ().get("RAY_RAYLET_PID") in raylets:
                workers.append(process)
        except psutil.Error:
            continue  # the process has exited since it was listed
    return workers

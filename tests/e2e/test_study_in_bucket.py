"""A study that stores everything in a bucket and on the tracking server of clusters/aws; the head
is lost under load, the study is read from a laptop without a head, and a new head continues."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pyarrow.fs
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.tracking.replica import Replica
from tests.support import ROOT
from tests.support.heads import (
    BUCKET,
    KEYS,
    SECRET,
    answers,
    bucket_uri,
    free_port,
    kill_all,
    start_store,
    store_client,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # botocore's own
]

Process: TypeAlias = "subprocess.Popen[bytes]"

# Programs of the head's set-up, in its home directory.
STUBS = {
    "sudo": """case $1 in
      tee) cat > "$HOME/$(basename "$2")" ;;
      journalctl) echo "the journal" ;;
    esac""",
    "systemctl": 'cat "$HOME/state"',
    "cloud-init": "",
    "python3": "",
    "curl": '[ "$(cat "$HOME/state")" = active ]',
    "python": f"""[ "$2" = pip ] || exec {sys.executable} "$@" """,
}
STUDY = """\
study: in a bucket
base:
  data: {dataset: "DATASET", crop: [32, 32]}
  model: {backbone: dfnet1, flows: []}
  training: {epochs: 2, batch: 4}
variants: {strong: {}}
"""


@pytest.mark.timeout(1200)  # a dozen commands, each of which imports torch and MLflow
def test_study_survives_the_loss_of_the_head_and_is_read_without_one(
    small_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with start_store() as store:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{store}")
        dataset, storage = bucket_uri("data/streets", store), bucket_uri("storage", store)
        replica = bucket_uri("tracking/head", store)
        pyarrow.fs.copy_files(str(small_streets), dataset, use_threads=False)
        study = tmp_path / "study.yaml"
        study.write_text(STUDY.replace("DATASET", dataset))

        with _server(tmp_path / "head-1", store, replica) as (head, url):
            online = {"MLFLOW_TRACKING_URI": url}
            output = _run(tmp_path, "sweep", str(study), "--storage", storage, **online)
            log_text = _run(tmp_path, "studies", "logs", "strong", "--storage", storage, **online)
            assert "epoch 2 of 2" in log_text
            time.sleep(3)
            moment = datetime.now(UTC)
            recorded = _log_until_killed(url, head)

        # On a laptop with none of the files, while no head runs.
        laptop = tmp_path / "laptop"
        laptop.mkdir()
        earlier = f"{replica}@{moment:%Y-%m-%dT%H:%M:%SZ}"
        listed = _run(laptop, "studies", "list", "--tracking", replica)
        assert "in a bucket" in listed
        assert "load" not in listed
        output += _run(laptop, "report", str(study), "--tracking", earlier, "--out", "report")
        assert "strong" in (laptop / "report" / "table.csv").read_text()
        assert list((laptop / "report").glob("*.html"))

        # A new head counts the old one as lost after a while; here, at once.
        (lost,) = Replica(replica).generations()
        Replica(replica).record(lost.name, "ended")
        with _server(tmp_path / "head-2", store, replica) as (_, url):
            client = MlflowClient(url)
            (run,) = client.search_runs([client.get_experiment_by_name("load").experiment_id])
            history = client.get_metric_history(run.info.run_id, "loss")
            steps = sorted(entry.step for entry in history)
            assert steps == list(range(len(steps)))
            assert len(steps) >= recorded > 0

        client = store_client(store)
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
        for part in ("storage/trials/", "storage/logs/trials/", "artifacts/", "tracking/"):
            assert any(key.startswith(part) for key in keys), part
        # The secret key must not appear in any object, log, database or output.
        texts = [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
        texts += [path.read_bytes() for path in tmp_path.rglob("*.log")]
        texts += [path.read_bytes() for path in tmp_path.glob("head-*/data/*") if path.is_file()]
        assert not any(SECRET.encode() in text for text in [*texts, output.encode()])


def test_set_up_of_the_head_shows_why_its_server_does_not_start(tmp_path: Path) -> None:
    with start_store() as store:
        done = _set_up_head(tmp_path, store, state="activating")
        assert (done.returncode, done.stderr) == (1, "the journal\n")
        done = _set_up_head(tmp_path, store, bucket="my-bucket")
    assert done.returncode == 1
    assert "edit the line `bucket`" in done.stderr


def _set_up_head(
    home: Path, store: int, bucket: str = BUCKET, state: str = "active"
) -> "subprocess.CompletedProcess[str]":
    """Run clusters/aws/setup.sh with stubs, which write `tracking.service`. state: of the
    service."""
    (home / "bin").mkdir(exist_ok=True)
    (home / ".ray").mkdir(exist_ok=True)
    (home / ".ray" / "auth_token").touch()
    for name, lines in STUBS.items():
        (home / "bin" / name).write_text(f"#!/bin/bash\n{lines}\n")
        (home / "bin" / name).chmod(0o755)
    (home / "state").write_text(state)
    config = f"cluster_name: segmentation\nmetadata: {{bucket: {bucket}}}\n"
    config += "provider: {region: us-west-2}\n"
    (home / "ray_bootstrap_config.yaml").write_text(config)
    script = (ROOT / "clusters/aws/setup.sh").read_text()
    return subprocess.run(
        ["bash", "-c", script.replace("/opt/orchestrator", str(home)), "setup", "head"],
        env={
            **os.environ,
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store}",
            "HOME": str(home),
            "USER": "ubuntu",
            "PATH": f"{home}/bin:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )


def _run(directory: Path, name: str, *options: str, **variables: str) -> str:
    """Run a command of the project in a home directory; return its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "HOME": str(directory), **variables}
    done = subprocess.run(
        [sys.executable, "-m", f"orchestrator.{name}", *options],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@contextmanager
def _server(directory: Path, store: int, replica: str) -> Iterator[tuple[Process, str]]:
    """Run the service that the set-up of the head installs; yield its process and its URL."""
    directory.mkdir()
    done = _set_up_head(directory, store)
    assert done.returncode == 0, done.stderr
    service = (directory / "tracking.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", service, re.M)
    port = free_port()
    for name, value in {
        "/var/lib/tracking": str(directory / "data"),
        "5000": str(port),
        f"s3://{BUCKET}/tracking/123456789012-us-west-2-segmentation": replica,
    }.items():
        assert name in line
        line = line.replace(name, value)
    with (directory / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*shlex.split(line), "--workers", "1"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, "MLflow starts", 200)
        assert process.poll() is None, (directory / "server.log").read_text()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0, (directory / "server.log").read_text()


def _log_until_killed(url: str, head: Process) -> int:
    """Record a metric step by step until the head is killed after seven seconds. Return the number
    of steps that were recorded more than three seconds before."""
    client = MlflowClient(url)
    run_id = client.create_run(client.create_experiment("load")).info.run_id
    times: list[float] = []
    timer = threading.Timer(7, lambda: kill_all(head))
    timer.start()
    with suppress(MlflowException):
        for step in itertools.count():
            client.log_metric(run_id, "loss", 1.0, step=step)
            times.append(time.monotonic())
    timer.join()
    end = time.monotonic()
    return sum(moment < end - 3 for moment in times)

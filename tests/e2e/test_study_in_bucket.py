"""A study that stores everything in a bucket and on a tracking server, as on the head node of
cluster.yaml, and is reported from a laptop without any of its files."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from tests.support.heads import (
    BUCKET,
    CLUSTERS,
    PROGRAMS,
    SECRET,
    Head,
    answers,
    free_port,
    on_a_real_head,
    start_head,
    start_store,
    store_client,
    wait_for,
)

pytestmark = on_a_real_head


@pytest.fixture
def head() -> Iterator[Head]:
    """Yield a head node with a running database and an empty bucket."""
    with start_store() as endpoint, start_head("head-1", endpoint) as head:
        head.start()
        yield head


def test_study_in_a_bucket_is_reported_from_a_laptop(
    head: Head, small_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    host = head.endpoint.removeprefix("http://")
    query = f"?endpoint_override={host}&scheme=http&region=us-east-1"
    dataset = f"s3://{BUCKET}/data/streets"
    pyarrow.fs.copy_files(str(small_streets), f"{dataset}{query}", use_threads=False)
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment |= {
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": head.endpoint,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_AUTH_MODE": "disabled",
        "HOME": str(tmp_path),
    }
    server = [sys.executable, "-m", *_server(head.socket, port)]
    with (tmp_path / "mlflow.log").open("w") as log:
        tracking = subprocess.Popen(
            server, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    study = tmp_path / "study.yaml"
    study.write_text(
        f"""
study: in a bucket
base:
  data: {{dataset: "{dataset}{query}", crop: [32, 32]}}
  model: {{backbone: dfnet1, flows: []}}
  training: {{epochs: 2, batch: 4}}
variants: {{strong: {{}}}}
"""
    )

    def command(name: str, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"orchestrator.{name}", *options],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    storage = f"s3://{BUCKET}/storage{query}"
    try:
        wait_for(lambda: answers(port), "the tracking server starts")
        output = command("sweep", str(study), "--storage", storage)
        assert "1 finished" in command("sweep", str(study), "--storage", storage, "--plan")
        log_text = command("studies", "logs", "strong", "--storage", storage)
        assert "epoch 2 of 2" in log_text
        laptop = tmp_path / "laptop"
        laptop.mkdir()
        environment["HOME"] = str(laptop)  # contains no file of the study
        output += command("report", str(study), "--out", str(laptop / "report"))
    finally:
        os.killpg(tracking.pid, signal.SIGTERM)
        tracking.wait()
    table = (laptop / "report" / "table.csv").read_text()
    assert "strong" in table
    assert list((laptop / "report").glob("*.html"))
    client = store_client(head.endpoint)
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    for part in ("storage/trials/", "storage/logs/trials/", "artifacts/", "tracking/"):
        assert any(key.startswith(part) for key in keys), part
    # The secret key must not appear in any object, log, database row or output.
    objects = [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
    dump = subprocess.run(
        [PROGRAMS[-1] / "pg_dump", "--host", head.socket, "mlflow"],
        capture_output=True,
        check=True,
    ).stdout
    logs = [path.read_bytes() for path in tmp_path.rglob("*.log")]
    assert not any(SECRET.encode() in text for text in [*objects, *logs, dump, output.encode()])


def _server(database: Path, port: int) -> list[str]:
    """Return the tracking server's command from clusters/aws/setup_head.sh."""
    script = (CLUSTERS / "aws" / "setup_head.sh").read_text()
    line = script[script.index("mlflow server") : script.index("ExecStartPost=/usr/bin/curl")]
    line = line.replace("\\\\\n", " ").replace("$BUCKET", BUCKET)
    line = line.replace("/run/tracking", str(database)).replace("5000", str(port))
    return shlex.split(line.replace("--workers 2", "--workers 1"))

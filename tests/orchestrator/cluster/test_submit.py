"""Submitting a study to a cluster: what may leave this machine, and which job a command follows.

A fake replaces Ray's job client; test_on_premises.py uses the real one."""

import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType
from ray.job_submission import JobStatus

from orchestrator.cluster import submit
from orchestrator.sweep import command
from orchestrator.sweep.__main__ import main as sweep

PROJECT = Path(__file__).parents[3]
STUDY = """\
study: a study
description: see https://example.org:443/x@y
base: {data: {dataset: streets}}
variants: {strong: {set: {model: {flows: []}}}}
"""


class Jobs:
    """A fake job client: every submitted job keeps running and logs one line."""

    def __init__(self) -> None:
        self.all: dict[str, JobDetails] = {}
        self.followed: list[str] = []

    def list_jobs(self) -> list[JobDetails]:
        return list(self.all.values())

    def submit_job(self, *, submission_id: str, **fields: Any) -> str:
        job = f"{submission_id}-{len(self.all)}"
        self.all[job] = JobDetails(
            type=JobType.SUBMISSION,
            submission_id=job,
            status=JobStatus.RUNNING,
            entrypoint=fields["entrypoint"],
            metadata=fields["metadata"],
        )
        return job

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.followed.append(job)
        for text in ("at work\n",):
            yield text

    def get_job_info(self, job: str) -> JobDetails:
        return self.all[job].model_copy(
            update={"status": JobStatus.SUCCEEDED, "driver_exit_code": 0}
        )


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    fake_client = Jobs()
    monkeypatch.setattr(submit, "JobSubmissionClient", lambda address: fake_client)
    monkeypatch.setattr(command, "check_dashboard", lambda address: None)
    return fake_client


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def send(study: Path, *options: str) -> int:
    arguments = [str(study), "--storage", "s3://bucket/storage", "--address", "http://127.0.0.1:9"]
    return sweep([*arguments, *options])


def test_same_command_follows_its_job_and_another_is_rejected(
    jobs: Jobs, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(study) == send(study) == 0
    (job,) = jobs.all
    assert jobs.followed == [job, job]
    capsys.readouterr()
    assert send(study, "--set", "training.epochs=7") == 2
    study.write_text(STUDY.replace("flows: []", "flows: [detail]"))
    assert send(study) == 2
    assert list(jobs.all) == [job]
    output = capsys.readouterr().out
    assert output.count("from another file or with other options") == 2
    assert f"ray job logs {job} --follow" in output


@pytest.mark.parametrize("request_", ["list_jobs", "submit_job"])
def test_failed_request_is_one_error(
    request_: str,
    jobs: Jobs,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise OSError("Connection aborted\nby the tunnel")  # as requests.ConnectionError

    monkeypatch.setattr(jobs, request_, fail)
    assert send(study) == 2
    output = capsys.readouterr().out
    assert (
        "error: --address http://127.0.0.1:9: the Ray dashboard refused the study or did" in output
    )
    assert "(Connection aborted). Check" in output


def test_plan_and_training_jobs_are_separate(jobs: Jobs, study: Path) -> None:
    assert send(study, "--plan") == send(study) == send(study, "--plan") == send(study) == 0
    plan, training, second_plan = jobs.all
    assert jobs.followed == [plan, training, second_plan, training]
    assert ["--plan" in job.entrypoint for job in jobs.all.values()] == [True, False, True]


def test_local_paths_are_rejected(
    jobs: Jobs, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = "training.backbone_weights"
    for key, location in (
        ("data.dataset", "data/x"),
        (weights, "weights/a.pth"),
        ("training.init", "~/x"),
    ):
        assert send(study, "--set", f"{key}={location}") == 2
    output = capsys.readouterr().out
    assert f"--set {weights}=s3://BUCKET/weights/a.pth" in output
    assert "--set data.dataset=s3://BUCKET/data/x" in output
    assert not jobs.all
    for location in ("s3://bucket/a.pth", "/shared/a.pth", "efficientnet-lite0"):
        jobs.all.clear()
        assert send(study, "--set", f"{weights}={location}") == 0
    jobs.all.clear()
    assert send(study, "--set", "training.init=runs:/1/best") == 0


@pytest.mark.parametrize(
    "line",
    [
        "base: {training: {init: 's3://KEY:hu/sh@bucket/x'}}",
        "base: {training: {backbone_weights: 'abfs://a@b/x?tenant_id=1&client_secret=hush'}}",
        "base: {data: {dataset: 'https://store/x?X-Amz-Signature=hush'}}",
        "description: fetched from https://store/x?sv=1&sig=hush of ours",
        "published: [{label: other, miou: 50.0, source: 's3://KEY:hush@bucket/x'}]",
    ],
)
def test_credentials_in_uris_are_rejected(
    jobs: Jobs, study: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = line.partition(":")[0]
    other_lines = [entry for entry in STUDY.splitlines() if not entry.startswith(key)]
    study.write_text("\n".join([*other_lines, line]))
    assert send(study) == 2
    study.write_text(STUDY)
    assert send(study, "--set", "data.dataset=s3://KEY:hush@bucket/data") == 2
    output = capsys.readouterr().out
    assert output.count("a key in a URI") == 2
    assert "hush" not in output.replace("hu/sh", "hush")
    assert not jobs.all


def test_documented_commands_can_be_submitted(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    text = (PROJECT / "docs" / "aws.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^python -m orchestrator\.sweep (.* s3://.* --address .*)$", text, re.M)
    assert len(commands) == 2
    assert [sweep(shlex.split(command)) for command in commands] == [0, 0]

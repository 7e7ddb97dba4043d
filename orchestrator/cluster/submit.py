"""A study on a cluster reached through its dashboard: submitted as a Ray job, and followed.

The job's process sits on the cluster's head. What travels is the study, resolved into one file,
this project's sources as they are here, and the user's own modules; no credentials, which the
cluster's machines have of their own.
"""

import asyncio
import hashlib
import inspect
import json
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import yaml
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

import models
import orchestrator
import pipelines
from orchestrator.cluster.address import RemoteError
from orchestrator.study.study import Study
from pipelines.data.storage import check_no_secret
from pipelines.preparation.embedded import EMBEDDED

_STUDY = "study"

_PURPOSE = "purpose"  # of a job: to plan, or to train

_DIGEST = "digest"  # of what was asked for

_STUDY_FILE = "study.yaml"

_SOURCES = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")

# A stopped job's trials write their checkpoints first; Ray would kill it after 3 seconds.
_STOP_SECONDS = "300"

_STILL_AT_WORK = (JobStatus.PENDING, JobStatus.RUNNING)

_LEDGER_URIS = ("runs:/", "models:/")


def submit_study(
    name: str,
    document: str,
    modules: Sequence[ModuleType],
    arguments: Sequence[str],
    address: str,
    storage: str,
    console: Console,
) -> int:
    """Send a study to the cluster at `address`, or join it where it is at work there already, and
    show what it says until it ends. Returns the exit status of the study's own command. A plan is
    a job for itself: it joins none, and none joins it.

    name: of the study. document: its resolved file. modules: the user's own. arguments: the sweep's
    options that go with it. storage: as the cluster sees it. Raises RemoteError, also where the
    study is at work there from another document or with other arguments.
    """
    if "://" not in storage and not storage.startswith("/"):
        raise RemoteError(
            f"--storage {storage} would lie in the job's temporary directory; name a place that "
            "all machines of the cluster share, such as s3://BUCKET/storage or /shared/storage"
        )
    command = ["python", "-m", "orchestrator.sweep", _STUDY_FILE, *arguments]
    command += ["--storage", storage, "--address", "auto"]
    digest = hashlib.sha256(json.dumps([document, command]).encode()).hexdigest()
    purpose = "plan" if "--plan" in arguments else "train"
    client = _connect(address)
    there = None if purpose == "plan" else _at_work(client, name)
    if there is None:
        with _parcel(document, modules) as directory:
            job_id = client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=_job_name(name, purpose),
                runtime_env={
                    "working_dir": str(directory),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS},
                },
                metadata={_STUDY: name, _PURPOSE: purpose, _DIGEST: digest},
            )
        console.print(f"submitted as job {job_id}", highlight=False)
    else:
        job_id = str(there.submission_id)
        if (there.metadata or {}).get(_DIGEST) != digest:
            raise RemoteError(
                f"{name} is at work there already, as job {job_id}, from another file or with "
                f"other options. To see it: ray job logs {job_id} --follow --address {address}; "
                f"to have it anew, stop it first: python -m orchestrator.studies stop '{name}'"
            )
        console.print(
            f"{name} is at work there already, as job {job_id}, with the sources sent then",
            highlight=False,
        )
    try:
        return _follow(client, job_id, console)
    except KeyboardInterrupt:
        console.print(
            f"\nno longer following; the study goes on at {address}. The same command follows it "
            f"again; to stop it: python -m orchestrator.studies stop '{name}'",
            highlight=False,
            soft_wrap=True,
        )
        return 0


def _connect(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests', Ray's own, and RuntimeError for refused tokens
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RemoteError(
            f"--address {address}: no Ray cluster to submit to ({reason}); is the tunnel open "
            "(`ray dashboard cluster.yaml`), and is the cluster's token in ~/.ray/auth_token, with "
            "RAY_AUTH_MODE=token?"
        ) from None


def _job_name(study: str, purpose: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", study)
    return f"{name}-{purpose}-{time.strftime('%Y%m%d-%H%M%S')}"


def _at_work(client: JobSubmissionClient, name: str) -> JobDetails | None:
    """The job that trains the study, if any."""
    jobs: list[JobDetails] = client.list_jobs()
    for job in jobs:
        told = job.metadata or {}
        trains = told.get(_STUDY) == name and told.get(_PURPOSE) != "plan"
        if trains and job.status in _STILL_AT_WORK:
            return job
    return None


@contextmanager
def _parcel(document: str, modules: Sequence[ModuleType]) -> Iterator[Path]:
    """A directory with everything that travels."""
    with tempfile.TemporaryDirectory(prefix="study-") as temporary:
        directory = Path(temporary)
        (directory / _STUDY_FILE).write_text(document, encoding="utf-8")
        for module in (models, pipelines, orchestrator, *modules):
            if hasattr(module, "__path__"):
                source = Path(next(iter(module.__path__)))
                shutil.copytree(source, directory / source.name, ignore=_SOURCES)
            else:
                shutil.copy(inspect.getfile(module), directory)
        yield directory


def _follow(client: JobSubmissionClient, job_id: str, console: Console) -> int:
    """Print what the job prints until it ends; its exit status. Raises RemoteError."""

    async def show() -> None:
        async for text in client.tail_job_logs(job_id):
            console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    try:
        asyncio.run(show())
        info = client.get_job_info(job_id)
        while info.status in _STILL_AT_WORK:  # the log ends a moment before the job does
            time.sleep(0.5)
            info = client.get_job_info(job_id)
    except Exception as error:  # aiohttp's, requests' and Ray's own
        raise RemoteError(
            f"the connection to job {job_id} was lost ({error}); the study goes on there, and the "
            "same command follows it again"
        ) from None
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status != JobStatus.SUCCEEDED:
        raise RemoteError(f"job {job_id} ended as {info.status}: {info.message}")
    return 0


def check_before_submit(study: Study, arguments: Sequence[str]) -> None:
    """Raises RemoteError for places that only this machine sees, DatasetError for a key or password
    in an address.

    arguments: the command line's that go with the study.
    """
    for text in (*_strings(yaml.safe_load(study.resolved)), *arguments):
        check_no_secret(text)
    found: dict[str, set[str]] = {}
    for trial in study.trials:
        training = trial.experiment.training
        for key, place in (
            ("data.dataset", trial.experiment.data.dataset),
            ("training.backbone_weights", training.backbone_weights),
            ("training.init", training.init),
        ):
            if place is not None and _is_local(place):
                found.setdefault(key, set()).add(place)
    if found:
        raise RemoteError("\n".join(_told(key, sorted(found[key])) for key in found))


def _is_local(place: str) -> bool:
    """Whether a place is a path that means another thing, or nothing, on another machine."""
    everywhere = place == EMBEDDED or "://" in place or place.startswith(_LEDGER_URIS)
    return not everywhere and not PurePosixPath(place).is_absolute()


def _told(key: str, places: Sequence[str]) -> str:
    there = [f"s3://BUCKET/{place.lstrip('./~')}" for place in places]
    # With several, one value of the command line would win over what the study says of each.
    how = f"--set {key}={there[0]}" if len(there) == 1 else f"{', '.join(there)} in the study file"
    return (
        f"{key}: the cluster's machines do not see {', '.join(places)}, a path of this machine; "
        f"put what is there into the bucket, or where all see it, and name that place: {how}"
    )


def _strings(value: Any) -> Iterator[str]:
    """All that is text in a document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)

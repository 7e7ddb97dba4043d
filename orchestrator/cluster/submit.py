"""Submits a study as a Ray job through the cluster's dashboard, and follows its output.

The job's process runs on the head node. The job contains the study resolved into one file, this
project's sources as they are on this machine, and the user's own modules. It contains no
credentials; the cluster's machines have their own. Checks before the submission: the study and the
options contain no secrets, and only paths that the cluster can read.
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
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

from models.hugging_face.configuration import is_saved
from orchestrator.cluster.address import RemoteError, given
from orchestrator.study.import_closure import PROJECT_PACKAGES
from orchestrator.study.study import Study
from pipelines.config import load_yaml
from pipelines.data.storage import check_no_secret
from pipelines.network.published_weights import PUBLISHED_WEIGHTS
from pipelines.preparation.embedded import EMBEDDED
from pipelines.wording import cause, option

# Keys of a job's metadata.
_STUDY = "study"
_PURPOSE = "purpose"  # "plan" or "train"
_DIGEST = "digest"  # of the study and the command

_STUDY_FILE = "study.yaml"
_NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")

# The trials of a stopped job write checkpoints first; by default Ray kills it after 3 seconds.
_STOP_SECONDS = "300"

_ACTIVE = (JobStatus.PENDING, JobStatus.RUNNING)
_MLFLOW_SCHEMES = ("runs:/", "models:/")


def submit_study(
    name: str,
    document: str,
    modules: Sequence[ModuleType],
    arguments: Sequence[str],
    address: str,
    storage: str,
    console: Console,
) -> int:
    """Submit a study to the cluster at `address`, or find its running job, and print the job's
    output until it ends. Return the exit status of the study's command.

    name: of the study.
    document: the study resolved into one file.
    modules: the user's own.
    arguments: options of the command that apply to the study.
    storage: path or URI, as the cluster's machines see it.

    A plan is always a new job. Raises RemoteError, also if the study's running job has another
    document or other arguments.
    """
    if "://" not in storage and not storage.startswith("/"):
        raise RemoteError(
            f"{option('storage')} {storage} is relative to the job's temporary directory; use "
            "storage that "
            "all machines of the cluster share, such as s3://BUCKET/storage or /shared/storage"
        )
    command = ["python", "-m", "orchestrator.sweep", _STUDY_FILE, *arguments]
    command += ["--storage", storage, "--address", "auto"]
    digest = hashlib.sha256(json.dumps([document, command]).encode()).hexdigest()
    purpose = "plan" if "--plan" in arguments else "train"
    client = _connect(address)
    with _dashboard_errors(address):
        running = None if purpose == "plan" else _running_job(client, name)
    if running is None:
        with _working_directory(document, modules) as directory, _dashboard_errors(address):
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
        job_id = str(running.submission_id)
        if (running.metadata or {}).get(_DIGEST) != digest:
            raise RemoteError(
                f"{name} is already running as job {job_id}, from another file or with other "
                f"options. To follow it: ray job logs {job_id} --follow --address {address}; to "
                f"replace it, first stop it: orchestrator studies stop '{name}'"
            )
        console.print(
            f"{name} is already running as job {job_id}, with the sources submitted then",
            highlight=False,
        )
    try:
        return _follow(client, job_id, console)
    except KeyboardInterrupt:
        console.print(
            f"\nno longer following; the study continues at {address}. Rerun the command to follow "
            f"it again; to stop it: orchestrator studies stop '{name}'",
            highlight=False,
            soft_wrap=True,
        )
        return 0


def _connect(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # of requests and Ray
        host = urlsplit(address).hostname or ""
        proxied = getproxies().get(urlsplit(address).scheme) and not proxy_bypass(host)
        proxy = f"; the environment sets a proxy, which NO_PROXY={host} bypasses" if proxied else ""
        advice = "the tunnel is open (`ray dashboard cluster.yaml`)"
        if isinstance(error, AuthenticationError):
            advice = "the cluster's token is in ~/.ray/auth_token, and RAY_AUTH_MODE=token is set"
        raise RemoteError(
            f"{given(address)}: cannot connect to a Ray dashboard "
            f"({cause(error)}{proxy}). Check that {advice}"
        ) from None


@contextmanager
def _dashboard_errors(address: str) -> Iterator[None]:
    """Within this context, turn a request that fails into a RemoteError."""
    try:
        yield
    except Exception as error:  # of requests, and RuntimeError for what the dashboard refuses
        raise RemoteError(
            f"{given(address)}: the Ray dashboard refused the study or did not answer "
            f"({cause(error)}). Check that the tunnel is still open and the cluster has room for "
            "the study's files; then rerun the same command: it finds the job if there is one"
        ) from error


def _job_name(study: str, purpose: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", study)
    return f"{name}-{purpose}-{time.strftime('%Y%m%d-%H%M%S')}"


def _running_job(client: JobSubmissionClient, name: str) -> JobDetails | None:
    """Return the pending or running job that trains the study, if any."""
    jobs: list[JobDetails] = client.list_jobs()
    for job in jobs:
        metadata = job.metadata or {}
        trains = metadata.get(_STUDY) == name and metadata.get(_PURPOSE) != "plan"
        if trains and job.status in _ACTIVE:
            return job
    return None


@contextmanager
def _working_directory(document: str, modules: Sequence[ModuleType]) -> Iterator[Path]:
    """Create the job's working directory: the study file, this project and the user's modules."""
    with tempfile.TemporaryDirectory(prefix="study-") as temporary:
        directory = Path(temporary)
        (directory / _STUDY_FILE).write_text(document, encoding="utf-8")
        for module in (*map(import_module, PROJECT_PACKAGES), *modules):
            if hasattr(module, "__path__"):
                source = Path(next(iter(module.__path__)))
                shutil.copytree(source, directory / source.name, ignore=_NOT_SOURCES)
            else:
                shutil.copy(inspect.getfile(module), directory)
        yield directory


def _follow(client: JobSubmissionClient, job_id: str, console: Console) -> int:
    """Print the job's output until it ends. Return its exit status. Raises RemoteError."""

    async def show() -> None:
        async for text in client.tail_job_logs(job_id):
            console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    try:
        asyncio.run(show())
        info = client.get_job_info(job_id)
        while info.status in _ACTIVE:  # the log ends a moment before the job does
            time.sleep(0.5)
            info = client.get_job_info(job_id)
    except Exception as error:  # of aiohttp, requests and Ray
        raise RemoteError(
            f"the connection to job {job_id} was lost ({cause(error)}). The study continues; rerun "
            "the command to follow it again"
        ) from None
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status != JobStatus.SUCCEEDED:
        raise RemoteError(f"job {job_id} ended with status {info.status}: {info.message}")
    return 0


def check_before_submit(study: Study, arguments: Sequence[str]) -> None:
    """Raise RemoteError for local paths that the cluster cannot read, and DatasetError for a key or
    password in a URI.

    arguments: options of the command that apply to the study.
    """
    for text in (*_strings(load_yaml(study.resolved)), *arguments):
        check_no_secret(text)
    local: dict[str, set[str]] = {}
    for trial in study.trials:
        training = trial.experiment.training
        for key, location in (
            ("data.dataset", trial.experiment.data.dataset),
            ("training.backbone_weights", training.backbone_weights),
            ("training.init", training.init),
        ):
            if location is not None and _is_local(location):
                local.setdefault(key, set()).add(location)
    for text in _strings(load_yaml(study.resolved)):
        if text.startswith(("hf:.", "hf:~")):
            local.setdefault("model", set()).add(text)
    if local:
        raise RemoteError("\n".join(_unreadable(key, sorted(local[key])) for key in local))


def _is_local(location: str) -> bool:
    """Whether a location is a path that other machines resolve differently or not at all."""
    if location == EMBEDDED or location in PUBLISHED_WEIGHTS or is_saved(location):
        return False
    if "://" in location or location.startswith(_MLFLOW_SCHEMES):
        return False
    return not PurePosixPath(location).is_absolute()


def _unreadable(key: str, paths: Sequence[str]) -> str:
    copies = [f"s3://BUCKET/{path.lstrip('./~')}" for path in paths]
    # An override would replace all of several values by one.
    use = (
        f"{option('set')} {key}={copies[0]}"
        if len(copies) == 1
        else f"{', '.join(copies)} in the study"
    )
    problem, it = ("is a local path", "it") if len(paths) == 1 else ("are local paths", "them")
    return (
        f"{key}: {', '.join(paths)} {problem} that the cluster cannot read. Copy {it} to the "
        f"bucket (or shared storage) and use: {use}"
    )


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a document, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)

"""Causes and retries of failed trials, by the exceptions that Ray and torch raise."""

import pytest
import torch
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from orchestrator.training.diagnosis import classify, diagnose
from orchestrator.training.failures import Attempts, Cause, Failure
from pipelines.data.manifest import DatasetError
from pipelines.evaluation.inference import NonFiniteLogitsError
from pipelines.network.build import NetworkError
from pipelines.training.distributed import RankMismatchError
from pipelines.training.loop import NonFiniteLossError

LOST_NODE = ActorDiedError.__new__(ActorDiedError)
RayActorError.__init__(LOST_NODE, "1", "The actor died because its node has died.")
KILLED = ActorDiedError.__new__(ActorDiedError)
RayActorError.__init__(
    KILLED,
    "1",
    "The actor is dead because its worker process has died. Some common causes include: (1) the "
    "process was killed by the OOM killer. If so (verifiable by checking for OOM in dmesg of the "
    "OOMing node), consider --enable-resource-isolation to prevent node deaths.",
)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"),
            "error",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "GPU fault"),
        (RuntimeError("CUDA error: unknown error"), "GPU fault"),
        (RuntimeError("CUDA error: device-side assert triggered"), "error"),
        (OutOfMemoryError("killed due to the node running low on memory."), "out of memory"),
        (NonFiniteLossError("loss nan in epoch 1"), "non-finite loss"),
        (NonFiniteLogitsError("the network predicts NaN"), "non-finite loss"),
        (DatasetError("shard.parquet: damaged"), "data"),
        (NetworkError("network a:B: failed"), "network"),
        (ValueError("a bug"), "error"),
        (NodeDiedError("gone"), "lost node"),
        (LOST_NODE, "lost node"),
        (KILLED, "lost worker"),
        (RayActorError("1", "gone", preempted=True), "preemption"),
        (PreemptionError(PreemptionInfo(None, {"node": [0]})), "preemption"),
        (WorkerCrashedError(), "lost worker"),
        (RankMismatchError("worker 1 is about to train something else"), "lost worker"),
        (WorkerHealthCheckTimeoutError("silent"), "lost worker"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer"), "lost worker"),
        (RuntimeError("NCCL error: remote process exited"), "lost worker"),
    ],
)  # fmt: skip
def test_every_exception_has_one_cause(error: Exception, cause: Cause) -> None:
    assert classify(error) == cause


def test_failed_worker_determines_the_cause_for_its_peers() -> None:
    group = WorkerGroupError(
        "two workers failed",
        {
            0: UserExceptionWithTraceback(RuntimeError("gloo: connection reset"), "..."),
            1: UserExceptionWithTraceback(
                torch.OutOfMemoryError("CUDA out of memory\nmore"), "..."
            ),
        },
    )
    assert diagnose(group) == Failure("out of memory", "OutOfMemoryError: CUDA out of memory")


def test_cause_is_found_behind_a_failed_health_check() -> None:
    group = WorkerGroupError("", {0: WorkerHealthCheckFailedError("failed", LOST_NODE)})
    assert diagnose(group).cause == "lost node"
    assert diagnose(ControllerError(ValueError("odd"))).cause == "lost worker"


def test_reproducible_failures_are_not_retried() -> None:
    causes: tuple[Cause, ...] = ("out of memory", "non-finite loss", "data", "network", "error")
    for cause in causes:
        assert not Attempts(9).retry_after(Failure(cause, ""))


def test_retries_are_limited_for_lost_workers_but_not_for_lost_nodes() -> None:
    attempts = Attempts(2)
    for cause in ("preemption", "lost node", "lost worker") * 2:
        assert attempts.retry_after(Failure(cause, ""))  # type: ignore[arg-type]
    assert attempts.retry_after(Failure("lost node", ""))
    assert not attempts.retry_after(Failure("lost worker", ""))
    assert attempts.counted == 3

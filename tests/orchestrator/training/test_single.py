"""A process that trains one trial after the other, without Ray."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from orchestrator.training import single
from orchestrator.training.diagnosis import diagnose
from orchestrator.training.failures import EditedCodeError
from orchestrator.training.job import Job
from orchestrator.training.single import check_sources
from tests.support.jobs import cpu_job, cpu_task


@pytest.fixture
def own_module(user_module: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a user's module."""
    file = user_module("edited_while_training", "WIDTH = 8\n")
    monkeypatch.delitem(sys.modules, file.stem, raising=False)
    return file


def test_process_refuses_a_trial_after_its_sources_were_edited(own_module: Path) -> None:
    imports = (own_module.stem,)
    task = cpu_task(imports=imports)
    check_sources(task)
    check_sources(task)
    own_module.write_text("WIDTH = 16\n")
    os.utime(own_module, ns=(0, 0))  # a coarse clock may give both versions the same time
    with pytest.raises(EditedCodeError, match=r"edited_while_training\.py was edited") as caught:
        check_sources(task)
    failure = diagnose(caught.value)
    assert failure.cause == "edited code"
    assert failure.uncounted


def job(directory: Path) -> Job:
    task = cpu_task(output=str(directory))
    return cpu_job(task, resources={}, storage=str(directory))


@pytest.fixture
def without_preemption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    single._preemption_watcher.cache_clear()


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(0), KeyboardInterrupt()])
def test_exit_of_user_code_is_an_error_of_the_training(
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_preemption: None,
) -> None:
    def train(*_: Any) -> bool:
        raise error

    monkeypatch.setattr(single, "train_task", train)
    with pytest.raises(single.ExitRequestError) as caught:
        single.train_single_worker(job(tmp_path))
    failure = diagnose(caught.value)
    assert failure.cause == "error"
    assert repr(error) in failure.message


def test_training_that_fails_after_tune_stopped_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_preemption: None
) -> None:
    """A second report would wait forever, and with it the next trial of the process."""

    def train(
        task: Any, run: Any, device: Any, last: Any, reports: single.ReportsToTune, *_: Any
    ) -> bool:
        reports._last = Future()
        threading.Timer(0.1, reports._last.set_exception, [SystemExit(0)]).start()
        raise RuntimeError("loss is not finite")

    monkeypatch.setattr(single, "train_task", train)
    with pytest.raises(SystemExit):
        single.train_single_worker(job(tmp_path))

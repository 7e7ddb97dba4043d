"""Copies of metrics, read by the programs they are for."""

import importlib.util
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from orchestrator.console import InputError
from orchestrator.study.mirrors import MirrorOptions, WandbOptions
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.sweep.mirrors import Mirrors, check_mirrors
from tests.support.planned_study import resolved, write_planned_study

RUN_IDS = ("1f" * 16, "2e" * 16)


@pytest.fixture(scope="module")
def trials(
    tmp_path_factory: pytest.TempPathFactory, small_streets: Path
) -> tuple[ResolvedTrial, ResolvedTrial]:
    file = write_planned_study(tmp_path_factory.mktemp("study"), small_streets)
    _, (first, second, *_) = resolved(file)
    return first, second


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a run: steps and values by name."""
    accumulator = EventAccumulator(str(directory)).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def wandb_records(file: Path) -> list[Any]:
    """Return the records that `wandb sync` would upload.

    The format is LevelDB's log: blocks of 32 KiB; each part of a record has a header of 7 bytes
    (checksum, length, and whether it is the whole, first, middle or last part).
    """
    content = file.read_bytes()
    records, parts, position = [], b"", 7  # after W&B's own header
    while position < len(content):
        if (rest := 2**15 - position % 2**15) < 7:
            position += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_tensorboard_shows_every_epoch_once_after_a_resume(
    tmp_path: Path, trials: tuple[ResolvedTrial, ResolvedTrial]
) -> None:
    options = MirrorOptions(tensorboard=str(tmp_path / "events"))
    check_mirrors(options)
    for epochs in ((1, 2), (3,)):  # two commands
        mirrors = Mirrors(options, "a study", pytest.fail)
        for epoch in epochs:
            for trial, run_id in zip(trials, RUN_IDS, strict=True):
                mirrors.log(trial, run_id, {"epoch": epoch, "val/miou": 0.25 * epoch})
        mirrors.close()
    for trial, run_id in zip(trials, RUN_IDS, strict=True):
        shown = scalars(tmp_path / "events" / "a study" / trial.name / run_id[:8])
        assert shown["val/miou"] == [(1, 0.25), (2, 0.5), (3, 0.75)]


@pytest.mark.slow
def test_wandb_run_has_the_experiment_and_every_epoch(
    tmp_path: Path,
    trials: tuple[ResolvedTrial, ResolvedTrial],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for hook in ("exit", "excepthook"):  # the library replaces them for the whole process
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    options = MirrorOptions(wandb=WandbOptions("flows"))
    check_mirrors(options)
    mirrors = Mirrors(options, "a study", pytest.fail)
    for epoch in (1, 2):
        for trial, run_id in zip(trials, RUN_IDS, strict=True):
            mirrors.log(trial, run_id, {"epoch": epoch, "val/miou": 0.25 * epoch})
    mirrors.end(RUN_IDS[0], True)
    mirrors.close()
    assert capfd.readouterr().out == ""
    for trial, run_id, exit_code in zip(trials, RUN_IDS, (0, 1), strict=True):
        (file,) = tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
        until = time.monotonic() + 60  # the library's own process writes the end of the file
        while not any(record.HasField("exit") for record in wandb_records(file)):
            assert time.monotonic() < until, "the file has no end"
            time.sleep(0.1)
        records = wandb_records(file)
        (run,) = [record.run for record in records if record.HasField("run")]
        assert (run.display_name, run.run_group, run.project) == (trial.name, "a study", "flows")
        assert "backbone" in str(run.config)
        history = [record.history for record in records if record.HasField("history")]
        values = [
            {".".join(item.nested_key) or item.key: item.value_json for item in entry.item}
            for entry in history
        ]
        assert [(entry["epoch"], entry["val/miou"]) for entry in values] == [
            ("1", "0.25"),
            ("2", "0.5"),
        ]
        (end,) = [record.exit for record in records if record.HasField("exit")]
        assert end.exit_code == exit_code


def test_failing_copy_is_reported_once_and_left_out(
    tmp_path: Path, trials: tuple[ResolvedTrial, ResolvedTrial]
) -> None:
    (tmp_path / "events").write_text("a file where a folder is needed")
    lines: list[str] = []
    mirrors = Mirrors(MirrorOptions(tensorboard=str(tmp_path / "events")), "study", lines.append)
    for epoch in (1, 2):
        mirrors.log(trials[0], RUN_IDS[0], {"epoch": epoch, "val/miou": 0.5})
    mirrors.close()
    (line,) = lines
    assert line.startswith("no more metrics are copied to TensorBoard (")
    assert line.endswith("; MLflow holds all of them")


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_upload_that_never_ends_is_a_warning(
    end: str, trials: tuple[ResolvedTrial, ResolvedTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[wandb.Settings] = []
    is_finishing, has_network = threading.Event(), threading.Event()

    class Run:
        def log(self, metrics: dict[str, float], step: int) -> None:
            pass

        def finish(self, exit_code: int) -> None:
            is_finishing.set()
            has_network.wait()

    def init(settings: wandb.Settings, **options: Any) -> Run:
        given.append(settings)
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr("orchestrator.sweep.mirrors._CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("orchestrator.sweep.mirrors._CANCEL_SECONDS", 0.2)
    lines: list[str] = []
    mirrors = Mirrors(MirrorOptions(wandb=WandbOptions("flows", mode="online")), "s", lines.append)
    mirrors.log(trials[0], RUN_IDS[0], {"epoch": 1, "val/miou": 0.5})
    mirrors.end(RUN_IDS[0], True)
    is_finishing.wait()
    getattr(mirrors, end)()
    has_network.set()
    (settings,) = given
    assert (settings.finish_timeout, settings.finish_timeout_raises) == (60, True)
    (line,) = lines
    assert line.startswith("no more metrics are copied to Weights & Biases (it did not end within")


def test_copies_that_cannot_be_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"mirror\.tensorboard is .*file/events"):
        check_mirrors(MirrorOptions(tensorboard=str(tmp_path / "file" / "events")))
    with pytest.raises(ValueError, match="must be a directory of this machine"):
        MirrorOptions(tensorboard="s3://bucket/events")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install wandb"):
        check_mirrors(MirrorOptions(wandb=WandbOptions("flows")))

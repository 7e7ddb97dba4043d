"""A study whose output goes to a disk that fills up."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.mounts import small_disk
from tests.support.sweep_command import command, runs, studies_command, wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    with small_disk(tmp_path / "disk", "64k") as mounted:
        yield mounted


@pytest.mark.slow
def test_study_continues_without_its_output(study: Path, disk: Path) -> None:
    log = disk / "log.txt"
    line = command(study, "--no-preflight")
    with log.open("ab") as file, (study.parent / "errors").open("w+") as errors:
        process = subprocess.Popen(line, stdout=file, stderr=errors)
        try:
            wait_for(lambda: "epoch 1/3" in log.read_text(), 120)
            with suppress(OSError), log.open("ab", buffering=0) as filler:
                while True:
                    filler.write(bytes(1000))
            assert process.wait(600) == 0
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        assert errors.read() == (
            f"warning: standard output ({log}) cannot be written: No space left on device; "
            "the study continues; see `orchestrator studies status`\n"
        )
    (parent,), trials, _ = runs(study)
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in trials.values()} == {"FINISHED"}

    for short in (studies_command(study, "list"), command(study, "--plan")):
        with open("/dev/full", "w") as full:
            completed = subprocess.run(short, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (completed.returncode, completed.stderr) == (
            1,
            "error: standard output (/dev/full) cannot be written: No space left on device\n",
        )

"""A study under random faults has the records of an undisturbed one, bit for bit; the short form of
`python -m tests.support.soak`."""

from pathlib import Path

import pytest

from tests.support import soak

KINDS = ("driver", "server", "worker")  # the order decides what a seed means


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_disturbed_study_has_the_records_of_an_undisturbed_one(tmp_path: Path) -> None:
    # With this seed, the command is asked to stop, then a worker is killed, then the server, each
    # soon after an epoch has ended.
    options = ["--faults", "3", "--seed", "2566", "--variants", "2", "--seeds", "1"]
    options += ["--epochs", "20", "--directory", str(tmp_path)]
    assert soak.main([*options, "--kinds", *KINDS]) == 0
    faults = (tmp_path / "faults.txt").read_text()
    assert all(kind in faults for kind in KINDS)

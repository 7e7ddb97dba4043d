"""The user's own file and line in the message of a failed trial."""

import importlib
from pathlib import Path

import pytest
from ray import cloudpickle

from orchestrator.training.diagnosis import diagnose
from orchestrator.training.failures import user_line
from orchestrator.training.worker_logs import captured_output
from pipelines.network.build import NetworkError

MODULE = """\
import json

def fail():
    raise ValueError("the user's fault")

def fail_in_library():
    json.loads("{")
"""


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a module `user_networks.blocks` of the user."""
    package = tmp_path / "src" / "user_networks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(package.parent)
    return importlib.import_module("user_networks.blocks")


def error_of(function: object) -> Exception:
    try:
        function()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError


def test_last_line_of_the_user_counts(blocks: object) -> None:
    assert user_line(error_of(blocks.fail)) == "user_networks/blocks.py, line 4"  # type: ignore[attr-defined]
    library = error_of(blocks.fail_in_library)  # type: ignore[attr-defined]
    assert user_line(library) == "user_networks/blocks.py, line 7"
    assert user_line(ValueError("never raised")) == ""


def test_line_of_the_cause_counts_and_travels_to_the_command(
    blocks: object, tmp_path: Path
) -> None:
    def build() -> None:
        try:
            blocks.fail()  # type: ignore[attr-defined]
        except ValueError as error:
            raise NetworkError("network user_networks:Net cannot be built") from error

    with pytest.raises(NetworkError) as caught, captured_output(str(tmp_path / "output.log")):
        build()
    received = cloudpickle.loads(cloudpickle.dumps(caught.value))
    assert received.__traceback__ is None
    assert diagnose(received).message == (
        "NetworkError: network user_networks:Net cannot be built (user_networks/blocks.py, line 4)"
    )

"""What a command imports before it has parsed its arguments, or reported a broken study.

Imports are what a user waits for: torch and MLflow take seconds each.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import COMMANDS
from tests.support import ROOT

pytestmark = pytest.mark.slow  # a process for each command

_RICH = {"rich", "markdown_it", "mdurl", "pygments"}
_READERS = {"numpy", "PIL", "yaml", "_yaml"}
_STUDY = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}

# By command: the libraries that it may import to parse its arguments.
PARSING = {
    "orchestrator": set(),
    "orchestrator.init": _RICH | {"yaml", "_yaml"},
    "orchestrator.sweep": _RICH,
    "orchestrator.report": _RICH,
    "orchestrator.studies": _RICH,
    "orchestrator.server": _RICH | {"cloudpickle", "numpy", "pyarrow"},
    "orchestrator.bundle": _RICH,
    "orchestrator.evaluate": _RICH,
    "orchestrator.predict": _RICH | _READERS,
    "orchestrator.figures": _RICH,
    "orchestrator.export": _RICH,
    "pipelines.prepare": _READERS,
    "pipelines.train": set(),
    "models.profile": set(),
}

# Runs a command in this interpreter and prints the top-level modules that are loaded at its end.
_PROGRAM = """
import runpy, sys
before = set(sys.modules)
sys.argv = sys.argv[1].split()  # one word: tests outside e2e/ must not start a sweep
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as exit:
    status = exit.code
loaded = {name.partition(".")[0] for name in sys.modules.keys() - before}
print("status", status, *sorted(loaded))
"""


def run(*arguments: str, cwd: Path | None = None) -> tuple[int, set[str]]:
    """Run a command; return its exit status and the libraries that it imported."""
    line = [sys.executable, "-c", _PROGRAM, " ".join(arguments)]
    output = subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=True).stdout
    _, status, *loaded = output.splitlines()[-1].split()
    own = {"models", "orchestrator", "pipelines", "namesakes"}
    # Compiled modules are listed under names of their own, such as `_cython_3_1_4`.
    compiled = {name for name in loaded if name.startswith(("_cython", "cython_runtime"))}
    return int(status), set(loaded) - set(sys.stdlib_module_names) - own - compiled


def test_every_command_is_listed() -> None:
    modules = {module.removesuffix(".__main__") for module, _ in COMMANDS.values()}
    assert PARSING.keys() == {"orchestrator"} | modules


@pytest.mark.parametrize("option", ["--help", "--no-such-option"])
@pytest.mark.parametrize("command", PARSING)
def test_arguments_are_parsed_before_libraries_are_imported(command: str, option: str) -> None:
    status, libraries = run(command, option)
    assert status == (0 if option == "--help" else 2)
    assert libraries <= PARSING[command]


def test_help_of_an_own_reader_needs_no_other_libraries() -> None:
    status, libraries = run("pipelines.prepare", "examples.fields:Fields", "--help", cwd=ROOT)
    assert status == 0
    assert libraries - {"examples"} <= PARSING["pipelines.prepare"]


BROKEN = {
    "syntax": "study: [\n",
    "key": "study: s\nvariants: {a: {}}\nbase: {training: {epochz: 3}}\n",
    "value": "study: s\nvariants: {a: {set: {model.backbone: resnet19}}}\n",
    "limits": "study: s\nvariants: {a: {}}\nresources: {workers: none}\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("command", ["orchestrator.sweep", "orchestrator.report"])
def test_broken_study_is_reported_without_training_libraries(
    command: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(text)
    status, libraries = run(command, "study.yaml", cwd=tmp_path)
    assert status == 2
    assert not libraries & {"torch", "ray", "mlflow", "pandas", "scipy", "matplotlib", "kornia"}
    assert libraries >= _STUDY


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("orchestrator.sweep.run", {"ray", "kornia", "torchmetrics", "matplotlib"}),
        ("orchestrator.sweep.controller", {"kornia", "torchmetrics"}),
        ("orchestrator.evaluation.scoring", {"kornia", "torchmetrics", "mlflow", "matplotlib"}),
        ("orchestrator.studies.commands", {"ray", "torch", "matplotlib", "kornia"}),
    ],
)
def test_commands_do_not_load_libraries_that_their_workers_need(
    module: str, unwanted: set[str]
) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not unwanted & set(loaded.stdout.split())

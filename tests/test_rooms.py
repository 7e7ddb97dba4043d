"""Which room may import what; the directions of the design, held."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "pipelines", "orchestrator")


def imported(file: Path) -> set[str]:
    """The absolute module names a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("file", files("models"), ids=str)
def test_models_need_torch_alone(file: Path) -> None:
    assert packages(file) - set(sys.stdlib_module_names) <= {"torch", "models"}


@pytest.mark.parametrize("file", files("pipelines"), ids=str)
def test_pipelines_know_no_scheduler_and_no_tracker(file: Path) -> None:
    assert not packages(file) & {"ray", "mlflow", "pydantic", "orchestrator"}


@pytest.mark.parametrize(
    ("package", "home"),
    [("kornia", "pipelines/augmentation.py"), ("mlflow", "orchestrator/ledger/")],
)
def test_a_library_has_one_home(package: str, home: str) -> None:
    """A module, or one small package whose name ends in a slash."""
    users = [f for room in ROOMS for f in files(room) if package in packages(f)]
    paths = [file.relative_to(ROOT).as_posix() for file in users]
    assert paths
    assert all(path == home or (home.endswith("/") and path.startswith(home)) for path in paths)


def test_no_module_imports_itself_in_a_circle() -> None:
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for room in ROOMS
        for f in files(room)
    }
    edges = {name: imported(file) & modules.keys() - {name} for name, file in modules.items()}
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in finished:
            return
        for inner in edges[name]:
            # A package's __init__ gathers its modules; they may name the package's siblings.
            if not (path and inner == name.rpartition(".")[0]):
                visit(inner, (*path, name))
        finished.add(name)

    for name in modules:
        visit(name, ())


def test_a_plan_waits_for_no_library_that_only_training_needs() -> None:
    late = {"ray", "torchmetrics", "matplotlib"}
    code = "import sys, orchestrator.sweep; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not late & set(told.stdout.split())


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "helpers", "misc", "common"}
    assert not [file for room in ROOMS for file in files(room) if file.stem in vague]

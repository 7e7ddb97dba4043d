"""Which package may import which: the directions of the architecture, held."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "pipelines", "orchestrator")

# By package or module: what it may import of its own room. Whoever is listed later may import who
# is listed earlier, never the other way round; docs/architecture.md shows the same table.
ALLOWED: dict[str, dict[str, set[str]]] = {
    "pipelines": {
        "namesakes": set(),
        "errors": set(),
        "machine": set(),
        "config": {"errors"},
        "data": {"errors"},
        "network": {"errors", "data"},
        "preparation": {"errors", "machine", "config", "data"},
        "evaluation": {"errors", "data", "network"},
        "figures": {"errors", "data", "network", "evaluation"},
        "training": {"errors", "machine", "config", "data", "network", "evaluation", "figures"},
        "serving": {"config", "data", "evaluation", "network"},
        "model_directory": {"data", "network", "training", "serving"},
        "submission": {"errors", "data", "preparation"},
        "prepare": {"errors", "machine", "data", "preparation", "training"},
        "train": {
            *("errors", "config", "data", "network", "evaluation", "preparation", "training"),
            "model_directory",
        },
    },
    "orchestrator": {
        "namesakes": set(),
        "console": set(),
        "storage": set(),
        "context": {"console", "storage"},
        "study": set(),
        "tracking": {"study", "storage"},
        "scheduling": {"study"},
        "cluster": {"study", "scheduling", "storage"},
        "planning": {"study", "tracking", "scheduling", "context"},
        "training": {"study", "scheduling", "cluster", "storage"},
        "preflight": {
            *("study", "scheduling", "planning", "cluster", "training", "context", "storage"),
        },
        "evaluation": {"study", "tracking", "scheduling", "cluster", "storage", "console"},
        "report": {"study", "tracking", "evaluation.records", "console"},
        "sweep": {
            *("console", "storage", "context", "study", "tracking", "scheduling", "cluster"),
            *("planning", "training", "preflight", "evaluation", "report"),
        },
        "evaluate": {"study", "tracking", "evaluation", "console"},
        "predict": {"study", "tracking", "evaluation", "console"},
        "figures": {"study", "tracking", "evaluation", "console"},
        "studies": {"study", "tracking", "storage", "console", "sweep", "training.worker_logs"},
        "init": {"console"},
        "__main__": set(),  # imports each command when it runs
    },
}

# Libraries that only some places may import: packages end in a slash.
HOMES = {
    "kornia": ["pipelines/data/augmentation.py"],
    "torchmetrics": ["pipelines/evaluation/"],
    "mlflow": ["orchestrator/tracking/"],
    "pydantic": ["orchestrator/study/"],
    "jinja2": ["orchestrator/report/"],
    "scipy": ["pipelines/figures/", "orchestrator/planning/", "orchestrator/report/"],
    "ray": [
        "orchestrator/cluster/",
        "orchestrator/training/",
        "orchestrator/preflight/",
        "orchestrator/evaluation/scoring.py",
    ],
}

# Thin on purpose: Ray imports `worker_setup` in every worker process, `prefetch` and
# `normalization` must not import what their neighbors need, and a config is read without torch.
THIN = {
    "orchestrator/cluster/worker_setup.py",
    "pipelines/data/normalization.py",
    "pipelines/data/prefetch.py",
    "pipelines/evaluation/config.py",
    "pipelines/preparation/streets/classes.py",
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for room in ROOMS for file in files(room)}


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


def libraries(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", files("models"), ids=str)
def test_models_import_torch_alone(file: Path) -> None:
    assert libraries(file) - set(sys.stdlib_module_names) <= {"torch", "models"}


@pytest.mark.parametrize("file", files("pipelines"), ids=str)
def test_pipelines_import_nothing_of_the_orchestrator(file: Path) -> None:
    assert not libraries(file) & {"ray", "mlflow", "pydantic", "orchestrator"}


TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_test_files_share_only_what_is_in_support() -> None:
    for file in TEST_FILES:
        shared = {name for name in imported(file) if name.split(".")[0] == "tests"}
        others = [name for name in shared if not f"{name}.".startswith("tests.support.")]
        assert not others, f"{file} imports {others}"


def test_a_conftest_defines_fixtures_only() -> None:
    for file in (file for file in TEST_FILES if file.name == "conftest.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.unparse(node)
                assert text.startswith(("@pytest.fixture", "def pytest_")), (file, node.name)


@pytest.mark.parametrize("room", ROOMS)
def test_folders_of_tests_are_those_of_packages(room: str) -> None:
    folders = {file.parent for file in TEST_FILES if file.is_relative_to(ROOT / "tests" / room)}
    packages = [folder.relative_to(ROOT / "tests") for folder in folders]
    assert packages
    assert not [package for package in packages if not (ROOT / package).is_dir()]


def crossings(room: str) -> Iterator[tuple[str, str, str]]:
    """Each import between two packages of a room: who, from which package, what."""
    for name, file in MODULES.items():
        parts = name.split(".")
        if parts[0] != room or len(parts) == 1:
            continue
        for other in sorted(imported(file) & MODULES.keys()):
            target = other.split(".")
            if target[0] == room and len(target) > 1 and target[1] != parts[1]:
                yield name, parts[1], ".".join(target[1:])


@pytest.mark.parametrize("room", ALLOWED)
def test_packages_import_only_what_the_table_allows(room: str) -> None:
    table = ALLOWED[room]
    present = {name.split(".")[1] for name in MODULES if name.startswith(f"{room}.")}
    assert present == table.keys(), "every package and module at the root has its row"
    wrong = [
        f"{name} imports {room}.{target}"
        for name, package, target in crossings(room)
        if not {target, target.split(".")[0]} & table[package]
        # `from orchestrator.evaluation import records` names the package, too.
        and not any(entry.startswith(f"{target}.") for entry in table[package])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ALLOWED)
def test_the_table_has_no_circle(room: str) -> None:
    seen: set[str] = set()
    for package, allowed in ALLOWED[room].items():
        assert {entry.split(".")[0] for entry in allowed} <= seen, package
        seen.add(package)


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_its_homes(library: str) -> None:
    users = [file for room in ROOMS for file in files(room) if library in libraries(file)]
    paths = [file.relative_to(ROOT).as_posix() for file in users]
    assert paths
    homes = HOMES[library]
    for path in paths:
        assert any(path == home or (home[-1] == "/" and path.startswith(home)) for home in homes)


def test_no_module_imports_itself_in_a_circle() -> None:
    edges = {name: imported(file) & MODULES.keys() - {name} for name, file in MODULES.items()}
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

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize(
    "file", [file for name, file in MODULES.items() if file.name == "__init__.py"], ids=str
)
def test_a_package_face_only_hands_names_on(file: Path) -> None:
    """A docstring that says what the package holds; imports and tables of names at most."""
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    if file.parent.name == "streets":
        return  # its one public function is its face
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    assert all(isinstance(node, kinds) for node in tree.body)


def test_no_module_is_thin_by_accident() -> None:
    thin = {
        file.relative_to(ROOT).as_posix()
        for room in ("pipelines", "orchestrator")
        for file in files(room)
        if file.name != "__init__.py" and len(file.read_text().splitlines()) < 35
    }
    root = {f"{room}/{file.name}" for room in ROOMS for file in (ROOT / room).glob("*.py")}
    assert thin - root == THIN


def test_a_plan_waits_for_no_library_that_only_training_needs() -> None:
    late = {"ray", "torchmetrics", "matplotlib"}
    code = "import sys, orchestrator.sweep.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "orchestrator.sweep.run" in loaded.stdout.split()
    assert not late & set(loaded.stdout.split())


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils", "helpers", "misc", "common"}
    assert not [file for room in ROOMS for file in files(room) if file.stem in vague]

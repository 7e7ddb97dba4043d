"""Check the import rules of the architecture: which package may import which."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_LEVEL = ("models", "pipelines", "orchestrator")

# By package or module: what it may import of the package that holds it. Entries may import earlier
# ones, never later ones; docs/architecture.md shows the same tables.
ALLOWED: dict[str, dict[str, set[str]]] = {
    "pipelines": {
        "namesakes": set(),
        "errors": set(),
        "output": set(),
        "wording": set(),
        "command": {"errors", "output", "wording"},
        "option_types": set(),
        "gpu": set(),
        "machine": set(),
        "device_memory": {"machine"},
        "imports": set(),
        "config": {"errors"},
        "data": {"errors", "wording"},
        "network": {"errors", "wording", "data"},
        "preparation": {"errors", "wording", "option_types", "machine", "config", "data"},
        "figures": {"data"},
        "evaluation": {"errors", "wording", "data", "network"},
        "training": {
            *("errors", "device_memory", "config", "data", "network", "evaluation", "figures"),
        },
        "serving": {"config", "data", "evaluation", "network"},
        "model_directory": {"config", "data", "network", "training", "serving"},
        "submission": {"errors", "data", "preparation"},
        "run_preparation": {"errors", "machine", "data", "preparation", "training"},
        "prepare": {
            *("command", "errors", "option_types", "machine", "imports", "preparation"),
            "run_preparation",
        },
        "run_training": {
            *("errors", "gpu", "config", "data", "network", "evaluation", "preparation"),
            *("training", "model_directory"),
        },
        "train": {"command", "imports", "run_training"},
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
        "report": {"storage", "study", "tracking", "evaluation.records", "console"},
        "sweep": {
            *("console", "storage", "context", "study", "tracking", "scheduling", "cluster"),
            *("planning", "training", "preflight", "evaluation", "report"),
        },
        "studies": {"console", "storage", "study", "tracking", "training", "report", "sweep"},
        "bundle": {"console", "storage", "study", "tracking", "report", "sweep"},
        "evaluate": {"evaluation", "console"},
        "predict": {"evaluation", "console"},
        "figures": {"evaluation", "console"},
        "export": {"evaluation", "console"},
        "views": {"console", "planning", "report"},
        "api": {
            *("console", "storage", "context", "study", "cluster", "planning", "report", "sweep"),
            "views",
        },
        "init": {"console"},
        "server": {"tracking", "console"},
        "__main__": set(),  # imports each command when it runs
    },
    "pipelines.preparation": {
        "images": set(),
        "labels": {"images"},
        "streets": set(),
        "readers": {"images", "labels", "streets"},
        "fetching": {"readers"},
        "contact_sheet": set(),
        "inspection": set(),
        "destination": {"readers"},
        "survey": {"images", "readers"},
        "checking": {"images", "labels", "readers"},
        "worker_pool": {"readers", "checking"},
        "writing": {"images", "labels", "readers", "checking"},
        "prepare_dataset": {
            *("images", "labels", "readers", "destination", "survey", "checking", "worker_pool"),
            "writing",
        },
        "embedded": {"readers", "prepare_dataset"},
    },
    "orchestrator.report": {
        "statistics": set(),
        "rows": {"statistics"},
        "tables": {"statistics", "rows"},
        "notes": {"statistics", "rows", "tables"},
        "charts": {"rows", "tables"},
        "documents": {"rows", "tables", "notes", "charts"},
        "study_report": {"rows", "tables", "charts", "documents"},
        "command": {"study_report"},
        "__main__": {"command"},
    },
}

# Libraries that only some packages or modules may import; packages end in a slash.
ALLOWED_IMPORTERS = {
    "kornia": ["pipelines/data/augmentation.py", "pipelines/data/transforms.py"],
    "timm": ["models/backbones/timm.py"],
    "transformers": ["models/hugging_face/"],
    "huggingface_hub": ["models/hugging_face/", "orchestrator/evaluation/hub.py"],
    "torchmetrics": ["pipelines/evaluation/"],
    "optuna": ["orchestrator/planning/proposals.py"],
    "tifffile": ["pipelines/preparation/images/tiff.py"],
    "mlflow": ["orchestrator/tracking/"],
    "pydantic": ["orchestrator/study/", "orchestrator/bundle/content.py"],
    "jinja2": ["orchestrator/report/documents/"],
    "scipy": ["pipelines/figures/", "orchestrator/report/"],
    "ray": [
        "orchestrator/cluster/",
        "orchestrator/training/",
        "orchestrator/preflight/",
        "orchestrator/evaluation/scoring.py",
    ],
}

# Short on purpose: they must not import what their neighbors need.
SHORT_MODULES = {
    "orchestrator/study/model_cost.py",
    "orchestrator/sweep/budget.py",
    "pipelines/data/normalization.py",
    "pipelines/data/prefetch.py",
    "pipelines/data/seeding.py",
    "pipelines/network/file_names.py",
    "pipelines/preparation/streets/classes.py",
    "orchestrator/sweep/downloads.py",
    "pipelines/training/host_copy.py",
    "pipelines/training/loss_division.py",
}


def files(top_level: str) -> list[Path]:
    return sorted((ROOT / top_level).rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for top_level in TOP_LEVEL for file in files(top_level)}


@functools.cache  # parsing all files takes seconds
def imported(file: Path) -> set[str]:
    """Return the absolute names of all modules that a file imports by statements."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def imported_by_name(file: Path) -> set[str]:
    """Return the names of all modules that a file imports by `import_module("...")`."""
    text = file.read_text()
    if "import_module(" not in text:  # parsing takes time
        return set()
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if ast.unparse(call.func).split(".")[-1] == "import_module"
        and isinstance(call.args[0], ast.Constant)
    }


def libraries(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file) | imported_by_name(file)}


@pytest.mark.parametrize("file", files("models"), ids=str)
def test_models_import_only_torch(file: Path) -> None:
    """Optional libraries are imported by name, so that `models` works without them."""
    statements = {name.split(".")[0] for name in imported(file)}
    assert statements - set(sys.stdlib_module_names) <= {"torch", "models"}
    names = {name.split(".")[0] for name in imported_by_name(file)}
    assert names <= {"timm", "transformers", "huggingface_hub"}


@pytest.mark.parametrize("file", files("pipelines"), ids=str)
def test_pipelines_do_not_import_the_orchestrator(file: Path) -> None:
    assert not libraries(file) & {"ray", "mlflow", "pydantic", "orchestrator"}


TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_test_files_import_only_from_support() -> None:
    for file in TEST_FILES:
        shared = {name for name in imported(file) if name.split(".")[0] == "tests"}
        others = [name for name in shared if not f"{name}.".startswith("tests.support.")]
        assert not others, f"{file} imports {others}"


def test_conftest_defines_only_fixtures() -> None:
    for file in (file for file in TEST_FILES if file.name == "conftest.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.unparse(node)
                assert text.startswith(("@pytest.fixture", "def pytest_")), (file, node.name)


@pytest.mark.parametrize("top_level", TOP_LEVEL)
def test_test_folders_match_the_packages(top_level: str) -> None:
    folders = {
        file.parent for file in TEST_FILES if file.is_relative_to(ROOT / "tests" / top_level)
    }
    packages = [folder.relative_to(ROOT / "tests") for folder in folders]
    assert packages
    assert not [package for package in packages if not (ROOT / package).is_dir()]


def imports_between(holder: str) -> Iterator[tuple[str, str, str]]:
    """Yield each import between two packages or modules in the package `holder`: the importing
    module, its place in `holder`, and the name of the imported module in `holder`.
    """
    start = f"{holder}."
    for name, file in MODULES.items():
        if not name.startswith(start):
            continue
        place = name.removeprefix(start).split(".")[0]
        for other in sorted(imported(file) & MODULES.keys()):
            target = other.removeprefix(start)
            if other.startswith(start) and target.split(".")[0] != place:
                yield name, place, target


@pytest.mark.parametrize("holder", ALLOWED)
def test_packages_import_only_what_the_table_allows(holder: str) -> None:
    table = ALLOWED[holder]
    depth = holder.count(".") + 1
    present = {name.split(".")[depth] for name in MODULES if name.startswith(f"{holder}.")}
    assert present == table.keys(), "every package and module has its row"
    violations = [
        f"{name} imports {holder}.{target}"
        for name, place, target in imports_between(holder)
        if not {target, target.split(".")[0]} & table[place]
        # `from orchestrator.evaluation import records` also imports the package.
        and not any(entry.startswith(f"{target}.") for entry in table[place])
    ]
    assert not violations, "\n".join(violations)


def test_documentation_shows_the_import_tables() -> None:
    documented: dict[str, dict[str, set[str]]] = {holder: {} for holder in ALLOWED}
    importers: dict[str, set[str]] = {}
    section = ""
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if section in documented and line.startswith("| `"):
            allowed = set() if cells[2] == "nothing" else set(cells[2].split(", "))
            documented[section] |= {name.strip("`"): allowed for name in cells[0].split(", ")}
        elif section == "Libraries" and cells[0] in ALLOWED_IMPORTERS:
            importers[cells[0]] = {path.strip("`") for path in cells[1].split(", ")}
    assert documented == ALLOWED
    assert importers == {
        library: {path.rstrip("/") for path in ALLOWED_IMPORTERS[library]}
        for library in ALLOWED_IMPORTERS
    }


@pytest.mark.parametrize("holder", ALLOWED)
def test_table_has_no_cycle(holder: str) -> None:
    earlier: set[str] = set()
    for package, allowed in ALLOWED[holder].items():
        assert {entry.split(".")[0] for entry in allowed} <= earlier, package
        earlier.add(package)


@pytest.mark.parametrize("top_level", [name for name in TOP_LEVEL if name in ALLOWED])
def test_docstrings_of_packages_name_what_they_may_import(top_level: str) -> None:
    for package, allowed in ALLOWED[top_level].items():
        file = ROOT / top_level / package / "__init__.py"
        if file.is_file():
            text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
            sentence = re.search(r"\b[Ii]mports\b(.*?)(;|\.( |$))", text)
            assert sentence, f"{file} does not say what it imports"
            assert set(re.findall(r"`(.+?)`", sentence[1])) == allowed, file


@pytest.mark.parametrize("library", ALLOWED_IMPORTERS)
def test_library_is_imported_only_where_allowed(library: str) -> None:
    users = [
        file for top_level in TOP_LEVEL for file in files(top_level) if library in libraries(file)
    ]
    paths = [file.relative_to(ROOT).as_posix() for file in users]
    assert paths
    allowed_paths = ALLOWED_IMPORTERS[library]
    for path in paths:
        assert any(
            path == allowed_path or (allowed_path[-1] == "/" and path.startswith(allowed_path))
            for allowed_path in allowed_paths
        )


def test_modules_have_no_import_cycle() -> None:
    edges = {name: imported(file) & MODULES.keys() - {name} for name, file in MODULES.items()}
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in finished:
            return
        for inner in edges[name]:
            # A package's __init__ imports its modules, which may import siblings of the package.
            if not (path and inner == name.rpartition(".")[0]):
                visit(inner, (*path, name))
        finished.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize(
    "file", [file for name, file in MODULES.items() if file.name == "__init__.py"], ids=str
)
def test_package_init_only_reexports_names(file: Path) -> None:
    """An __init__ has a docstring and at most imports and tables of names; those of `models` and
    `orchestrator` import their names when they are used."""
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    if file.parent.name == "streets":
        return  # it defines its one public function in __init__
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    others = [node for node in tree.body if not isinstance(node, kinds)]
    if file.parent in (ROOT / "models", ROOT / "orchestrator"):
        names = ["if TYPE_CHECKING:", "def __getattr__(name: str) -> Any:"]
        assert [ast.unparse(node).splitlines()[0] for node in others] == names
    else:
        assert not others


def test_short_modules_are_listed() -> None:
    short_modules = {
        file.relative_to(ROOT).as_posix()
        for top_level in ("pipelines", "orchestrator")
        for file in files(top_level)
        if file.name != "__init__.py" and len(file.read_text().splitlines()) < 35
    }
    root = {
        f"{top_level}/{file.name}"
        for top_level in TOP_LEVEL
        for file in (ROOT / top_level).glob("*.py")
    }
    assert short_modules - root == SHORT_MODULES


def test_no_file_has_a_vague_name() -> None:
    vague = {"utils", "helpers", "misc", "common"}
    assert not [file for top_level in TOP_LEVEL for file in files(top_level) if file.stem in vague]


@pytest.mark.parametrize("top_level", TOP_LEVEL)
def test_test_files_are_named_after_what_they_test(top_level: str) -> None:
    """`test_MODULE.py` or `test_MODULE_ASPECT.py`; MODULE may also be a package or `__main__`."""
    unknown = []
    for file in sorted((ROOT / "tests" / top_level).rglob("test_*.py")):
        package = ROOT / file.parent.relative_to(ROOT / "tests")
        modules = {path.stem.strip("_") for path in package.iterdir()}
        words = file.stem.split("_")[1:]
        if not modules & {"_".join(words[:count]) for count in range(1, len(words) + 1)}:
            unknown.append(file.relative_to(ROOT).as_posix())
    assert not unknown


def test_no_two_classes_have_the_same_name() -> None:
    modules: dict[str, list[str]] = {}
    for name, file in MODULES.items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules.setdefault(node.name, []).append(name)
    # `orchestrator.Study` is what users hold; it wraps the expanded study.
    del modules["Study"]
    assert not {name: found for name, found in modules.items() if len(found) > 1}

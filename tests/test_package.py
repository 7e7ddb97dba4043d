"""The installed project: content of the wheel, the command, and folders with the same names."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from email import message_from_string
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from orchestrator.__main__ import COMMANDS
from orchestrator.__main__ import main as orchestrator
from orchestrator.cluster.worker_setup import PinnedPackages
from orchestrator.init import main as init
from orchestrator.init import shipped_studies
from orchestrator.study.load import load_study
from orchestrator.study.schema import FILE as SCHEMA
from orchestrator.sweep.run_trials import git_commit

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "pipelines", "orchestrator")
SHIPPED = [ROOT / "ablations.yaml", *sorted(ROOT.glob("studies/**/*.yaml"))]
# The script that pip writes into an environment's bin directory.
SCRIPT = "import sys\nfrom orchestrator.__main__ import main\nsys.exit(main())\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project's sources, because a build writes into them."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE", "ablations.yaml"):
        shutil.copy(ROOT / name, copy)
    for name in (*PACKAGES, "studies"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def build(project: Path, kind: str, out: Path) -> Path:
    """Build the project with setuptools as pip does, without network access; return the wheel."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(project, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel's content and its command, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (folder / "bin").mkdir()
    (folder / "bin" / "orchestrator").write_text(SCRIPT)
    return folder


def run_python(
    installed: Path, directory: Path, *arguments: str, path: str = ""
) -> tuple[int, str, str]:
    """Run Python in `directory` with the wheel installed; return exit status, stdout and stderr."""
    python_path = os.pathsep.join([path, str(installed)] if path else [str(installed)])
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
    )
    return process.returncode, process.stdout, process.stderr


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_wheel_has_all_runtime_files_and_nothing_else(wheel: Path) -> None:
    names = names_in(wheel)
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in ROOT.glob(f"{package}/**/*")
    }
    files = {name for name in sources if (ROOT / name).is_file() and "__pycache__" not in name}
    assert {name for name in names if name.startswith(PACKAGES)} == files
    assert {*(f"{package}/py.typed" for package in PACKAGES)} <= files
    shared = {name.partition("share/segmentation-orchestrator/")[2] for name in names}
    assert {path.relative_to(ROOT).as_posix() for path in SHIPPED} == shared - {""}
    top_level_names = {name.split("/")[0].partition("-")[0] for name in names}
    assert top_level_names == {*PACKAGES, "segmentation_orchestrator"}


@pytest.mark.slow
def test_wheel_states_its_license_and_no_author(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
        license_text = archive.read(name.replace("METADATA", "licenses/LICENSE")).decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in license_text
    assert not any("author" in key.lower() for key in metadata)
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


@pytest.mark.slow
def test_editable_install_uses_a_path_file(project: Path, tmp_path: Path) -> None:
    """An import hook would be hidden by a folder `models` in the working directory."""
    editable = build(project, "editable", tmp_path)
    assert not [name for name in names_in(editable) if name.endswith(".py")]
    with zipfile.ZipFile(editable) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert Path(archive.read(name).decode().strip()) == project


def test_tested_versions_are_within_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for extra in ("cluster", "head", "hub", "onnx", "pretrained"):
        lines += project["optional-dependencies"][extra]
    bounds = {
        requirement.name.lower(): requirement.specifier for requirement in map(Requirement, lines)
    }
    pins = [line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()]
    tested = {name.lower(): version for name, _, version in pins if version}
    del bounds[project["name"]]
    assert bounds.keys() <= tested.keys()
    assert not [name for name, allowed in bounds.items() if not allowed.contains(tested[name])]


def test_bounds_exclude_versions_with_known_vulnerabilities() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, project["dependencies"])
    }
    for name, version in {"pillow": "12.1.1", "pyarrow": "23.0.0", "jinja2": "3.1.5"}.items():
        assert not bounds[name].contains(version), name


def test_help_and_version_load_no_library() -> None:
    code = (
        "import sys\nfrom orchestrator.__main__ import main\n"
        "assert main(['--version']) == 0\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "print(*sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    output, _, modules = process.stdout.strip().rpartition("\n")
    assert all(f"  {name} " in output for name in COMMANDS)
    assert not {"torch", "ray", "mlflow", "numpy", "rich", "models"} & set(modules.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_shows_the_command_as_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _ = COMMANDS[name]
    with pytest.raises(SystemExit) as exit_error:
        orchestrator([name, "--help"])
    assert exit_error.value.code == 0
    usage = capsys.readouterr().out
    assert usage.startswith(f"usage: orchestrator {name} [-h]")
    default = inspect.signature(import_module(module).main).parameters["prog"].default
    assert default == f"python -m {module.removesuffix('.__main__')}"


def test_messages_name_the_command_that_runs_everywhere() -> None:
    """`python -m` exits next to a package `models` of the user; `orchestrator` does not."""
    modules = [module.removesuffix(".__main__") for module, _ in COMMANDS.values()]
    other_name = re.compile(rf"python -m ({'|'.join(map(re.escape, modules))})\b")
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        text = file.read_text()
        if "python -m" not in text:  # parsing takes time
            continue
        tree = ast.parse(text)
        docstring = ast.get_docstring(tree, clean=False)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                is_default = other_name.fullmatch(node.value)  # of the parameter `prog`
                found = other_name.search(node.value)
                assert not found or is_default or node.value == docstring, f"{file}: {node.value}"


def test_unknown_command_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_error:
        orchestrator(["swep", "study.yaml"])
    assert exit_error.value.code == 2
    message = "unknown command 'swep'; did you mean `sweep`? known: init, sweep"
    assert message in capsys.readouterr().err
    assert orchestrator([]) == 2


@pytest.mark.slow
def test_folder_without_init_does_not_hide_a_package(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "checkpoint.bin").touch()
    (tmp_path / "pipelines").mkdir()
    code, output, errors = run_python(installed, tmp_path, "-m", "models.profile", "--help")
    assert (code, errors) == (0, "")
    assert output.startswith("usage: python -m models.profile")


@pytest.mark.parametrize("file", ["models/__init__.py", "models.py"])
@pytest.mark.parametrize("module", ["orchestrator.report", "pipelines.prepare", "orchestrator"])
def test_package_with_the_same_name_is_reported(
    installed: Path, tmp_path: Path, module: str, file: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("raise RuntimeError('imported')")
    code, output, errors = run_python(installed, tmp_path, "-m", module, "--help")
    path = tmp_path / file.removesuffix("/__init__.py")
    assert (code, output) == (2, "")
    assert errors == (
        f"error: {path} hides this project's package `models`; run the command `orchestrator`, "
        "which searches the working directory last, or rename it\n"
    )


@pytest.mark.slow
def test_command_works_next_to_packages_with_the_same_names(
    installed: Path, tmp_path: Path
) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
    # -P, because pip's script does not put its own directory on the path.
    script = ["-P", str(installed / "bin" / "orchestrator")]
    code, output, errors = run_python(installed, tmp_path, *script, "profile", "--help")
    assert (code, errors) == (0, "")
    assert output.startswith("usage: orchestrator profile")
    code, output, errors = run_python(installed, tmp_path, *script, "init", "--study", "table-3b")
    assert (code, errors) == (0, "")
    assert (tmp_path / "table-3b.yaml").is_file()


def test_package_with_the_same_name_on_the_python_path_is_reported(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    script = ["-P", str(installed / "bin" / "orchestrator"), "--version"]
    code, _, errors = run_python(installed, tmp_path, *script, path=str(tmp_path))
    assert code == 2
    assert f"take {tmp_path} off PYTHONPATH, or rename it" in errors


def test_pinned_packages_take_precedence_over_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("ours", "theirs"):
        (tmp_path / folder / "namesake").mkdir(parents=True)
        (tmp_path / folder / "namesake" / "__init__.py").write_text(f"ORIGIN = {folder!r}")
    monkeypatch.syspath_prepend(tmp_path / "ours")
    pinned = PinnedPackages("namesake")
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    monkeypatch.setattr(sys, "meta_path", [pinned, *sys.meta_path])
    assert import_module("namesake").ORIGIN == "ours"
    assert import_module("json").__name__ == "json"


def schema_of(study: Path) -> str:
    first, _, _ = study.read_text().partition("\n")
    return first.partition("$schema=")[2]


def test_init_writes_a_valid_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init([]) == 0
    assert "next: orchestrator sweep study.yaml --plan" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    study = load_study(Path("study.yaml"))
    assert len(study.trials) == 2
    assert not study.warnings
    assert {trial.experiment.data.dataset for trial in study.trials} == {"streets"}
    assert schema_of(tmp_path / "study.yaml") == SCHEMA.as_uri()


def test_init_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("mine")
    assert init([]) == 2
    assert f"{tmp_path / 'study.yaml'} exists; remove it" in capsys.readouterr().out
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "cityscapes.yaml").write_text("base: {training: {epochs: 3}}")
    assert init(["--study", "table-1a"]) == 0
    assert {t.experiment.training.epochs for t in load_study(Path("table-1a.yaml")).trials} == {3}
    assert (tmp_path / "study.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", shipped_studies())
def test_init_copies_a_study_with_the_files_it_extends(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init(["--study", name]) == 0
    copy = load_study(Path(f"{name}.yaml"))
    original = load_study(shipped_studies()[name])
    assert copy.resolved == original.resolved
    assert schema_of(tmp_path / f"{name}.yaml") == SCHEMA.as_uri()
    assert "studies/" not in (tmp_path / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "advice"),
    [("table-9", "did you mean `table-2`?"), ("tabel-1a", "did you mean `table-1a`?")],
)
def test_init_lists_the_available_studies(
    name: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init(["--study", name]) == 2
    message = capsys.readouterr().out
    assert f"no study '{name}' comes with the project; {advice}" in message
    assert "known: ablations, camvid" in message
    assert not list(tmp_path.iterdir())


def test_commit_is_recorded_only_for_tracked_sources(tmp_path: Path) -> None:
    """An environment inside another checkout must not record that checkout's commit."""
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
    (tmp_path / "tracked").mkdir()
    (tmp_path / "tracked" / "code.py").touch()
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "code.py").touch()
    environment: Mapping[str, str] = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    for arguments in (["init", "-q"], ["add", "tracked"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, env=environment)
    assert git_commit(tmp_path / "tracked")
    assert git_commit(tmp_path / "environment") is None

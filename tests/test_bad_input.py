"""Every command reports bad input in one message that names it, and exits with status 2."""

import errno
import os
import socket
from importlib import import_module
from pathlib import Path

import pytest

from orchestrator.__main__ import COMMANDS
from orchestrator.console import open_console, run_command
from pipelines.command import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED
from pipelines.errors import UserError
from tests.support.finished_run import FinishedRun

SECRET = "s3://key:hush@bucket/x"
DATA = "--dataset DATASET"
STORE = "--storage STORAGE"

# The arguments of a command and a text its message must contain. In both, words in capitals are
# replaced by paths.
CASES = [
    ("init --study nonsense", "nonsense"),
    ("sweep MISSING --storage NEW", "MISSING"),
    ("sweep FOLDER --storage NEW", "FOLDER"),
    ("sweep BROKEN --storage NEW", "BROKEN:2:"),
    ("sweep STUDY --storage NEW --only nothing", "--only nothing"),
    ("sweep STUDY --storage NEW --set nonsense", "nonsense"),
    ("sweep STUDY --storage NEW --set training.epoch=1", "training.epoch"),
    ("sweep STUDY --storage NEW --set resource.workers=2", "did you mean `resources`?"),
    ("sweep STUDY --storage NEW --set data.dataset=MISSING --plan", "MISSING"),
    (f"sweep STUDY --storage {SECRET}", "s3://...@bucket/x"),
    ("sweep STUDY --storage nosuch://bucket --plan", "nosuch://bucket"),
    ("sweep STUDY --storage BROKEN", "BROKEN"),
    ("sweep STUDY --storage NEW --address host:port --plan", "host:port"),
    ("sweep STUDY --storage NEW --address host --plan", "http://localhost:8265"),
    ("sweep STUDY --storage NEW --address ray://host:10001", "ray://host:10001"),
    (f"report MISSING {STORE}", "MISSING"),
    (f"report FOLDER {STORE}", "FOLDER"),
    (f"report BROKEN {STORE}", "BROKEN:2:"),
    ("report STUDY --storage NEW", "NEW"),
    (f"report STUDY {STORE} --only nothing", "--only nothing"),
    (f"report STUDY {STORE} --out BROKEN", "BROKEN"),
    ("report STUDY --storage NEW --tracking MISSING", "MISSING: no such directory"),
    (f"report STUDY --storage NEW --tracking {SECRET}", "s3://...@bucket/x"),
    (f"bundle MISSING --out NEW {STORE}", "MISSING"),
    (f"bundle BROKEN --out NEW {STORE}", "BROKEN:2:"),
    (f"bundle STUDY {STORE}", "--out is missing"),
    (f"bundle STUDY --out FOLDER {STORE}", "FOLDER"),
    (f"bundle STUDY --out NEW --storage {SECRET}", "s3://...@bucket/x"),
    ("bundle MISSING --check", "MISSING"),
    ("bundle BROKEN --check", "BROKEN"),
    ("bundle FOLDER --check", "FOLDER"),
    ("bundle FOLDER --replay nonsense --storage NEW", "FOLDER"),
    (f"bundle FOLDER --replay nonsense --storage {SECRET}", "s3://...@bucket/x"),
    ("studies list --tracking FOLDER@2026-11-28T25:00:00Z", "2026-11-28T25:00:00Z"),
    ("studies list --tracking FOLDER@2026-11-28T10:00:00Z", "none that old"),
    (f"server --directory NEW --artifacts FOLDER --replica {SECRET}", "s3://...@bucket/x"),
    (f"evaluate MISSING {DATA} {STORE}", "MISSING"),
    (f"evaluate FOLDER {DATA} {STORE}", "FOLDER"),
    (f"evaluate runs:/nonsense {DATA} {STORE}", "runs:/nonsense"),
    (f"evaluate runs:/nonsense/model {DATA} {STORE}", "runs:/nonsense/model"),
    (f"evaluate models:/nonsense@best {DATA} {STORE}", "models:/nonsense@best"),
    (f"predict models:/nonsense@best IMAGE --out NEW {STORE}", "; registered: "),
    (f"evaluate runs:/RUN/model {DATA} --storage NEW", "NEW"),
    (f"evaluate MODEL {DATA} --storage {SECRET}", "s3://...@bucket/x"),
    (f"evaluate MODEL --dataset MISSING {STORE}", "MISSING"),
    (f"evaluate MODEL --dataset {SECRET} {STORE}", "s3://...@bucket/x"),
    (f"evaluate MODEL --dataset nosuch://bucket {STORE}", "nosuch://bucket"),
    (f"evaluate MODEL {DATA} {STORE} --split nonsense", "nonsense"),
    (f"evaluate MODEL {DATA} {STORE} --batch 0", "received 0"),
    (f"evaluate MODEL {DATA} {STORE} --import nonsense", "nonsense"),
    (f"evaluate BAD_MODEL {DATA} {STORE}", "experiment.yaml"),
    (f"predict MISSING IMAGE --out NEW {STORE}", "MISSING"),
    (f"predict MODEL MISSING --out NEW {STORE}", "MISSING"),
    (f"predict MODEL FOLDER --out NEW {STORE}", "FOLDER"),
    (f"predict MODEL IMAGE --out IMAGE {STORE}", "IMAGE"),
    (f"predict runs:/nonsense/best IMAGE --out NEW {STORE}", "runs:/nonsense/best"),
    (f"export MISSING --out NEW {STORE}", "MISSING"),
    (f"export runs:/nonsense --out NEW {STORE}", "runs:/nonsense"),
    (f"export MODEL --out IMAGE {STORE}", "IMAGE"),
    (f"export MODEL --out NEW --dataset MISSING {STORE}", "MISSING"),
    (f"export MODEL --out NEW --dataset {SECRET} {STORE}", "s3://...@bucket/x"),
    (f"figures compare MODEL MISSING {DATA} {STORE} --out NEW.png", "MISSING"),
    (f"figures compare MODEL MODEL {DATA} {STORE} --out NEW.gif", "NEW.gif"),
    (f"figures compare MODEL MODEL {DATA} {STORE} --images 0", "received 0"),
    (f"figures features MODEL {DATA} {STORE} --image nonsense --out NEW.png", "nonsense"),
    (f"figures features runs:/nonsense {DATA} {STORE} --out NEW.png", "runs:/nonsense"),
    ("studies list --storage NEW", "NEW"),
    (f"studies list --storage {SECRET}", "s3://...@bucket/x"),
    (f"studies logs small --storage {SECRET}", "s3://...@bucket/x"),
    ("studies logs small --storage nosuch://bucket", "nosuch"),
    (f"studies status nonsense {STORE}", "'nonsense'"),
    (f"studies stop nonsense {STORE}", "'nonsense'"),
    (f"studies resume nonsense {STORE}", "'nonsense'"),
    (f"studies logs nonsense {STORE}", "'nonsense'"),
    (f"studies logs RUN --worker 7 {STORE}", "worker 7"),
    ("prepare camvid --source MISSING --destination NEW", "MISSING"),
    ("prepare folder --source FOLDER --destination NEW", "FOLDER"),
    (f"prepare streets --destination {SECRET}", "s3://...@bucket/x"),
    ("prepare inspect MISSING", "MISSING"),
    ("prepare inspect DATASET --out NEW.txt", "NEW.txt"),
    (f"prepare preview {SECRET}", "s3://...@bucket/x"),
    ("prepare preview DATASET --split nonsense", "nonsense"),
    ("train MISSING --out NEW", "MISSING"),
    ("train BROKEN --out NEW", "BROKEN"),
    ("train MODEL/experiment.yaml --out BROKEN", "BROKEN"),
    ("train MODEL/experiment.yaml --out NEW --dataset MISSING", "MISSING"),
    ("train MODEL/experiment.yaml --out NEW --keep 0", "received 0"),
    ("profile nonsense", "nonsense"),
    ("profile --size 0", "received '0'"),
]


@pytest.fixture
def paths(finished_run: FinishedRun, tmp_path: Path) -> dict[str, str]:
    """Map the words in capitals to paths. Longer words come first, because some contain others."""
    for name in ("folder", "bad-model"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken.yaml").write_text("study: [\n")
    for name in ("experiment.yaml", "classes.yaml", "model.safetensors"):
        (tmp_path / "bad-model" / name).write_text("seed: [\n")
    (tmp_path / "image.png").write_bytes(b"no image")
    return {
        "BAD_MODEL": str(tmp_path / "bad-model"),
        "MISSING": str(tmp_path / "missing.yaml"),
        "FOLDER": str(tmp_path / "folder"),
        "BROKEN": str(tmp_path / "broken.yaml"),
        "NEW": str(tmp_path / "new"),
        "IMAGE": str(tmp_path / "image.png"),
        "STUDY": str(finished_run.storage / "study.yaml"),
        "STORAGE": str(finished_run.storage),
        "DATASET": str(finished_run.dataset),
        "MODEL": str(finished_run.directory),
        "RUN": finished_run.run_id,
    }


def with_paths(text: str, paths: dict[str, str]) -> str:
    for word, path in paths.items():
        text = text.replace(word, path)
    return text


def check(line: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    name, *arguments = line.split()
    module, _ = COMMANDS[name]
    try:
        status = import_module(module).main(arguments)
    except SystemExit as exit:  # argparse
        status = exit.code
    captured = capfd.readouterr()
    output = captured.out + captured.err
    assert status == EXIT_BAD_INPUT, output
    assert message in output
    assert output.count("error:") == 1
    assert "Traceback" not in output
    assert "hush" not in output


def test_each_command_has_a_case() -> None:
    assert {line.split()[0] for line, _ in CASES} == COMMANDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_bad_input_is_reported(
    line: str,
    message: str,
    paths: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check(with_paths(line, paths), with_paths(message, paths), capfd)


@pytest.mark.parametrize(
    "line",
    [
        "sweep STUDY --storage NEW --plan",
        f"report STUDY {STORE}",
        f"bundle STUDY --out NEW {STORE}",
        f"evaluate runs:/RUN/model {DATA} {STORE}",
        f"predict runs:/RUN/model IMAGE --out NEW {STORE}",
        f"export runs:/RUN/model --out NEW {STORE}",
        f"figures features runs:/RUN/model {DATA} {STORE} --out NEW.png",
        f"studies list {STORE}",
    ],
)
def test_unreachable_tracking_server_is_reported(
    line: str,
    paths: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    check(with_paths(line, paths), f"MLflow at {uri} cannot be used", capfd)


def raising(error: BaseException) -> int:
    """Return the exit status of a command that raises `error`."""

    def work(_: object) -> int:
        raise error

    return run_command(work, open_console(), interrupted="stopped")


def test_each_error_has_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for error, status, text in (
        (UserError("x: is wrong"), EXIT_BAD_INPUT, "error: x: is wrong\n"),
        (UserError("one\ntwo"), EXIT_BAD_INPUT, "error:\n  one\n  two\n"),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x"),
            EXIT_BAD_INPUT,
            "error: x: No such file or directory\n",
        ),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "stopped\n"),
        (BrokenPipeError(), EXIT_FAILED, ""),
        (ValueError("odd"), EXIT_FAILED, "internal error: ValueError: odd\n"),
    ):
        assert raising(error) == status
        captured = capsys.readouterr()
        assert captured.out == text
        assert ("Traceback" in captured.err) == isinstance(error, ValueError)

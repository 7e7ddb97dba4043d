"""The report command: where it reads, where it writes, and bad input."""

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.report.__main__ import main
from orchestrator.tracking.open_store import tracking_uri
from tests.support.fabricated_studies import PLAIN, fabricate_study

THREE_ROWS = (
    PLAIN.replace("study: plain", "study: three\nseeds: [0, 1]")
    + """\
  c: {set: {model: {ppm: false}}}
"""
)

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Path:
    """Return the file of a finished study; its storage is next to it."""
    directory = tmp_path_factory.mktemp("finished")
    make_storage(directory)
    return fabricate_study(directory, small_streets, PLAIN)


@pytest.mark.slow
def test_command_needs_only_the_tracking_store(finished: Path, tmp_path: Path) -> None:
    """No data set, checkpoint or Ray is needed; a copy of the tracking store is enough."""
    shutil.copy(finished.parent / "storage" / "mlflow.db", tmp_path / "mlflow.db")
    text = re.sub(r"dataset: [^,]+", "dataset: /nowhere", finished.read_text())
    (tmp_path / "study.yaml").write_text(text)
    program = (
        "import sys; from orchestrator.report.__main__ import main; "
        "code = main(sys.argv[1:]); assert 'ray' not in sys.modules; exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "study.yaml"), "--storage", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert (tmp_path / "reports" / "plain" / "report.html").exists()


@pytest.mark.slow
def test_missing_counts_of_some_trials_are_named(
    small_streets: Path, tmp_path: Path, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = fabricate_study(tmp_path, small_streets, THREE_ROWS)

    def report() -> str:
        assert main([str(file), "--storage", str(own_store), "--out", str(tmp_path / "out")]) == 0
        return " ".join(capsys.readouterr().out.split())

    def rows() -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))

    before = report()
    assert "saved to the study's MLflow run" in before
    run = rows()[1]["runs"].split()[1]
    (counts,) = own_store.glob(f"artifacts/three/{run}/artifacts/counts.arrow")
    counts.unlink()
    after = report()
    assert "The per-image pixel counts (counts.arrow) of 1 trial are missing" in after
    assert f"'b, seed 1' (run {run})" in after
    assert "not saved to MLflow: the per-image pixel counts of some trials are missing" in after
    assert [bool(row["interval_low"]) for row in rows()] == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "nowhere"], "no tracking store at"),
        (["--only", "nothing*"], "matches no trial"),
    ],
)
def test_bad_input_is_reported(
    arguments: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(finished.parent / "storage")]
    assert main([str(finished), *storage, *arguments]) == 2
    assert message in capsys.readouterr().out


@pytest.mark.slow
def test_report_of_a_storage_in_a_bucket_is_below_the_home_directory(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory gets no folder `s3:`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(finished.parent / "storage"))
    assert main([str(finished), "--storage", "s3://bucket/x"]) == 0
    assert not (tmp_path / "s3:").exists()
    (page,) = tmp_path.rglob("report.html")
    assert page.parts[-4:-1] == ("s3-bucket-x", "reports", "plain")


def test_out_that_is_a_file_is_reported_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert main([str(tmp_path / "study.yaml"), "--out", str(out)]) == 2
    assert f"--out {out} is a file; choose a directory" in capsys.readouterr().out
    assert out.read_text() == "mine"


@pytest.mark.slow
def test_storage_without_a_place_for_the_report_is_an_error_before_it_is_computed(
    tmp_path: Path, small_streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    (tmp_path / "storage" / "reports").write_text("not a directory")
    command = [str(path), "--storage", str(tmp_path / "storage")]
    assert main(command) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("choose a directory for the report with --out")
    assert main([*command, "--out", str(tmp_path / "out")]) in (0, 1)
    assert (tmp_path / "out" / "report.html").is_file()

"""The sweep command without training: `--plan` and bad input."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.planning.measurements import save_measurements
from orchestrator.scheduling.devices import worker_device
from orchestrator.sweep.__main__ import main
from tests.support.fabricated_studies import Fate, fabricate_study
from tests.support.planned_study import resolved, timed, write_planned_study
from tests.support.sweep_command import STUDY


@pytest.fixture
def planned(tmp_path: Path, small_streets: Path) -> Path:
    return write_planned_study(tmp_path, small_streets)


def test_trials_that_cannot_run_are_reported_together(
    planned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing_data = "  away: {set: {data: {dataset: nowhere}}}\n"
    missing_data += "  also: {set: {data: {dataset: nowhere}, model: {flows: []}}}\n"
    unknown_split = "  gap: {set: {data: {train_split: trian}}}\n"
    planned.write_text(
        planned.read_text().replace("seeds:", f"{missing_data}{unknown_split}seeds:")
    )
    assert main([str(planned), "--storage", str(tmp_path / "storage"), "--plan"]) == 2
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    assert lines[-3] == "error:"
    assert lines[-2].startswith("away, seed 0 and 3 more: ")
    assert lines[-1].startswith("gap, seed 0 and 1 more: ")
    assert "no samples in split 'trian'; it has train" in lines[-1]


@pytest.mark.slow
def test_plan_trains_nothing(planned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study, trials = resolved(planned)
    storage = planned.parent / "storage"
    measurement = replace(timed(trials[0], study, step=0.1), device=worker_device("cpu", 1.0))
    save_measurements(storage, [measurement])
    assert main([str(planned), "--plan", "--storage", str(storage)]) == 0
    output = capfd.readouterr().out
    assert "planned: 6 trials: 6 missing" in output
    assert "Times from finished trials" in output
    assert not (storage / "trials").exists()


SCORED = """\
study: scored
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants: {strong: {set: {model: {flows: []}}}, full: {}}
protocols: {flip: {flip: true}}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_plan_shows_which_scores_are_missing(
    tmp_path: Path, small_streets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fates: dict[str, Fate] = {"full": "KILLED"}
    file = fabricate_study(tmp_path, small_streets, SCORED, fates=fates)
    study, trials = resolved(file)
    device = worker_device("cpu", 1.0)
    measured = [replace(timed(trial, study, step=0.1), device=device) for trial in trials]
    save_measurements(tmp_path / "storage", measured)
    command = [str(file), "--plan", "--storage", str(tmp_path / "storage")]
    assert main(command) == 0
    output = capfd.readouterr().out
    assert "scored: 2 trials: 1 finished, 1 interrupted" in output
    assert "to score" in output
    assert main([*command, "--set", "report.protocol=flip"]) == 0
    assert "scored: 2 trials: 1 interrupted, 1 not scored" in capfd.readouterr().out
    file.write_text(file.read_text().replace("protocols: {flip: {flip: true}}\n", ""))
    assert main(command) == 0
    assert "to score" not in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        (
            "epochs: 3",
            "epoch: 3",
            [],
            "study.yaml:7:14: unknown key `training.epoch`; did you mean",
        ),
        ("", "", ["--set", "data.dataset=/nowhere"], "/nowhere: does not exist"),
        ("", "", ["--set", "data.train_split=training"], "no samples in split 'training'; it has"),
        (
            "workers: 2",
            "workers: 999",
            [],
            "`resources.workers` is 999, but strong has",
        ),
        ("0.5, node", "99, node", [], "resources.workers is 2 with 99 CPU each, but the"),
        (
            "",
            "",
            ["--only", "nothing"],
            "--only nothing: matches no trial; the study has: strong; full; twin",
        ),
    ],
)
def test_bad_input_is_reported(
    tmp_path: Path,
    small_streets: Path,
    capfd: pytest.CaptureFixture[str],
    old: str,
    new: str,
    options: list[str],
    message: str,
) -> None:
    study, storage = tmp_path / "study.yaml", tmp_path / "storage"
    text = STUDY.replace("DATASET", str(small_streets)).replace("CACHE", str(tmp_path / "cache"))
    study.write_text(text.replace(old, new) if old else text)
    assert main([str(study), "--storage", str(storage), *options]) == 2
    printed = capfd.readouterr()
    assert message in printed.out
    assert "Traceback" not in printed.out + printed.err
    assert not (storage / "mlflow.db").exists()


@pytest.mark.slow
def test_tracking_store_that_cannot_be_used_is_reported_before_the_data_is_opened(
    planned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The embedded data set alone takes a minute to make."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "garbage.db").write_bytes(b"garbage" * 1000)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # or it waits for nine seconds
    storage = tmp_path / "storage"
    for uri in (f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path}/garbage.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        options = ["--storage", str(storage), "--plan", "--set", "data.dataset=streets"]
        assert main([str(planned), *options]) == 2
        output = capfd.readouterr().out
        assert f"error: MLflow at {uri} cannot be used: " in output
        assert "opening the data" not in output
    assert not (storage / "datasets").exists()

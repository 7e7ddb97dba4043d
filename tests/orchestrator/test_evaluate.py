"""`orchestrator.evaluate` on a run in a real tracking store and on model directories."""

import csv
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from mlflow.tracking import MlflowClient

from orchestrator.evaluate import main
from orchestrator.evaluation.evaluate_model import evaluation_name
from orchestrator.evaluation.trained_model import load_model
from orchestrator.tracking.models import register_best
from orchestrator.tracking.store import TrackingStore
from pipelines.config import dump_yaml, load_yaml
from pipelines.data.dataset import open_dataset
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.config import EvaluationConfig, MetricConfig
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.scores import Scores
from pipelines.network.precision import Numerics
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from tests.support.camvid_source import CamVidSource
from tests.support.finished_run import FinishedRun
from tests.support.fixed_size import fixed_size, write_model
from tests.support.mounts import mounted

WINDOWS = EvaluationConfig(scales=(0.5, 1.0), flip=True, window=(24, 32), stride=(8, 32))
OPTIONS = ["--scales", "0.5,1", "--flip", "--window", "24x32", "--stride", "8x32"]


def command(run: FinishedRun, model: str, *options: str) -> int:
    base = [model, "--dataset", str(run.dataset), "--storage", str(run.storage)]
    return main([*base, *options])


def expected(run: FinishedRun, checkpoint: str, config: EvaluationConfig) -> Scores:
    model = load_model(str(run.directory.parent / checkpoint), None)
    batches = EvaluationBatches(open_dataset(run.dataset).split("val"), 2)
    numerics = Numerics.choose(torch.device("cpu"), "fp32")
    return evaluate(model.network, batches, 10, numerics, config)


@pytest.mark.slow
def test_scores_are_logged_to_the_run_by_protocol(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, client = finished_run.run_id, MlflowClient(finished_run.uri)
    fingerprint = open_dataset(finished_run.dataset).manifest.fingerprint
    prefix = f"streets-{fingerprint[:8]}_val"
    expected_values: dict[str, float] = {}
    for checkpoint, config, options in (
        ("best", EvaluationConfig(), []),
        ("last", EvaluationConfig(), []),
        ("best", WINDOWS, OPTIONS),
        ("best", EvaluationConfig(metrics=("boundary_f",)), ["--metric", "boundary_f"]),
    ):
        assert command(finished_run, f"runs:/{run_id}/{checkpoint}", *options) == 0
        printed = capsys.readouterr().out
        scores = expected(finished_run, checkpoint, config)
        assert f"{100 * scores.miou:.2f}" in printed
        assert ("chosen on these images" in printed) == (checkpoint == "best")
        name = f"{prefix}_{checkpoint}_{config.protocol}" + "_boundary_f" * bool(config.metrics)
        assert f"logged to run {run_id} under eval/{name}/" in printed
        classes = [entry.name for entry in open_dataset(finished_run.dataset).manifest.classes]
        for metric, value in scores.metrics(classes).items():
            expected_values[f"eval/{name}/{metric}".replace(" ", "-")] = value

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    # All four evaluations are logged, and the metrics of the training are unchanged.
    logged = {k.replace(" ", "-"): v for k, v in run.data.metrics.items() if k.startswith("eval/")}
    assert logged == pytest.approx(expected_values, abs=1e-12)
    assert run.data.metrics["val/miou"] == 0.25
    tag = f"orchestrator.eval.{prefix}_best_{WINDOWS.protocol}"
    assert run.data.tags[f"{tag}.checkpoint"] == "best on validation"
    assert run.data.tags[f"{tag}.data"] == fingerprint
    protocol = json.loads(run.data.tags[f"{tag}.protocol"])
    assert protocol["scales"] == [0.5, 1.0]
    assert protocol["stride"] == [8, 32]

    folder = Path(client.download_artifacts(run_id, f"eval/{prefix}_best_{WINDOWS.protocol}"))
    with pa.memory_map(str(folder / "counts.arrow")) as file:
        counts = pa.ipc.open_file(file).read_all()
    scores = expected(finished_run, "best", WINDOWS)
    assert sum(counts["tp"].to_pylist()) == int(scores.confusion.diagonal().sum())


def test_evaluations_with_other_arguments_have_other_names(small_streets: Path) -> None:
    dataset = open_dataset(small_streets)

    def name(metric: str = "boundary_f", key: str = "", **arguments: object) -> str:
        config = EvaluationConfig(metrics=(MetricConfig(metric, arguments, key),))
        return evaluation_name(dataset, "val", "best", config)

    assert name().endswith("_val_best_whole_boundary_f")
    first, second = name(tolerance=2), name(tolerance=3)
    assert first.startswith(f"{name()}-")
    assert first != second
    own = {name("one.module:Score"), name("another.module:Score"), name("boundary_f", key="Score")}
    assert len(own) == 3


def test_model_directory_is_scored_without_logging(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    model, data = str(finished_run.directory), str(finished_run.dataset)
    options = ["--dataset", data, "--split", "train", "--storage", str(storage)]
    assert main([model, *options]) == 0
    printed = capsys.readouterr().out
    assert "14 images, protocol whole" in printed
    assert "the model was trained on these images" in printed
    assert "not logged: MODEL does not belong to a run" in printed
    assert not storage.exists()


def test_model_of_a_fold_is_scored_on_its_held_out_fold(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished_run.directory, model)
    experiment = load_yaml((model / "experiment.yaml").read_text())
    experiment["data"] |= {"folds": 2, "fold": 1}
    (model / "experiment.yaml").write_text(dump_yaml(experiment))
    options = ["--dataset", str(finished_run.dataset), "--storage", str(tmp_path / "storage")]
    for split, shown, note in (
        (None, "train:fold-1-of-2", ""),
        ("train", "train", "the model was trained on some of these images"),
        ("train:fold-0-of-2", "train:fold-0-of-2", "the model was trained on some of these"),
        ("train:without-fold-1-of-2", "train:without-fold-1-of-2", "was trained on these images"),
        ("val", "val", ""),
    ):
        assert main([str(model), *options, *(["--split", split] if split else [])]) == 0
        printed = capsys.readouterr().out
        assert f"on streets {shown}, " in printed
        assert note in printed
        assert ("the model was trained on" in printed) == bool(note)


def test_all_digits_are_printed_as_json_and_csv(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = str(finished_run.directory.parent / "last"), str(finished_run.dataset)
    options = ["--dataset", data, "--storage", str(tmp_path / "storage"), "--metric", "boundary_f"]
    options += ["--metric", "calibration_error"]
    options += ["--metric", "{name: boundary_iou, arguments: {distance: 0.1}, key: wide}"]
    wide = MetricConfig("boundary_iou", {"distance": 0.1}, "wide")
    config = EvaluationConfig(metrics=("boundary_f", "calibration_error", wide))
    scores = expected(finished_run, "last", config)
    names = [entry.name for entry in open_dataset(finished_run.dataset).manifest.classes]
    assert main([model, *options, "--json"]) == 0
    captured = capsys.readouterr()
    assert "not logged: MODEL does not belong to a run" in captured.err
    document = json.loads(captured.out)
    assert (document["images"], document["protocol"]) == (5, "whole")
    assert document["scores"]["miou"] == scores.miou
    assert document["scores"]["pixel_accuracy"] == scores.counted["pixel_accuracy"]
    assert document["scores"]["boundary_f"] == scores.measured[0].score
    assert document["scores"]["calibration_error"] == scores.measured[1].score
    assert "wide" in document["classes"][names[0]]
    assert "calibration_error" not in document["classes"][names[0]]
    iou = [document["classes"][name]["iou"] for name in names]
    expected_iou = [None if math.isnan(value) else value for value in scores.iou.tolist()]
    assert iou == expected_iou

    assert main([model, *options, "--csv"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    values = {(line["metric"], line["class"]): line["value"] for line in lines}
    assert float(values["miou", ""]) == scores.miou
    assert all(line["fingerprint"] == document["fingerprint"] for line in lines)
    for name in names:
        value = document["classes"][name]["iou"]
        assert values["iou", name] == ("" if value is None else repr(value))


def test_an_error_leaves_the_output_for_machines_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "missing"), "--dataset", "streets", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no such directory" in captured.err


def test_model_inside_an_mlflow_package_is_found(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run.directory, tmp_path / "model" / "artifacts" / "network")
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    assert command(finished_run, str(tmp_path / "model")) == 0
    assert f"{100 * expected(finished_run, 'last', EvaluationConfig()).miou:.2f}" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_registered_model_is_found_by_alias_and_version(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    store = TrackingStore(finished_run.uri, None)
    assert register_best(store, "streets/1", finished_run.run_id) == "models:/streets-1@best"
    expected_miou = f"{100 * expected(finished_run, 'last', EvaluationConfig()).miou:.2f}"
    run = f"runs:/{finished_run.run_id}"
    logged = set()
    # All of them name the run's last checkpoint, so they share one entry.
    for name in ("models:/streets-1@best", "models:/streets-1/1", f"{run}/model", f"{run}/last"):
        assert command(finished_run, name) == 0
        printed = capsys.readouterr().out
        assert expected_miou in printed
        assert f"{name} (checkpoint: last)" in printed
        (line,) = [line for line in printed.splitlines() if line.startswith("logged to run")]
        logged.add(line)
    (line,) = logged
    assert f"logged to run {finished_run.run_id} under eval/" in line


@pytest.fixture
def read_only_storage(finished_run: FinishedRun, tmp_path: Path) -> Iterator[Path]:
    """Mount the storage of the finished run read-only, also for root; yield its path there."""
    with mounted(tmp_path / "read-only", "--bind", str(finished_run.storage)) as storage:
        subprocess.run(["mount", "-o", "remount,ro,bind", storage], check=True)
        yield storage


@pytest.mark.slow
def test_scores_that_cannot_be_recorded_are_printed(
    finished_run: FinishedRun,
    read_only_storage: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ["--dataset", str(finished_run.dataset), "--storage", str(read_only_storage)]
    assert main([f"runs:/{finished_run.run_id}/last", *options]) == 1
    printed = capsys.readouterr()
    miou = expected(finished_run, "last", EvaluationConfig()).miou
    assert f"{100 * miou:.2f}" in printed.out
    assert printed.out.splitlines()[-1] == (
        f"not logged: MLflow at sqlite:///{read_only_storage}/mlflow.db cannot be written (attempt "
        "to write a readonly database); check that you may write to it, then run the same command "
        "again"
    )
    assert "Traceback" not in printed.out + printed.err
    assert not [record for record in caplog.records if record.name.startswith("mlflow")]


def error_output(
    run: FinishedRun, capsys: pytest.CaptureFixture[str], model: str, *options: str
) -> str:
    assert command(run, model, *options) == 2
    return capsys.readouterr().out


def test_bad_input_is_reported(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model_directory = finished_run, str(finished_run.directory)
    unknown = "0" * 32
    for message, model, options in (
        ("write runs:/ID/model", "runs:/abc", []),
        ("write runs:/ID/model", f"runs:/{run.run_id}/worst", []),
        ("write runs:/ID/model", "models:/name", []),
        (f"runs:/{unknown}/best: not in MLflow at sqlite", f"runs:/{unknown}/best", []),
        (f"runs:/{unknown}/last: not in MLflow", f"runs:/{unknown}/last", []),
        ("models:/none@best: not in MLflow", "models:/none@best", []),
        (
            "no tracking store at",
            f"runs:/{run.run_id}/best",
            ["--storage", str(tmp_path / "elsewhere")],
        ),
        ("no such directory", str(tmp_path / "nothing"), []),
        ("it has no experiment.yaml", str(tmp_path), []),
        ("no samples in split 'test'", model_directory, ["--split", "test"]),
        ("does not exist", model_directory, ["--dataset", str(tmp_path / "nothing")]),
        ("--stride needs a window; received stride (4, 4)", model_directory, ["--stride", "4x4"]),
        ("--scales must be different factors above 0", model_directory, ["--scales", "0,1"]),
        ("--batch must be at least 1", model_directory, ["--batch", "0"]),
        ("--metric: name is 'border'; known: bound", model_directory, ["--metric", "border"]),
        ("--metric.name must be str", model_directory, ["--metric", "3"]),
        ("--metric: metrics has 'a' twice", model_directory, ["--metric", "{name: b:a}"] * 2),
        ("cannot import own.absent", model_directory, ["--metric", "own.absent:Metric"]),
        ("cannot import no_such_module", model_directory, ["--import", "no_such_module"]),
    ):
        assert message in error_output(run, capsys, model, *options), message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "big"], "such as 0.5,1,1.5; received 'big'"),
        (["--window", "64"], "such as 512x1024, and at least 1x1; received '64'"),
    ],
)
def test_unreadable_options_are_reported(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(finished_run, str(finished_run.directory), *options)
    assert message in capsys.readouterr().err


def test_damaged_model_directory_is_reported(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(file: str, text: str | None) -> str:
        directory = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(finished_run.directory, directory)
        if text is None:
            (directory / file).unlink()
        else:
            (directory / file).write_text(text)
        return error_output(finished_run, capsys, str(directory))

    experiment = (finished_run.directory / "experiment.yaml").read_text()
    assert "not a model: it has no classes.yaml" in damaged("classes.yaml", None)
    assert "it has no model.safetensors" in damaged("model.safetensors", None)
    assert "no readable weights" in damaged("model.safetensors", "damaged")
    assert "must be a mapping" in damaged("classes.yaml", "- road\n")
    assert "unknown key `colour`" in damaged("classes.yaml", "colour: red\n")
    unknown = experiment.replace("backbone: dfnet1", "backbone: dfnet9")
    assert "dfnet9" in damaged("experiment.yaml", unknown)
    wider = experiment.replace("channels: 8", "channels: 16")
    assert "does not fit this model" in damaged("experiment.yaml", wider)


def test_data_set_with_other_classes_is_rejected(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(CamVid(CamVidSource(tmp_path / "source").directory), tmp_path / "camvid")
    printed = error_output(
        finished_run, capsys, str(finished_run.directory), "--dataset", str(tmp_path / "camvid")
    )
    assert "predicts 10 classes (road, sidewalk, building, ...)" in printed
    assert "has 11 (sky, building, pole, ...)" in printed


def test_image_that_the_network_cannot_take_is_reported(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_streets, fixed_size(32, 48))
    options = [model, "--dataset", str(small_streets), "--storage", str(tmp_path)]
    assert main(options) == 2
    printed = capsys.readouterr()
    assert "error: the network cannot be applied to an image of 32 x 64 pixels" in printed.out
    assert printed.err == ""
    assert main([*options, "--window", "32x48"]) == 0

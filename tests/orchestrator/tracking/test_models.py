"""A finished trial's model in MLflow, as another program loads it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file

import examples.gated_fem  # noqa: F401 - registers its kind of FEM
from models import FENetConfig
from orchestrator.evaluation.trained_model import load_model
from orchestrator.tracking.model_package import package
from orchestrator.tracking.models import register_best
from orchestrator.tracking.pyfunc_loader import SOURCES, _load_pyfunc
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.user_uri import global_uri
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.inference import predict_image
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.config import NetworkConfig
from pipelines.network.precision import Numerics
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from tests.support.finished_run import FinishedRun

# A program with a package of the same name and without this project.
PROGRAM = """
import json, sys
import mlflow, numpy as np
import models
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
images = np.load("images.npy")
np.save("labels.npy", model.predict(images))
np.save("first.npy", model.predict(images[0]))
np.save("probabilities.npy", model.predict(images, params={"output": "probabilities"}))
np.save("colors.npy", model.predict(images, params={"output": "colors"}))
np.save("palette.npy", model.get_raw_model().palette)
np.save("example.npy", model.predict(model.input_example))
try:
    model.predict(images.astype(np.float32))
except ValueError as error:
    print(error)
print(models.MARK)
assert "pipelines" not in sys.modules
print(json.dumps(model.metadata.metadata))
"""


@pytest.fixture
def images(finished_run: FinishedRun) -> np.ndarray:
    split = open_dataset(finished_run.dataset).split("val")
    return np.stack([split.read(index)[0] for index in range(2)])


def files_of(run: FinishedRun, folder: Path) -> Path:
    return TrackingStore(run.uri, None).download(f"runs:/{run.run_id}/model", folder)


def run_elsewhere(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run PROGRAM in `folder` without this project's packages."""
    (folder / "models.py").write_text("MARK = 'the models of somebody else'\n")
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore", "program.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PATH": ""})


@pytest.mark.slow
def test_another_program_predicts_the_same_label_maps(
    finished_run: FinishedRun, images: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    process = run_elsewhere(tmp_path, finished_run.uri, f"runs:/{finished_run.run_id}/model")
    assert process.returncode == 0, process.stderr
    error_message, mark, metadata = process.stdout.splitlines()
    assert "received float32 (2, " in error_message
    assert "uint8 array (height, width, 3)" in error_message
    assert mark == "the models of somebody else"
    assert json.loads(metadata)["data"] == open_dataset(finished_run.dataset).manifest.fingerprint

    model = load_model(str(finished_run.directory), None)
    numerics = Numerics.choose(torch.device("cpu"), "fp32")
    expected = [predict_image(model.network, torch.tensor(i), numerics) for i in images]
    labels = np.load(tmp_path / "labels.npy")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.stack(expected))
    np.testing.assert_array_equal(np.load(tmp_path / "first.npy"), expected[0])
    probabilities = np.load(tmp_path / "probabilities.npy")
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities.argmax(1), labels)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    palette = np.load(tmp_path / "palette.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "colors.npy"), palette[labels])
    np.testing.assert_array_equal(json.loads(metadata)["palette"], palette)
    assert json.loads(metadata)["classes"] == model.class_names
    height, width = np.load(tmp_path / "example.npy").shape
    assert (height % 32, width % 32) == (0, 0)


def test_artifact_has_no_pickle_and_lists_its_requirements(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    folder = files_of(finished_run, tmp_path)
    files = {file.name for file in folder.rglob("*") if file.is_file()}
    assert files - {"registered_model_meta"} == {
        "MLmodel",
        "classes.yaml",
        "conda.yaml",
        "experiment.yaml",
        "input_example.json",
        "model.safetensors",
        "python_env.yaml",
        "requirements.txt",
        "pyfunc_loader.py",
        "serving_input_example.json",
        "sources.zip",
    }
    requirements = {
        line.split("==")[0] for line in (folder / "requirements.txt").read_text().split()
    }
    assert requirements == {"mlflow", "numpy", "PyYAML", "safetensors", "torch"}
    with zipfile.ZipFile(next(folder.rglob("sources.zip"))) as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".py", ".json"}
    with global_uri(finished_run.uri):
        signature = mlflow.models.get_model_info(str(folder)).signature
    assert signature.inputs.inputs[0].type == np.uint8
    assert signature.inputs.inputs[0].shape == (-1, -1, 3)
    assert signature.outputs.inputs[0].shape == (-1, -1)

    client = MlflowClient(finished_run.uri)
    (output,) = client.get_run(finished_run.run_id).outputs.model_outputs
    tags = client.get_logged_model(output.model_id).tags
    assert tags["orchestrator.miou"] == "0.250000"
    assert tags["orchestrator.protocol"] == "whole"


def test_models_are_found_by_score_data_set_and_parameter(finished_run: FinishedRun) -> None:
    client = MlflowClient(finished_run.uri)
    run = client.get_run(finished_run.run_id)
    manifest = open_dataset(finished_run.dataset).manifest
    dataset = {
        "dataset_name": manifest.name,
        "dataset_digest": manifest.fingerprint[:16],
    }
    (model,) = client.search_logged_models(
        [run.info.experiment_id],
        "metrics.`val/miou` > 0.2 AND params.`model.backbone` = 'dfnet1'",
        datasets=[dataset],
    )
    assert model.source_run_id == finished_run.run_id
    assert model.params == run.data.params
    metrics = {m.key: m for m in model.metrics if not m.key.startswith("eval/")}
    assert metrics.keys() == {"train/loss", "val/miou", "model/parameters_m", "model/gflops"}
    assert (metrics["val/miou"].value, metrics["val/miou"].step) == (0.25, 1)
    assert metrics["val/miou"].dataset_name == manifest.name
    assert metrics["model/gflops"].dataset_name is None
    (dataset_input,) = run.inputs.dataset_inputs
    assert dataset_input.dataset.name == manifest.name
    assert manifest.fingerprint.startswith(dataset_input.dataset.digest)
    assert json.loads(dataset_input.dataset.source) == {"uri": str(finished_run.dataset)}
    profile = json.loads(dataset_input.dataset.profile)
    assert profile["fingerprint"] == manifest.fingerprint
    assert profile["images"] == manifest.counts
    assert [tag.value for tag in dataset_input.tags] == ["train, val"]
    # The metrics of the model add no entries to those of its run.
    assert len(client.get_metric_history(finished_run.run_id, "val/miou")) == 1


@pytest.mark.slow
def test_missing_library_is_reported(
    finished_run: FinishedRun, images: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "safetensors.py").write_text("raise ModuleNotFoundError(name='safetensors')\n")
    process = run_elsewhere(tmp_path, finished_run.uri, f"runs:/{finished_run.run_id}/model")
    assert process.returncode == 1
    assert "this model needs safetensors, which is not installed here" in process.stderr
    assert f"pip install mlflow=={mlflow.__version__} " in process.stderr
    assert f"torch=={torch.__version__.split('+')[0]}" in process.stderr


def test_best_model_is_registered_once(finished_run: FinishedRun) -> None:
    store = TrackingStore(finished_run.uri, None)
    client, run_id = store.client, finished_run.run_id
    for _ in range(2):
        assert register_best(store, "of a study", run_id) == "models:/of a study@best"
        (version,) = client.search_model_versions("name = 'of a study'")
        assert version.run_id == run_id
        assert client.get_model_version(version.name, version.version).aliases == ["best"]
    # A run without a model registers nothing and removes nothing.
    other = client.create_run(client.get_run(run_id).info.experiment_id).info.run_id
    assert register_best(store, "of a study", other) is None
    client.set_terminated(other)
    client.delete_run(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "imports"),
    [
        (
            FENetConfig(backbone="dfnet1", channels=8, flows=("gated-detail", "semantic")),
            ("examples.gated_fem",),
        ),
        (NetworkConfig("examples.unet:UNet", {"width": 4}), ()),
    ],
)
def test_user_modules_are_packaged_with_the_model(
    model: FENetConfig | NetworkConfig,
    imports: tuple[str, ...],
    small_streets: Path,
    tmp_path: Path,
) -> None:
    dataset = open_dataset(small_streets)
    experiment = Experiment(model=model, training=TrainingConfig(precision="fp32"))
    network = build_network(model, 10, seed=1)
    (tmp_path / "checkpoint").mkdir()
    save_file(dict(network.state_dict()), tmp_path / "checkpoint" / "model.safetensors")
    directory = tmp_path / "model"
    write_model_directory(directory, tmp_path / "checkpoint", experiment, dataset.manifest)
    (directory / SOURCES).write_bytes(package(experiment, imports).sources)

    project_packages = ("examples", "models", "pipelines")
    before = {
        name: sys.modules[name] for name in sys.modules if name.split(".")[0] in project_packages
    }
    loaded = _load_pyfunc(str(directory))
    after = {
        name: sys.modules[name] for name in sys.modules if name.split(".")[0] in project_packages
    }
    assert after == before
    assert type(loaded.network).__name__ == type(network).__name__
    assert type(loaded.network) is not type(network)
    image, _ = dataset.split("val").read(0)
    numerics = Numerics.choose(torch.device("cpu"), "fp32")
    expected = predict_image(network.eval(), torch.tensor(image), numerics)
    np.testing.assert_array_equal(loaded.predict(image), expected)

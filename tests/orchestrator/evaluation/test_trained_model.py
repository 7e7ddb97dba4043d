"""`training.init` from the tracking store, and its effect on a trial's identity."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from ray import cloudpickle

from models import FENetConfig
from orchestrator.evaluation.trained_model import TrainedModel, local_weights
from orchestrator.storage import Storage
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.store import TrackingError
from pipelines.data.manifest import ClassInfo
from pipelines.model_directory import ClassList
from pipelines.network.build import build_network
from pipelines.network.config import ModelConfig, NetworkConfig
from pipelines.network.weight_files import WeightsError
from pipelines.training.experiment import Experiment
from tests.support.finished_run import STUDY, FinishedRun


def trial(run: FinishedRun, init: str | None, skip: tuple[str, ...] = ()) -> ResolvedTrial:
    file = run.storage / "study.yaml"
    file.write_text(STUDY.replace("DATASET", str(run.dataset)))
    (trial,) = load_study(file).trials
    experiment = trial.experiment
    training = replace(experiment.training, init=init, init_skip=skip)
    trial = replace(trial, experiment=replace(experiment, training=training))
    (resolved,) = resolve_trials(
        [trial],
        "cpu",
        str(run.storage),
        (),
        partial(local_weights, storage=Storage.parse(str(run.storage))),
    )
    return resolved


@pytest.mark.parametrize(
    "model",
    [
        FENetConfig(
            backbone="hf:swin",
            channels=8,
            backbone_arguments={"embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]},
        ),
        NetworkConfig(
            "hf:segformer",
            {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "decoder_hidden_size": 8},
        ),
    ],
    ids=["swin", "segformer"],
)
def test_models_of_transformers_reach_the_workers(model: ModelConfig) -> None:
    """Ray pickles them for its tasks, also after a forward pass."""
    pytest.importorskip("transformers")
    experiment = Experiment(model=model)
    classes = tuple(ClassInfo(name, (0, 0, index)) for index, name in enumerate("abc"))
    class_list = ClassList("made", "0" * 64, 255, classes)
    network = build_network(model, 3, seed=5).eval()
    trained = TrainedModel("made", "run", "last", experiment, class_list, network)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(images)
        received = cloudpickle.loads(cloudpickle.dumps(trained))
        assert torch.equal(received.network(images), expected)
    assert not received.network.training
    assert (received.run_id, received.experiment) == ("run", experiment)
    assert received.class_names == ["a", "b", "c"]


@pytest.mark.slow
def test_identity_depends_on_the_content_of_the_weights(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    client = MlflowClient(finished_run.uri)
    client.create_registered_model("start")
    registered_files = tmp_path / "registered"
    shutil.copytree(finished_run.directory, registered_files)  # MLflow follows no links
    source = registered_files.as_uri()
    version = client.create_model_version("start", source, finished_run.run_id).version
    client.set_registered_model_alias("start", "best", version)

    names = (f"runs:/{finished_run.run_id}/last", "models:/start@best", str(finished_run.directory))
    last, registered, directory = (trial(finished_run, name) for name in names)
    assert last.identity == registered.identity == directory.identity
    best = trial(finished_run, f"runs:/{finished_run.run_id}/best")
    no_init = trial(finished_run, None)
    skipped = trial(finished_run, names[0], ("head.*",))
    assert len({each.identity for each in (last, best, no_init, skipped)}) == 4

    # The record keeps the value in the study; the workers get a file with the weights.
    assert last.experiment.training.init == names[0]
    weights = (finished_run.directory / "model.safetensors").read_bytes()
    assert last.init is not None
    assert Path(last.init).read_bytes() == weights
    assert Path(last.init).with_name("classes.yaml").is_file()
    assert no_init.init is None


def test_bad_init_is_reported(finished_run: FinishedRun, tmp_path: Path) -> None:
    for name, error, message in (
        ("runs:/abc", WeightsError, r"training\.init: .*runs:/ID/best"),
        (f"runs:/{'0' * 32}/best", TrackingError, "not in MLflow"),
        (str(tmp_path / "nothing"), WeightsError, "no such file or directory"),
    ):
        with pytest.raises(error, match=message):
            local_weights(name, Storage.parse(str(finished_run.storage)))
    with pytest.raises(WeightsError, match=r"training\.init: .*no tracking store at .*mlflow\.db"):
        local_weights("models:/a@b", Storage.parse(str(tmp_path)))

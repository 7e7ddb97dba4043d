"""Initial weights from another training: loaded, skipped and rejected tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import FENetConfig
from pipelines.data.dataset import open_dataset
from pipelines.network.build import build_network
from pipelines.network.init_weights import load_initial_weights
from pipelines.network.weight_files import WeightsError
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training

CONFIG = FENetConfig(backbone="dfnet1", channels=8, supervision=(3, 4))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint directory of a network for 7 classes."""
    directory = tmp_path / "trained"
    directory.mkdir()
    save_file(dict(network(7, seed=5).state_dict()), directory / "model.safetensors")
    return directory


def network(classes: int, seed: int = 0, config: FENetConfig = CONFIG) -> nn.Module:
    return build_network(config, classes, seed)


def equal(first: nn.Module, second: nn.Module, prefix: str = "") -> bool:
    states = first.state_dict(), second.state_dict()
    return all(
        torch.equal(value, states[1][name])
        for name, value in states[0].items()
        if name.startswith(prefix)
    )


@pytest.mark.slow
def test_weights_are_loaded_from_directory_file_or_uri(trained: Path) -> None:
    file = trained / "model.safetensors"
    for uri in (str(trained), f"{trained}/", str(file), trained.as_uri(), file.as_uri()):
        model = network(7)
        report = load_initial_weights(model, uri)
        assert equal(model, network(7, seed=5))
        assert (report.loaded, report.skipped) == (len(model.state_dict()), ())


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_of_other_programs_are_loaded(tmp_path: Path, prefix: str) -> None:
    weights = {f"{prefix}{name}": value for name, value in network(7, 5).state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "other.pth")
    model = network(7)
    load_initial_weights(model, str(tmp_path / "other.pth"))
    assert equal(model, network(7, seed=5))


@pytest.mark.slow
def test_other_class_count_requires_skipping_the_classifiers(trained: Path) -> None:
    model = network(4)
    with pytest.raises(WeightsError) as caught:
        load_initial_weights(model, str(trained))
    message = str(caught.value)
    assert "model (4, 8, 1, 1), init (7, 8, 1, 1)" in message
    assert equal(model, network(4)), "a refusal leaves the model alone"

    # The patterns proposed by the message work.
    proposed_patterns = message.rpartition("[")[2].rstrip("]").split(", ")
    report = load_initial_weights(model, str(trained), proposed_patterns)
    assert 0 < len(report.skipped) < len(model.state_dict())
    assert equal(model.backbone, network(7, seed=5).backbone)
    state, fresh = model.state_dict(), network(4).state_dict()
    assert all(torch.equal(state[name], fresh[name]) for name in report.skipped)
    assert all(name in str(report) for name in report.skipped)


@pytest.mark.slow
def test_missing_auxiliary_heads_must_be_skipped(trained: Path) -> None:
    plain = FENetConfig(backbone="dfnet1", channels=8)
    with pytest.raises(WeightsError, match=r"model has none, init \(8, .*init_skip: \[auxiliary"):
        load_initial_weights(network(7, config=plain), str(trained))
    model = network(7, config=plain)
    load_initial_weights(model, str(trained), ["auxiliary.*"])
    assert equal(model, network(7, seed=5))


@pytest.mark.slow
def test_invalid_init_settings_are_reported(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for message, uri, skip in (
        ("no such file or directory", str(tmp_path / "nothing"), ()),
        ("model.safetensors: no such file", str(tmp_path / "empty"), ()),
        (
            r"'hed\.\*' matches no tensor; the names in the model begin with auxiliary,",
            str(trained),
            "hed.*",
        ),
    ):
        with pytest.raises(WeightsError, match=message):
            load_initial_weights(network(7), uri, [skip] if skip else [])
    with pytest.raises(ValueError, match="init_skip is set without init"):
        TrainingConfig(init_skip=("head.*",))
    with pytest.raises(ValueError, match="must not both be set"):
        TrainingConfig(init="a", backbone_weights="b")


@pytest.mark.slow
def test_training_starts_from_initial_weights(small_streets: Path, tmp_path: Path) -> None:
    save_file(dict(network(10, seed=5).state_dict()), tmp_path / "weights")
    recipe = TrainingConfig(init=str(tmp_path / "weights"), init_skip=("head.*",), batch=2)
    training = Training(
        Experiment(model=CONFIG, training=recipe),
        open_dataset(small_streets),
        torch.device("cpu"),
    )
    assert equal(training.model, network(10, seed=5), "backbone.")
    assert equal(training.model, network(10, seed=0), "head.")
    assert training.initial is not None
    assert all(name.startswith("head.") for name in training.initial.skipped)

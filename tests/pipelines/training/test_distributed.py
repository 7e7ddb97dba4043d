"""Networks of the user on several workers: buffers, and parameters that no output depends on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import LossConfig
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.network.batch_norm import synchronize_batch_norm
from pipelines.network.build import NetworkError, unreached_parameters
from pipelines.network.config import NetworkConfig
from pipelines.network.precision import Numerics
from pipelines.training.config import TrainingConfig
from pipelines.training.distributed import WorkerGroup, check_buffers_agree
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training
from tests.support.workers import join_group, run_workers


class Small(nn.Module):
    """A network with convolutions that it does not use."""

    def __init__(self, classes: int, unused: int = 0) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.classifier = nn.Conv2d(8, classes, 1)
        self.extra = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(unused)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.normalized(torch.tanh(self.features(images))))

    def normalized(self, features: Tensor) -> Tensor:
        return features


class ByValue(Small):
    """Its operations depend on values, so it does not run on the meta device."""

    def normalized(self, features: Tensor) -> Tensor:
        return features if features.sum() < torch.inf else self.extra(features)


class RunningScale(Small):
    """Divides by a running mean of its worker's images."""

    def __init__(self, classes: int, in_place: bool = True) -> None:
        super().__init__(classes)
        self.in_place = in_place
        self.register_buffer("scale", torch.ones(8))

    def normalized(self, features: Tensor) -> Tensor:
        if self.training:
            mean = features.detach().square().mean(dim=(0, 2, 3)).sqrt()
            if self.in_place:
                self.scale.lerp_(mean, 0.1)
            else:
                self.scale = self.scale.lerp(mean, 0.1)
        return features / self.scale[:, None, None]


def experiment(network: str, training: dict[str, Any] | None = None, **arguments: Any) -> Any:
    return Experiment(
        data=DataConfig(crop=(32, 48), validation_split=None),
        model=NetworkConfig(f"{__name__}:{network}", arguments),
        training=TrainingConfig(
            **{
                **{"epochs": 2, "batch": 6, "precision": "fp32", "weight_decay": 0.1},
                **{"learning_rate": 0.1, "loss": LossConfig(terms=("cross-entropy",))},
                **(training or {}),
            }
        ),
    )


def weights(chosen: Experiment, dataset: Path) -> dict[str, Tensor]:
    """Train in float64, where only errors are left of differences."""
    to_memory_format = Numerics.to_memory_format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(
            Numerics, "to_memory_format", lambda self, x: to_memory_format(self, x).double()
        )
        torch.set_default_dtype(torch.float64)
        try:
            training = Training(chosen, open_dataset(dataset), torch.device("cpu"))
            training.run(lambda report: None)
        finally:
            torch.set_default_dtype(torch.float32)
    return training.model.state_dict()


def _worker(rank: int, chosen: Experiment, dataset: Path, out: Path) -> None:
    torch.set_num_threads(1)
    join_group(rank, 2, out)
    try:
        torch.save(weights(chosen, dataset), out / f"{rank}.pt")
    except NetworkError as error:
        (out / f"{rank}.txt").write_text(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("network", "parts"), [("Small", 1), ("Small", 3), ("ByValue", 1)])
def test_parameters_without_use_train_alike_with_any_number_of_workers(
    small_streets: Path, tmp_path: Path, network: str, parts: int
) -> None:
    settings = {"accumulation": parts, "gradient_clip": 0.5}
    chosen = experiment(network, settings, unused=2)
    expected = weights(chosen, small_streets)
    run_workers(_worker, (chosen, small_streets, tmp_path), 2)
    for rank in range(2):
        trained = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in expected.items():
            if name.startswith("extra"):  # no gradient, so not even weight decay changes it
                assert torch.equal(trained[name], value), name
            else:
                torch.testing.assert_close(trained[name], value, rtol=1e-10, atol=1e-12)


def test_parameters_that_no_output_depends_on_are_found() -> None:
    for kind in (Small, ByValue):
        network = kind(4, unused=1)
        network.eval()
        state = torch.random.get_rng_state()
        assert unreached_parameters(network, (32, 48)) == {"extra.0.weight", "extra.0.bias"}
        network.extra[0].bias.requires_grad_(False)
        assert unreached_parameters(network, (32, 48)) == {"extra.0.weight"}
        assert not network.training
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not unreached_parameters(kind(4), (32, 48))


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_buffers_that_differ_between_workers_are_an_error(
    small_streets: Path, tmp_path: Path, in_place: bool
) -> None:
    chosen = experiment("RunningScale", in_place=in_place)
    run_workers(_worker, (chosen, small_streets, tmp_path), 2)
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert message.startswith("the network's buffer scale differs between workers, so each of")


@pytest.mark.parametrize("in_place", [True, False])
def test_accumulation_updates_assigned_buffers_once_per_part(
    small_streets: Path, in_place: bool
) -> None:
    """The forward pass before the parts leaves no trace."""
    chosen = experiment(
        "RunningScale", {"epochs": None, "steps": 1, "accumulation": 2}, in_place=in_place
    )
    training = Training(chosen, open_dataset(small_streets), torch.device("cpu"))
    scales = [torch.ones(8)]
    training.model.register_forward_hook(
        lambda model, images, _: scales.append(model.scale.clone())
    )
    training.run(lambda report: None)
    # Both parts, twice: the second pass starts from the initial values.
    assert len(scales) == 5
    torch.testing.assert_close(scales[3], scales[1])
    torch.testing.assert_close(scales[4], scales[2])


def _buffers(rank: int) -> nn.Module:
    """Return a network whose buffers are equal on all ranks, apart from rounding."""
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Module())
    model[0].running_mean += rank  # a synchronized batch norm is not looked at
    constants = {
        "mask": torch.tensor([0, -torch.inf, torch.nan]),
        "phases": torch.polar(torch.ones(3), torch.arange(3.0)),
        "table": torch.arange(12).view(3, 4),
        "none": torch.zeros(0),
        "zeros": torch.zeros(3),
        "sparse": torch.eye(3).to_sparse(),
        "rounded": torch.linspace(-1, 1, 8) * (1 + 1e-7 * rank),
    }
    for name, value in constants.items():
        model[1].register_buffer(name, value)
    return synchronize_batch_norm(model)


CHANGES = {
    "mask": lambda buffer, rank: buffer[0].fill_(rank),
    "phases": lambda buffer, rank: buffer.mul_(1j**rank),
    "table": lambda buffer, rank: buffer.copy_(buffer.flip(0) if rank else buffer),
    "rounded": lambda buffer, rank: buffer.mul_(1 + 1e-3 * rank),
    "zeros": lambda buffer, rank: buffer[1].fill_(torch.nan if rank else 0),
    "sparse": lambda buffer, rank: buffer.mul_(1 + rank),
}


def _checking_worker(rank: int, out: Path) -> None:
    join_group(rank, 3, out)
    group = WorkerGroup.current()
    check_buffers_agree(group, _buffers(rank))
    for name, change in CHANGES.items():
        model = _buffers(rank)
        change(model[1].get_buffer(name), rank // 2)
        with pytest.raises(NetworkError, match=rf"^the network's buffer 1\.{name} differs between"):
            check_buffers_agree(group, model)


@pytest.mark.slow
def test_buffers_are_compared_apart_from_rounding(tmp_path: Path) -> None:
    run_workers(_checking_worker, (tmp_path,), 3)

"""Synchronized batch norm against torch's batch norm on the whole batch."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.layers import BatchNorm2d
from pipelines.network import batch_norm
from pipelines.network.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from pipelines.network.build import NetworkError
from tests.support.workers import join_group, run_workers

CHANNELS = 5


def images(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([0.1, 1.0, 10.0, 1.0, 1.0]).view(1, -1, 1, 1)
    # A one-pass variance fails if the mean is far above the standard deviation.
    offset = torch.tensor([0.0, 0.0, 0.0, 50.0, -3.0]).view(1, -1, 1, 1)
    return (torch.randn(7, CHANNELS, 4, 6, generator=generator) * spread + offset).to(dtype)


def layer() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm


def loss(output: Tensor, target: Tensor) -> Tensor:
    return ((output.float() - target) ** 3).sum()


def _worker(rank: int, size: int, shares: list[int], dtype: torch.dtype, out: Path) -> None:
    join_group(rank, size, out)
    model = synchronize_batch_norm(nn.Sequential(layer()))
    share = images(dtype).split(shares)[rank].requires_grad_()
    target = torch.linspace(-1, 1, 7).view(-1, 1, 1, 1).split(shares)[rank]
    output = model(share)
    loss(output, target).backward()
    norm = model[0]
    torch.save(
        {
            "output": output.detach(),
            "input_grad": share.grad,
            "weight_grad": norm.weight.grad,
            "bias_grad": norm.bias.grad,
            "mean": norm.running_mean,
            "variance": norm.running_var,
        },
        out / f"{rank}.pt",
    )


@pytest.mark.slow
@pytest.mark.parametrize("shares", [[4, 3], [5, 1, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_normalize_over_the_global_batch(
    tmp_path: Path, shares: list[int], dtype: torch.dtype
) -> None:
    run_workers(_worker, (len(shares), shares, dtype, tmp_path), len(shares))
    parts = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(len(shares))]

    norm = layer().double()
    whole = images(dtype).double().requires_grad_()
    output = norm(whole)
    loss_value = ((output - torch.linspace(-1, 1, 7).double().view(-1, 1, 1, 1)) ** 3).sum()
    loss_value.backward()
    assert whole.grad is not None
    is_bfloat16 = dtype == torch.bfloat16

    def close(actual: Tensor, expected: Tensor, scale: float = 1.0) -> None:
        tolerance = (0.05 if is_bfloat16 else 1e-3) * scale
        torch.testing.assert_close(actual.double(), expected, rtol=2e-2, atol=tolerance)

    close(torch.cat([part["output"] for part in parts]), output.detach())
    largest = float(whole.grad.abs().max())
    close(torch.cat([part["input_grad"] for part in parts]), whole.grad, scale=largest)
    for name, parameter in (("weight_grad", norm.weight), ("bias_grad", norm.bias)):
        assert parameter.grad is not None
        total = sum(part[name].double() for part in parts)
        close(total, parameter.grad, scale=float(parameter.grad.abs().max()))
    for part in parts:
        close(part["mean"], norm.running_mean)
        close(part["variance"], norm.running_var, scale=10)


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    join_group(0, 1, tmp_path)
    yield
    dist.destroy_process_group()


def without(parameter: str) -> nn.BatchNorm2d:
    """Return a layer without a weight or a bias, as `bias=False` of torch 2.13 makes it."""
    norm = layer()
    norm.register_parameter(parameter, None)
    return norm


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(CHANNELS, momentum=None), (3, CHANNELS, 4, 6)),
        (nn.BatchNorm2d(CHANNELS, affine=False), (3, CHANNELS, 4, 6)),
        (nn.BatchNorm2d(CHANNELS, track_running_stats=False), (3, CHANNELS, 4, 6)),
        (without("bias"), (3, CHANNELS, 4, 6)),
        (without("weight"), (3, CHANNELS, 4, 6)),
        (nn.BatchNorm1d(CHANNELS), (9, CHANNELS)),
        (nn.BatchNorm3d(CHANNELS, eps=0.1), (2, CHANNELS, 3, 4, 5)),
    ],
    ids=str,
)
def test_every_batch_norm_matches_torch(norm: nn.Module, shape: tuple[int, ...]) -> None:
    synchronized = SynchronizedBatchNorm.like(copy.deepcopy(norm))
    for seed in range(3):
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        results = []
        for each in (synchronized, norm):
            features = batch.clone().requires_grad_()
            output = each(features)
            (output**3).sum().backward()
            results.append((output, features.grad))
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(synchronized.state_dict()[name], value)
    for actual, expected in zip(synchronized.parameters(), norm.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(synchronized.eval()(batch), norm.eval()(batch))


def _stats(input: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute what torch's kernel for CUDA computes."""
    variance, mean = torch.var_mean(input, dim=(0, 2, 3), correction=0)
    return mean, torch.rsqrt(variance + eps)


def _backward_reduce(
    grad: Tensor, input: Tensor, mean: Tensor, inverse: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute what torch's kernel for CUDA computes."""
    grad_sum = grad.sum(dim=(0, 2, 3))
    weighted = (grad * (input - mean.view(1, -1, 1, 1))).sum(dim=(0, 2, 3))
    return grad_sum, weighted, weighted * inverse, grad_sum


def _backward_elemt(
    grad: Tensor,
    input: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    grad_sum: Tensor,
    weighted_sum: Tensor,
    counts: Tensor,
) -> Tensor:
    """Compute what torch's kernel for CUDA computes."""
    assert counts.dtype == torch.int32
    mean, inverse, weight, grad_sum, weighted_sum = (
        each.view(1, -1, 1, 1) for each in (mean, inverse, weight, grad_sum, weighted_sum)
    )
    centered = (input - mean) * inverse.square() * weighted_sum / counts.sum()
    return (grad - grad_sum / counts.sum() - centered) * inverse * weight


@pytest.mark.usefixtures("one_worker")
def test_kernels_for_cuda_are_called_as_torch_defines_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_norm, "_has_fused_kernels", lambda input: True)
    monkeypatch.setattr(torch, "batch_norm_stats", _stats)
    monkeypatch.setattr(torch, "batch_norm_backward_reduce", _backward_reduce)
    monkeypatch.setattr(torch, "batch_norm_backward_elemt", _backward_elemt)
    for norm in (layer(), without("bias"), without("weight")):
        test_every_batch_norm_matches_torch(norm, (3, CHANNELS, 4, 6))


def test_conversion_keeps_names_values_and_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), layer()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted = synchronize_batch_norm(model)
    assert isinstance(converted[1], SynchronizedBatchNorm)
    assert not converted[1].training
    after = converted.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value)


def test_evaluation_uses_the_running_statistics() -> None:
    norm = layer()
    norm.running_mean.fill_(2)
    converted = SynchronizedBatchNorm.like(norm.eval())
    batch = images(torch.float32)
    assert torch.equal(converted(batch), norm(batch))


@pytest.mark.parametrize(
    "norm",
    [nn.LazyBatchNorm2d(), nn.InstanceNorm2d(CHANNELS, track_running_stats=True)],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_with_per_rank_statistics_are_rejected(norm: nn.Module) -> None:
    plain = nn.Sequential(nn.InstanceNorm2d(CHANNELS), nn.GroupNorm(1, CHANNELS))
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS), plain, norm)
    message = rf"^2 \({type(norm).__name__}\) has running statistics that would differ"
    with pytest.raises(NetworkError, match=message):
        synchronize_batch_norm(model)


class NormAct(nn.BatchNorm2d):
    """The form of timm's `BatchNormAct2d`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = nn.PReLU(channels)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class FrozenNorm(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(False)
        return self


class RenamedNorm(nn.BatchNorm2d):
    pass


@pytest.mark.usefixtures("one_worker")
def test_batch_norm_of_timm_keeps_its_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NormAct, "__module__", "timm.layers.norm_act")
    model = nn.Sequential(NormAct(CHANNELS))
    converted = synchronize_batch_norm(copy.deepcopy(model))
    assert isinstance(converted[0], SynchronizedBatchNorm)
    batch = images(torch.float32)
    for mode in (True, False):
        expected = model.train(mode)(batch)
        torch.testing.assert_close(converted.train(mode)(batch), expected, rtol=1e-4, atol=1e-4)
    assert list(converted.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], value)


@pytest.mark.parametrize("norm", [NormAct(CHANNELS), FrozenNorm(CHANNELS)], ids=["act", "frozen"])
def test_batch_norms_with_their_own_behavior_are_rejected(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Sequential(norm))
    message = rf"^0\.0 \({type(norm).__name__}\) is a batch norm with its own `forward` or `train`"
    with pytest.raises(NetworkError, match=message):
        synchronize_batch_norm(model)


def test_a_replaced_forward_is_rejected() -> None:
    norm = layer()
    norm.forward = lambda input: input  # type: ignore[method-assign]
    with pytest.raises(NetworkError, match=r"^0 \(BatchNorm2d\) is a batch norm with its own"):
        synchronize_batch_norm(nn.Sequential(norm))


def test_subclasses_without_their_own_behavior_are_converted() -> None:
    model = nn.Sequential(RenamedNorm(CHANNELS), nn.SyncBatchNorm(CHANNELS), BatchNorm2d(CHANNELS))
    assert {type(each) for each in synchronize_batch_norm(model)} == {SynchronizedBatchNorm}


def test_conversion_keeps_hooks() -> None:
    norm, seen = layer().eval(), []
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    converted = synchronize_batch_norm(nn.Sequential(norm))
    converted(images(torch.float32))
    assert len(seen) == 1
    handle.remove()
    converted(images(torch.float32))
    assert len(seen) == 1


def _compiling_worker(rank: int, size: int, out: Path) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch's compiler
    join_group(rank, size, out)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), layer(), nn.ReLU(), nn.Conv2d(CHANNELS, 2, 1))
    model = synchronize_batch_norm(model).train()
    batch = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(rank))
    explained = torch._dynamo.explain(model)(batch)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    outputs = [each(batch) for each in (compiled, model)]
    gradients = []
    for each, output in zip((compiled, model), outputs, strict=True):
        (output**2).sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
    (out / f"{rank}.txt").write_text(f"{explained.graph_count} {explained.graph_break_count}")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_compiles_to_one_graph_without_breaks(tmp_path: Path, size: int) -> None:
    run_workers(_compiling_worker, (size, tmp_path), size)
    for rank in range(size):
        assert (tmp_path / f"{rank}.txt").read_text() == "1 0"

"""Synchronized batch norm on the CPU against torch's batch norm on the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.network.batch_norm import CpuSyncBatchNorm, synchronize_batch_norm
from pipelines.network.build import NetworkError
from tests.support.workers import run_workers

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
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=size
    )
    model = synchronize_batch_norm(nn.Sequential(layer()), torch.device("cpu"))
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
    dist.destroy_process_group()


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


def test_statistics_without_momentum_are_cumulative_means(tmp_path: Path) -> None:
    reference = nn.BatchNorm2d(CHANNELS, momentum=None)
    synchronized = CpuSyncBatchNorm.like(nn.BatchNorm2d(CHANNELS, momentum=None))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        for batch in images(torch.float32).split(3):
            torch.testing.assert_close(synchronized(batch), reference(batch))
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(synchronized.running_mean, reference.running_mean)
    torch.testing.assert_close(synchronized.running_var, reference.running_var)


def test_conversion_keeps_names_values_and_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), layer()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted = synchronize_batch_norm(model, torch.device("cpu"))
    assert isinstance(converted[1], CpuSyncBatchNorm)
    assert not converted[1].training
    after = converted.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value)


def test_evaluation_uses_the_running_statistics() -> None:
    norm = layer()
    norm.running_mean.fill_(2)
    converted = CpuSyncBatchNorm.like(norm.eval())
    batch = images(torch.float32)
    assert torch.equal(converted(batch), norm(batch))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(CHANNELS),
        nn.BatchNorm3d(CHANNELS),
        nn.BatchNorm2d(CHANNELS, track_running_stats=False),
        nn.InstanceNorm2d(CHANNELS, track_running_stats=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_with_per_rank_statistics_are_rejected(norm: nn.Module, device: str) -> None:
    plain = nn.Sequential(nn.InstanceNorm2d(CHANNELS), nn.GroupNorm(1, CHANNELS))
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS), plain, norm)
    if device == "cuda" and not isinstance(norm, nn.InstanceNorm2d):
        assert isinstance(synchronize_batch_norm(model, torch.device(device))[2], nn.SyncBatchNorm)
        return
    message = rf"^2 \({type(norm).__name__}\) has running statistics that would differ"
    with pytest.raises(NetworkError, match=message):
        synchronize_batch_norm(model, torch.device(device))

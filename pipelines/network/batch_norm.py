"""Batch normalization over the global batch, on accelerators and CPU.

torch's `SyncBatchNorm` runs on accelerators only. `CpuSyncBatchNorm` computes the same function on
the CPU with any process group, so that any number of workers takes the same step.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pipelines.network.build import NetworkError


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm in `model` by one that normalizes over all workers.

    On the CPU, this replaces each `BatchNorm2d` with running statistics. Names, parameters and
    buffers do not change, so checkpoints fit before and after.

    Raises:
        NetworkError: the statistics of a layer would still be local to each worker, so the workers'
            networks would diverge.
    """
    if device.type != "cpu":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.BatchNorm2d) and child.track_running_stats:
                    setattr(parent, name, CpuSyncBatchNorm.like(child))
    for name, module in model.named_modules():
        if _is_local(module):
            raise NetworkError(
                f"{name} ({type(module).__name__}) has running statistics that would differ "
                "between workers; use BatchNorm2d, a layer without running statistics, or one "
                "worker"
            )
    return model


def _is_local(module: nn.Module) -> bool:
    """Whether the statistics of a layer are local to a worker."""
    if isinstance(module, CpuSyncBatchNorm | nn.SyncBatchNorm):
        return False
    # Without running statistics, instance norm treats every image independently.
    return isinstance(module, _BatchNorm) or (
        isinstance(module, _InstanceNorm) and module.track_running_stats
    )


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` with the training statistics of the global batch.

    Input and output `(batch, channels, height, width)`, float32 or bfloat16; statistics float32.
    The batches of the workers may differ in size. Source: Ioffe and Szegedy, ICML 2015; the sums of
    forward and backward pass run over all workers.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "CpuSyncBatchNorm":
        """Return a synchronized layer that shares the parameters and buffers of `norm`."""
        new = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        new.train(norm.training)
        return new

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        output, mean, variance, count = _GlobalBatchNorm.apply(
            input, self.weight, self.bias, self.eps
        )
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            # Without momentum, the running statistics are the means over all batches so far.
            momentum = self.momentum
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
        return output


class _GlobalBatchNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, statistics over all workers."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(input.float(), dim=(0, 2, 3), correction=0)
        count = torch.full_like(mean[:1], input.numel() / input.shape[1])
        local = torch.cat([count, mean, variance])
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local)
        counts, means, variances = torch.stack(gathered).split(
            [1, mean.numel(), mean.numel()], dim=1
        )
        total = counts.sum()
        share = counts / total
        mean = (share * means).sum(dim=0)
        # Chan et al.: variances within the workers plus the variance of the workers' means.
        variance = (share * (variances + (means - mean).square())).sum(dim=0)
        output = F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(input, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return output, mean, variance, total

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, _mean: None, _variance: None, _total: None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        input, weight, mean, variance, total = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        # The gradient for fixed statistics, by torch's fused kernel ...
        grad_input, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, input, weight, mean, variance, mean, inverse, False, ctx.eps, [True, True, True]
        )
        # ... plus the gradient through the statistics, an affine function of the input per channel.
        sums = torch.stack([grad_bias, grad_weight]).float()
        dist.all_reduce(sums)
        scale = weight * inverse / total
        slope = scale * inverse * sums[1]
        offset = scale * sums[0] - slope * mean
        # In float32 even for bfloat16 input, because slope * input and offset nearly cancel.
        correction = torch.addcmul(offset.view(1, -1, 1, 1), input.float(), slope.view(1, -1, 1, 1))
        return (grad_input - correction).to(input.dtype), grad_weight, grad_bias, None

"""Batch normalization over the global batch, on every device.

torch's `SyncBatchNorm` does not run on CPUs, makes the host wait for a GPU three times per layer,
and cannot be compiled into one graph. `SynchronizedBatchNorm` computes the same function with any
process group, so that any number of workers takes the same step.
"""

from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from models.layers import BatchNorm2d
from pipelines.network.build import NetworkError


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every batch norm in `model` by one that normalizes over all workers.

    Names, parameters, buffers and hooks do not change, so checkpoints fit before and after. timm's
    batch norms with an activation keep it.

    Raises:
        NetworkError: the statistics of a layer would still be local to each worker, so the workers'
            networks would diverge; or a batch norm has a `forward` or `train` of its own.
    """
    for prefix, parent in list(model.named_modules()):
        for name, child in parent.named_children():
            if not isinstance(child, _BatchNorm) or isinstance(child, _LazyNormBase):
                continue
            if _has_activation(child):
                setattr(parent, name, _SynchronizedBatchNormAct.like(child))
            elif _is_ordinary(child):
                setattr(parent, name, SynchronizedBatchNorm.like(child))
            else:
                raise NetworkError(
                    f"{f'{prefix}.{name}'.lstrip('.')} ({type(child).__name__}) is a batch norm "
                    "with its own `forward` or `train`, which cannot be synchronized over several "
                    "workers; use BatchNorm2d and separate layers, or one worker"
                )
    for name, module in model.named_modules():
        if _is_local(module):
            raise NetworkError(
                f"{name} ({type(module).__name__}) has running statistics that would differ "
                "between workers; use BatchNorm2d, a layer without running statistics, or one "
                "worker"
            )
    return model


def _has_activation(norm: _BatchNorm) -> bool:
    """Whether a layer is timm's `BatchNormAct2d` or `SyncBatchNormAct`."""
    is_timm = type(norm).__module__.startswith("timm.")
    return is_timm and hasattr(norm, "drop") and hasattr(norm, "act")


def _is_ordinary(norm: _BatchNorm) -> bool:
    """Whether a layer does what `SynchronizedBatchNorm` does, apart from the statistics."""
    kind = type(norm)
    known = (_BatchNorm, nn.SyncBatchNorm, BatchNorm2d, SynchronizedBatchNorm)
    return (
        any(kind.forward is each.forward for each in known)
        and kind.train is nn.Module.train
        and not {"forward", "train"} & vars(norm).keys()
    )


def _is_local(module: nn.Module) -> bool:
    """Whether the statistics of a layer are local to a worker."""
    if isinstance(module, SynchronizedBatchNorm):
        return False
    # Without running statistics, instance norm treats every image independently.
    return isinstance(module, _BatchNorm) or (
        isinstance(module, _InstanceNorm) and module.track_running_stats
    )


class SynchronizedBatchNorm(_BatchNorm):
    """`BatchNorm1d`, `2d` or `3d` with the training statistics of the global batch.

    Input and output `(batch, channels, ...)`, float32 or bfloat16; statistics float32. The batches
    of the workers may differ in size. Source: Ioffe and Szegedy, ICML 2015; the sums of forward and
    backward pass run over all workers.
    """

    @classmethod
    def like(cls, norm: _BatchNorm) -> Self:
        """Return a synchronized layer that shares everything of `norm`: parameters, buffers,
        settings and hooks."""
        new = cls.__new__(cls)
        vars(new).update(vars(norm))
        return new

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm needs (batch, channels, ...), received {input.dim()}D")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias  # None also with a weight, for `bias=False`
        if weight is None:
            weight = torch.ones(self.num_features, device=input.device)
        if bias is None:
            bias = torch.zeros_like(weight)
        output, mean, variance, count = _GlobalBatchNorm.apply(input, weight, bias, self.eps)
        if self.track_running_stats:
            self._track(mean, variance, count)
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without momentum, the running statistics are the means over all batches so far.
        momentum: float | Tensor | None = self.momentum
        if momentum is None:
            momentum = (1 / self.num_batches_tracked).to(mean.dtype)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)


class _SynchronizedBatchNormAct(SynchronizedBatchNorm):
    """timm's `BatchNormAct2d` with the training statistics of the global batch."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class _GlobalBatchNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, statistics over all workers."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance = _local_statistics(input, eps)
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
        ctx.save_for_backward(input, weight, mean, variance, counts)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return output, mean, variance, total

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, _mean: None, _variance: None, _total: None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        input, weight, mean, variance, counts = ctx.saved_tensors
        backward = _fused_backward if _has_fused_kernels(input) else _composed_backward
        return *backward(grad, input, weight, mean, variance, counts, ctx.eps), None


def _has_fused_kernels(input: Tensor) -> bool:
    """Whether to use torch's kernels for synchronized batch norm, which exist for CUDA only.

    The compiler fuses the plain operations itself, with their neighbors.
    """
    return input.is_cuda and not torch.compiler.is_compiling()


def _local_statistics(input: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel over this worker's batch, float32 `(channels,)`."""
    if _has_fused_kernels(input):
        mean, inverse = torch.batch_norm_stats(_dense(input), eps)
        return mean, (inverse.square().reciprocal() - eps).clamp(min=0)
    others = [0, *range(2, input.dim())]
    variance, mean = torch.var_mean(input.float(), dim=others, correction=0)
    return mean, variance


def _fused_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    counts: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias, by two kernels for CUDA."""
    grad, input, inverse = _dense(grad), _dense(input), torch.rsqrt(variance + eps)
    grad_sum, weighted_sum, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
        grad, input, mean, inverse, weight, True, True, True
    )
    sums = torch.stack([grad_sum, weighted_sum])
    dist.all_reduce(sums)
    grad_input = torch.batch_norm_backward_elemt(
        grad, input, mean, inverse, weight, sums[0], sums[1], counts.flatten().to(torch.int32)
    )
    return grad_input, grad_weight, grad_bias


def _composed_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    counts: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias, by operations of every device."""
    inverse = torch.rsqrt(variance + eps)
    # The gradient for fixed statistics, by torch's fused kernel ...
    grad_input, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
        grad, input, weight, mean, variance, mean, inverse, False, eps, [True, True, True]
    )
    # ... plus the gradient through the statistics, an affine function of the input per channel.
    sums = torch.stack([grad_bias, grad_weight]).float()
    dist.all_reduce(sums)
    scale = weight * inverse / counts.sum()
    slope = scale * inverse * sums[1]
    offset = scale * sums[0] - slope * mean
    # In float32 even for bfloat16 input, because slope * input and offset nearly cancel.
    shape = (1, -1, *(1 for _ in range(2, input.dim())))
    correction = torch.addcmul(offset.view(shape), input.float(), slope.view(shape))
    return (grad_input - correction).to(input.dtype), grad_weight, grad_bias


def _dense(values: Tensor) -> Tensor:
    """Return `values` in one of the memory formats that the kernels for CUDA take."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory_format = formats.get(values.dim())
    if memory_format is not None and values.is_contiguous(memory_format=memory_format):
        return values
    return values.contiguous()

"""Is training on a GPU right, how fast is it, and where does the time go?

    python -m benchmarks.gpu_check --out DIR [--minutes N] [--only PART ...] [--device cpu --tiny]

Runs parts in order of importance, each by itself; a part that would exceed the time limit is left
out, and an error in one does not stop the others. Results are printed and written to
`DIR/result.json` after every part. Needs what `pipelines` needs; neither Ray nor MLflow.

`--device cpu --tiny` tries the script itself, on small networks and images.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes import CLASSES, open_scenes
from models import FENetConfig
from models.losses import mined_cross_entropy
from pipelines.data.config import DataConfig
from pipelines.data.device_batches import TrainingBatch, prefetch_to_device
from pipelines.data.node_cache import NodeCache
from pipelines.machine import cores
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.streets import Streets
from pipelines.training.config import TrainingConfig
from pipelines.training.determinism import training_algorithms
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport

RATE = 1e-6  # learning rate of timed steps; tiny, so that weights stay nearly the same

# Words in the names of CUDA kernels, in the order in which they are looked for.
KERNELS = {
    "convolution": ("conv", "xmma", "cutlass", "sm80", "sm90", "wgrad", "dgrad", "cudnn", "nchw"),
    "matrix product": ("gemm", "cublas"),
    "batch norm": ("batch_norm",),
    "resizing": ("upsample",),
    "softmax": ("softmax", "SoftMax"),
    "top-k": ("topk", "TopK", "radix"),
    "optimizer": ("FusedSgd", "fused_sgd", "multi_tensor"),
    "concatenation": ("CatArray",),
    "copies and casts": ("copy", "Memcpy", "Memset", "fill"),
    "pointwise": ("elementwise", "vectorized"),
}


@dataclass(frozen=True)
class Setting:
    """The device and the sizes of this run.

    crop, batch: of timed steps. small_crop, small_batch: of steps that are compared.
    """

    device: torch.device
    directory: Path
    out: Path
    crop: int
    batch: int
    small_crop: int
    small_batch: int
    backbones: tuple[str, ...]
    repeats: int

    def experiment(self, backbone: str, crop: int, batch: int, **training: Any) -> Experiment:
        return Experiment(
            data=DataConfig(crop=(crop, crop), validation_split=None),
            model=FENetConfig(backbone=backbone, supervision=(3, 4)),
            training=TrainingConfig(batch=batch, **training),
        )

    def small(self, **training: Any) -> Experiment:
        return self.experiment(self.backbones[0], self.small_crop, self.small_batch, **training)

    def training(self, experiment: Experiment, device: torch.device | None = None) -> Training:
        cache = NodeCache(self.directory / "cache")
        dataset = open_scenes(self.directory / "set")
        return Training(experiment, dataset, device or self.device, cache=cache)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """Return the median time of a call, including the device's work."""
        times = []
        for _ in range(self.repeats + 2):
            self.synchronize()
            started = time.perf_counter()
            work()
            self.synchronize()
            times.append(1e3 * (time.perf_counter() - started))
        return round(statistics.median(times[2:]), 3)

    def peak_gib(self) -> float | None:
        """Return the peak memory since the last call on a GPU."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 2)


def batches(training: Training) -> Iterator[TrainingBatch]:
    """Yield augmented batches of the training's epochs without end."""
    sources = (batch for epoch in range(10**6) for batch in training.batches.epoch(epoch))
    return prefetch_to_device(sources, training.augmentation, training.numerics.device)


def take_steps(training: Training, source: Iterator[TrainingBatch], count: int) -> None:
    training.replica.train()
    with training_algorithms(training.experiment.training.deterministic):
        for _ in range(count):
            training._step([next(source)], RATE, False)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-30))


def environment(setting: Setting) -> dict[str, Any]:
    """Versions and the GPU."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {
            "gpu": properties.name,
            "gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def steps_on_the_cpu(setting: Setting) -> dict[str, Any]:
    """Loss, gradients and weights of the first steps, relative to the same steps on the CPU.

    The first loss and gradients should agree to 1e-3 in fp32 and 3e-2 in bf16 relative to fp32's.
    """
    found = {}
    for precision in ("fp32", "bf16"):
        experiment = setting.small(precision=precision, learning_rate=0.01)
        host = setting.training(experiment, torch.device("cpu"))
        device = setting.training(experiment)
        source = batches(host)
        for number in (1, 2, 3):
            batch = next(source)
            copy = TrainingBatch(
                images=batch.images.to(setting.device),
                labels=batch.labels.to(setting.device),
                sample_keys=batch.sample_keys.to(setting.device),
                identifiers=batch.identifiers,
            )
            losses = []
            for training, part in ((device, copy), (host, batch)):
                training.replica.train()
                losses.append(training._step([part], 0.01, False)[1][0])
            parameters = [list(each.model.parameters()) for each in (device, host)]
            gradients, weights = (
                [torch.cat([value(p).flatten().cpu() for p in each]) for each in parameters]
                for value in (lambda p: p.grad, lambda p: p.detach())
            )
            found[f"{precision}, step {number}"] = {
                "losses": losses,
                "gradients": relative_error(*gradients),
                "weights": relative_error(*weights),
            }
    return found


def host_waits(setting: Setting) -> dict[str, float] | str:
    """Where the host waits for the GPU, in times per step; nowhere but for the event of the losses,
    which torch does not report."""
    if setting.device.type != "cuda":
        return "needs a GPU"
    training = setting.training(setting.small())
    source = batches(training)
    take_steps(training, source, 3)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            take_steps(training, source, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in caught)
    return {line: count / 4 for line, count in lines.items()}


def speed(setting: Setting) -> dict[str, Any]:
    """The loop as it is, from the node cache; the same on one batch; compiled on a GPU."""
    found = {}
    for backbone in setting.backbones:
        is_first = backbone == setting.backbones[0]
        for compiled in (False, True) if is_first and setting.device.type == "cuda" else (False,):
            setting.peak_gib()
            experiment = setting.experiment(backbone, setting.crop, setting.batch, compile=compiled)
            training = setting.training(experiment)
            source = batches(training)
            take_steps(training, source, 4)
            whole, alone = (
                _seconds_per_step(setting, training, each)
                for each in (source, _repeated(next(source)))
            )
            name = f"{backbone}{', compiled' if compiled else ''}"
            found[name] = {
                "images/s": round(setting.batch / whole, 2),
                "ms/step": round(1e3 * whole, 2),
                "ms/step on one batch": round(1e3 * alone, 2),
                "peak GiB": setting.peak_gib(),
            }
            print(f"  {name}: {found[name]}", flush=True)
            del training, source
    return found


def _seconds_per_step(
    setting: Setting, training: Training, source: Iterator[TrainingBatch]
) -> float:
    setting.synchronize()
    started = time.perf_counter()
    take_steps(training, source, setting.repeats)
    setting.synchronize()
    return (time.perf_counter() - started) / setting.repeats


def _repeated(batch: TrainingBatch) -> Iterator[TrainingBatch]:
    while True:
        yield batch


def kernels(setting: Setting) -> dict[str, Any] | str:
    """Milliseconds of a step by kind of kernel; tables of single kernels as files."""
    if setting.device.type != "cuda":
        return "needs a GPU"
    from torch.profiler import ProfilerActivity, profile

    found = {}
    for backbone in setting.backbones:
        training = setting.training(setting.experiment(backbone, setting.crop, setting.batch))
        source = batches(training)
        take_steps(training, source, 4)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            take_steps(training, source, 2)
            setting.synchronize()
        times: Counter[str] = Counter()
        launches = 0
        for event in profiled.events() or ():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                launches += 1
                kinds = (kind for kind, words in KERNELS.items() if _has(event.name, words))
                times[next(kinds, "other")] += event.device_time_total / 2e3
        table = profiled.key_averages().table(sort_by="device_time_total", row_limit=60)
        (setting.out / f"kernels-{backbone}.txt").write_text(table)
        milliseconds = {kind: round(each, 2) for kind, each in times.most_common()}
        found[backbone] = {"launches": launches / 2, **milliseconds}
    return found


def _has(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)


def loss(setting: Setting) -> dict[str, Any]:
    """Milliseconds and memory of the mined loss, forward and backward, in strips and as a whole."""
    found = {}
    for classes in (CLASSES, 150):
        labels = torch.randint(
            0, classes, (setting.batch, setting.crop, setting.crop), device=setting.device
        )
        logits = torch.randn(
            setting.batch, classes, setting.crop // 4, setting.crop // 4, device=setting.device
        )
        logits = logits.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()

        def in_strips(logits: Tensor = logits, labels: Tensor = labels) -> None:
            total, count = mined_cross_entropy(logits, labels, 0.7, 0.05)
            (total / count).backward()

        def whole(logits: Tensor = logits, labels: Tensor = labels) -> None:
            size = labels.shape[-2:]
            upsampled = F.interpolate(logits.float(), size=size, mode="bilinear")
            F.cross_entropy(upsampled, labels).backward()

        for name, work in (("strips", in_strips), ("whole, not mined", whole)):
            setting.peak_gib()
            milliseconds = setting.milliseconds(work)
            key = f"{classes} classes, {name}"
            found[key] = {"ms": milliseconds, "peak GiB": setting.peak_gib()}
    return found


def repeatability(setting: Setting) -> dict[str, Any]:
    """Largest differences of weights between two trainings, and between one that is resumed and one
    that is not; 0 with `deterministic`."""
    found = {}
    for deterministic in (True, False):
        experiment = setting.small(epochs=2, deterministic=deterministic)
        checkpoint = setting.directory / f"stopped {deterministic}"
        first, second = (_trained(setting, experiment) for _ in range(2))
        training = setting.training(experiment)
        with suppress(_StopTraining):
            training.run(partial(_save_and_stop, checkpoint), report_steps=1)
        resumed = setting.training(experiment)
        resumed.restore(checkpoint)
        resumed.run(lambda report: None)
        found[f"deterministic: {str(deterministic).lower()}"] = {
            "two trainings": _largest_difference(first, second),
            "resumed": _largest_difference(first, resumed),
        }
    return found


class _StopTraining(Exception):  # noqa: N818 - ends a training, not an error
    """The training has been saved."""


def _save_and_stop(checkpoint: Path, report: TrainingReport) -> None:
    report.snapshot().write(checkpoint)
    raise _StopTraining


def _trained(setting: Setting, experiment: Experiment) -> Training:
    training = setting.training(experiment)
    training.run(lambda report: None)
    return training


def _largest_difference(one: Training, other: Training) -> float:
    weights = other.model.state_dict()
    return max(
        float((value.double() - weights[name].double()).abs().max())
        for name, value in one.model.state_dict().items()
    )


def augmentation(setting: Setting) -> dict[str, Any]:
    """The augmented batch relative to the CPU's, and its time on the device."""
    training = setting.training(setting.experiment(setting.backbones[0], setting.crop, 4))
    source = training.batches.load(training.batches.batches.epoch(0)[0])
    images, labels = training.augmentation(source)
    moved = source.to(setting.device)
    device_images, device_labels = training.augmentation(moved)
    return {
        "labels equal": torch.equal(device_labels.cpu(), labels),
        "largest difference": float((device_images.cpu() - images).abs().max()),
        "ms": setting.milliseconds(lambda: training.augmentation(moved)),
        "ms of the copy": setting.milliseconds(lambda: source.to(setting.device)),
    }


#: Parts in order, with the seconds that each takes on a recent GPU.
PARTS: dict[Callable[[Setting], Any], float] = {
    environment: 5,
    steps_on_the_cpu: 60,
    host_waits: 20,
    speed: 150,
    kernels: 50,
    loss: 30,
    repeatability: 60,
    augmentation: 30,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Check training on a GPU.")
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument("--minutes", type=float, default=7.5, help="time limit")
    parser.add_argument("--only", nargs="*", help="names of the parts to run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {"crop": 1024, "batch": 8, "small_crop": 256, "small_batch": 4}
    sizes |= {"backbones": ("resnet18", "resnet101"), "repeats": 20}
    images, size = 24, (1024, 2048)
    if options.tiny:
        sizes = {"crop": 64, "batch": 2, "small_crop": 64, "small_batch": 2, "repeats": 2}
        sizes["backbones"] = ("dfnet1",)
        images, size = 4, (96, 192)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        prepare(Streets(train=images, val=1, size=size), directory / "set", workers=cores())
        setting = Setting(torch.device(options.device), directory, options.out, **sizes)
        for part, seconds in PARTS.items():
            name = part.__name__
            if options.only and name not in options.only:
                continue
            started = time.monotonic()
            if not options.tiny and started + seconds > end:
                results[name] = "left out, because too little time is left"
            else:
                try:
                    results[name] = part(setting)
                except Exception:
                    results[name] = traceback.format_exc()
            print(f"{name}, {time.monotonic() - started:.1f} s: {results[name]}", flush=True)
            (options.out / "result.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

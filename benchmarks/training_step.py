"""How fast is a training step, compared with a straightforward one and with the device's limits?

    python -m benchmarks.training_step [--gpu] [--compile] [--rounds N] [--batch N] [--crop N]

Compares in one run: a step as most training code has it (fp32, NCHW, eager, images loaded and
augmented on demand, mining by sorting all pixels), the same with each improvement of this project
added in turn, and the project's training loop. All read decoded images. bf16 is left out where the
processor only emulates it. Prints for each: images per second, milliseconds by part, peak memory,
and the share of the device's measured rate of multiply-adds; then the roofline of every part (see
`roofline.py`).

On a CPU: FENet-ResNet-18 on small crops. `--gpu`: FENet-ResNet-18 and -101, 1024 x 1024, batch 8.
Renders its own `streets` data. Needs neither Ray nor MLflow.
"""

import argparse
import platform
import statistics
import tempfile
import time
from contextlib import suppress
from datetime import date
from pathlib import Path

import torch

from benchmarks.roofline import DeviceLimits, Work, measure_limits
from benchmarks.scenes import open_scenes
from benchmarks.step_recipes import PARTS, RATE, Subject, improvements
from models import FENetConfig
from pipelines.data.config import DataConfig
from pipelines.data.device_batches import prefetch_to_device
from pipelines.data.node_cache import NodeCache
from pipelines.machine import cores
from pipelines.network.precision import has_native_bfloat16
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.streets import Streets
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training


class PeakMemory:
    """Peak memory since this object was created, above the memory in use at that time.

    Measures the GPU's memory on CUDA, else the process's memory (Linux).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._before = self._peak()

    def gib(self) -> float:
        return (self._peak() - self._before) / 2**30

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def loop_steps(training: Training, count: int) -> list[float]:
    """Return the milliseconds of `count` steps of the project's loop, after one warm-up step."""
    parts = prefetch_to_device(
        (batch for epoch in range(10**6) for batch in training.batches.epoch(epoch)),
        training.augmentation,
        training.numerics.device,
    )
    training.replica.train()
    times = []
    for _ in range(count + 1):
        started = time.perf_counter()
        training._step([next(parts)], RATE, False)  # ends when the losses are on the host
        times.append(1e3 * (time.perf_counter() - started))
    return times[1:]


def compare(
    backbone: str,
    experiment: Experiment,
    directory: Path,
    device: torch.device,
    options: argparse.Namespace,
) -> None:
    """Measure all recipes in turn, `rounds` times, and print the tables."""
    batch, crop = experiment.training.batch, experiment.data.crop[0]
    print(f"\n{backbone}, crops of {crop} x {crop}, batch {batch}")
    has_bf16 = has_native_bfloat16(device.type)
    fastest = torch.bfloat16 if has_bf16 else torch.float32
    if not has_bf16:
        print("  bf16 is left out: this processor only emulates it")
    limits = {dtype: measure_limits(device, dtype) for dtype in {torch.float32, fastest}}
    for dtype, limit in limits.items():
        print(
            f"  measured limits, {str(dtype).removeprefix('torch.')}: "
            f"{limit.multiply_adds / 1e9:,.0f} G multiply-adds/s, {limit.bytes / 1e9:,.0f} GB/s",
            flush=True,
        )
    subjects = {
        name: Subject(recipe, experiment, directory, device)
        for name, recipe in improvements(device.type == "cuda", options.compile, has_bf16)
    }
    work = next(subject for subject in subjects.values() if subject.recipe.fused).work()
    multiply_adds = sum(part.multiply_adds for part in work.values())
    times: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    peaks = dict.fromkeys(subjects, 0.0)
    for _ in range(options.rounds):
        for name in list(times):
            memory = PeakMemory(device)
            try:
                times[name] += subjects[name].steps(options.steps)
            except torch.OutOfMemoryError:
                # The straightforward step of the largest network exceeds some GPUs' memory.
                print(f"  {name}: skipped, out of device memory")
                del times[name]
                torch.cuda.empty_cache()
                continue
            peaks[name] = max(peaks[name], memory.gib())
            latest = statistics.median(step["whole"] for step in times[name][-options.steps :])
            print(f"  {name}: {latest:.1f} ms/step", flush=True)
    medians = {
        name: {
            part: statistics.median(step.get(part, 0.0) for step in steps)
            for part in (*PARTS, "whole")
        }
        for name, steps in times.items()
    }
    print_steps(medians, peaks, batch, multiply_adds, limits[fastest])
    cache = NodeCache(directory / "cache")
    training = Training(experiment, open_scenes(directory / "set"), device, cache=cache)
    whole = statistics.median(loop_steps(training, options.steps * options.rounds))
    print(f"  {'pipelines.training.loop':28}{1e3 * batch / whole:9.2f}{whole:10.1f}")
    print_roofline(work, medians[list(medians)[-1]], limits[fastest])


def print_steps(
    medians: dict[str, dict[str, float]],
    peaks: dict[str, float],
    batch: int,
    multiply_adds: int,
    limits: DeviceLimits,
) -> None:
    header = "".join(f"{part:>13}" for part in PARTS)
    print(
        f"  {'':28}{'images/s':>9}{'ms/step':>10}{header}{'GiB':>7}{'of best rate':>14}"
        f"{'speedup':>9}"
    )
    slowest = next(iter(medians.values()))["whole"]
    for name, parts in medians.items():
        whole = parts["whole"]
        split = "".join(f"{parts[part]:13.1f}" for part in PARTS)
        share = multiply_adds / (whole / 1e3) / limits.multiply_adds
        print(
            f"  {name:28}{1e3 * batch / whole:9.2f}{whole:10.1f}{split}{peaks[name]:7.2f}"
            f"{share:14.1%}{slowest / whole:9.2f}"
        )


def print_roofline(work: dict[str, Work], times: dict[str, float], limits: DeviceLimits) -> None:
    print(
        f"\n  {'roofline':14}{'G multiply-adds':>16}{'GB':>8}{'least ms':>10}{'ms':>9}{'ratio':>7}"
    )
    least = {name: 1e3 * limits.seconds(part) for name, part in work.items()}
    for name, part in work.items():
        if least[name]:
            ratio = f"{times[name] / least[name]:.2f}" if times[name] else "hidden"
            print(
                f"  {name:14}{part.multiply_adds / 1e9:16.1f}{part.bytes / 1e9:8.2f}"
                f"{least[name]:10.1f}{times[name]:9.1f}{ratio:>7}"
            )
    total = sum(least.values())
    print(f"  {'whole step':40}{total:10.1f}{times['whole']:9.1f}{times['whole'] / total:7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare implementations of a training step.")
    parser.add_argument("--gpu", action="store_true", help="use CUDA and the paper's sizes")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all recipes")
    parser.add_argument("--steps", type=int, default=3, help="steps per recipe and round")
    parser.add_argument("--batch", type=int, help="images per step")
    parser.add_argument("--crop", type=int, help="side of a crop in pixels")
    options = parser.parse_args()
    device = torch.device("cuda" if options.gpu else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    crop = options.crop or (1024 if options.gpu else 256)
    batch = options.batch or (8 if options.gpu else 4)
    name = torch.cuda.get_device_name() if options.gpu else processor()
    print(f"{date.today()}, {name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        size = (1024, 2048) if options.gpu else (256, 512)
        prepare(Streets(train=32, val=1, size=size), directory / "set", workers=cores())
        for backbone in ("resnet18", "resnet101") if options.gpu else ("resnet18",):
            experiment = Experiment(
                data=DataConfig(crop=(crop, crop)),
                model=FENetConfig(backbone=backbone, supervision=(3, 4)),
                training=TrainingConfig(batch=batch, learning_rate=RATE),
            )
            compare(backbone, experiment, directory, device, options)


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()

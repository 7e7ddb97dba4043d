"""How fast does data loading produce training samples, compared with common practice?

    python -m benchmarks.loading [--images N] [--rounds N] [--batch N]

Compares in one run, on one core, in samples per second of CPU time, with images of 1024 x 2048 and
crops of 1024 x 1024, resized by 0.5 to 2:

  loading only      (a) this pipeline, from the node cache; (b) a `torch.utils.data` dataset that
                    decodes PNG with Pillow and crops with albumentations; (c) a memory copy of the
                    same windows, the upper limit
  memory            what epochs of (a) add to the process, compared with the batches it may hold
  with augmentation (a) this pipeline on the CPU; (b) the same recipe in albumentations and OpenCV
  on a GPU          time to augment a batch, plain and compiled, compared with kornia's
                    AugmentationSequential and a training step of FENet with ResNet-18

Needs albumentations and opencv-python-headless for (b).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from models import FENet, FENetConfig, LossConfig, SegmentationLoss
from models.imagenet import IMAGENET_MEAN, IMAGENET_STD
from pipelines.data.augmentation import Augmentation
from pipelines.data.batches import SourceBatch
from pipelines.data.config import DataConfig
from pipelines.data.dataset import Samples, open_dataset
from pipelines.data.loading import TrainingBatches
from pipelines.data.node_cache import NodeCache
from pipelines.machine import cores
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.streets import Streets

SIZE, CROP = (1024, 2048), (1024, 1024)
DATA = DataConfig(crop=CROP)
AHEAD = 4  # batches that loading may prefetch


class PngDataset(torch.utils.data.Dataset[tuple[Any, Any]]):
    """Image and label PNGs in a folder, as most training code reads them."""

    def __init__(self, directory: Path, transform: albumentations.Compose) -> None:
        self.images = sorted(directory.glob("*-image.png"))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path = self.images[index]
        image = np.asarray(Image.open(path).convert("RGB"))
        label = np.asarray(Image.open(path.with_name(path.name.replace("-image", "-label"))))
        result = self.transform(image=image, mask=label)
        pixels = np.ascontiguousarray(result["image"].transpose(2, 0, 1))
        return torch.from_numpy(pixels), torch.from_numpy(result["mask"])


def albumentations_crop() -> list[Any]:
    return [albumentations.RandomCrop(*CROP)]


def albumentations_recipe() -> list[Any]:
    """Return the same recipe in albumentations: scale before crop, and uint8, OpenCV's fastest."""
    return [
        albumentations.RandomScale(scale_limit=(-0.5, 1.0), p=1),
        albumentations.PadIfNeeded(*CROP, fill=(124, 116, 104), fill_mask=255),
        albumentations.RandomCrop(*CROP),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.ColorJitter(0.25, 0.25, 0.25, 0.25, p=1),
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.15, 1.3), p=1),
        albumentations.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]


def copied_windows(batches: TrainingBatches, split: Samples) -> Callable[[int], None]:
    """Return a function that copies the windows of batch `step` to buffers allocated before."""
    steps = batches.batches.epoch(0)
    sources = [split.read(index) for index in range(len(split))]
    target = np.zeros((SIZE[0], SIZE[1], 3), np.uint8)
    target_label = np.zeros(SIZE, np.uint8)
    loaded = [batches.load(draws).geometry for draws in steps]

    def copy(step: int) -> None:
        for sample, geometry in zip(steps[step].samples.tolist(), loaded[step], strict=True):
            image, label = sources[sample]
            window = tuple(
                _window(numbers, crop) for numbers, crop in zip(geometry, CROP, strict=True)
            )
            part = image[window]
            target[: part.shape[0], : part.shape[1]] = part
            target_label[: part.shape[0], : part.shape[1]] = label[window]

    return copy


def _window(numbers: Tensor, crop: int) -> slice:
    """Return the source pixels that one axis of a crop needs, to within a pixel."""
    source, resized, offset, start = numbers.tolist()
    last = min(resized, offset + crop) - 1
    return slice(start, min(source, (2 * last + 1) * source // (2 * resized) + 2))


def measure(
    subjects: dict[str, Callable[[int], Any]], steps: int, batch: int, rounds: int
) -> dict[str, float]:
    """Return each subject's median samples per second of CPU time; they take turns each round."""
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for each in subjects.values():
        each(0)
    for _ in range(rounds):
        for name, subject in subjects.items():
            started = time.process_time()
            for step in range(steps):
                subject(step)
            rates[name].append(steps * batch / (time.process_time() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def memory_of_epochs(batches: TrainingBatches) -> tuple[float, float]:
    """Return the MiB that four epochs add to this process's peak anonymous memory, and the MiB of
    the batches that loading may prefetch."""
    before = anonymous_memory()
    peak, size = before, 0
    for epoch in range(4):
        for batch in batches.epoch(epoch):
            peak = max(peak, anonymous_memory())
            size = batch.windows.nbytes + batch.labels.nbytes
    return (peak - before) / 2**20, AHEAD * size / 2**20


def anonymous_memory() -> int:
    """Return the bytes of this process's memory that is not mapped from files (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def write_pngs(split: Samples, directory: Path) -> float:
    """Write the split as pairs of PNGs; return the mean size of an image in MB."""
    sizes = []
    for index in range(len(split)):
        image, label = split.read(index)
        path = directory / f"{index:04d}-image.png"
        Image.fromarray(image).save(path)
        Image.fromarray(label).save(directory / f"{index:04d}-label.png")
        sizes.append(path.stat().st_size / 1e6)
    return statistics.mean(sizes)


def on_the_cpu(directory: Path, images: int, rounds: int, batch: int) -> None:
    prepare(Streets(train=images, val=0, size=SIZE), directory / "set", workers=cores())
    split = NodeCache(directory / "cache").decoded(open_dataset(directory / "set"), "train")
    megabytes = write_pngs(split, directory)
    batches = TrainingBatches(split, DATA, 0, batch, ahead=AHEAD)
    draws = batches.batches.epoch(0)
    steps = len(draws)
    augmentation = Augmentation(DATA.augmentation, CROP)
    cropped = PngDataset(directory, albumentations.Compose(albumentations_crop()))
    augmented = PngDataset(directory, albumentations.Compose(albumentations_recipe()))

    def collated(dataset: PngDataset) -> Callable[[int], Any]:
        return lambda step: torch.utils.data.default_collate(
            [dataset[int(sample)] for sample in draws[step].samples]
        )

    print(f"{images} images of {SIZE[0]} x {SIZE[1]}, PNG {megabytes:.2f} MB; batch {batch}")
    added, held = memory_of_epochs(batches)
    print("memory of loading only, MiB")
    print(f"  (a) added by 4 epochs   {added:9.1f}")
    print(f"      {AHEAD} batches         {held:11.1f}   added/batches = {added / held:.2f}")
    rates = measure(
        {
            "a": lambda step: batches.load(draws[step]),
            "b": collated(cropped),
            "c": copied_windows(batches, split),
        },
        steps,
        batch,
        rounds,
    )
    print("loading only, samples per second and core")
    print(f"  (a) node cache          {rates['a']:9.1f}")
    print(f"  (b) PNG, Pillow, crop   {rates['b']:9.1f}   a/b = {rates['a'] / rates['b']:.1f}")
    print(f"  (c) memory copy         {rates['c']:9.1f}   c/a = {rates['c'] / rates['a']:.2f}")
    rates = measure(
        {"a": lambda step: augmentation(batches.load(draws[step])), "b": collated(augmented)},
        steps,
        batch,
        max(1, rounds // 2),
    )
    print("with augmentation on the CPU, samples per second and core")
    print(f"  (a) this pipeline       {rates['a']:9.2f}")
    print(f"  (b) albumentations      {rates['b']:9.2f}   a/b = {rates['a'] / rates['b']:.2f}")


def kornia_recipe() -> nn.Module:
    """Return the same recipe in kornia's modules, on whole images."""
    import kornia.augmentation as K

    return K.AugmentationSequential(
        K.RandomResizedCrop(CROP, scale=(0.125, 1.0), ratio=(1.0, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.25, 0.25, 0.25, 0.25, p=1.0),
        K.RandomGaussianBlur((9, 9), (0.15, 1.3), p=1.0),
        K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
        data_keys=["input", "mask"],
    )


def gpu_milliseconds(work: Callable[[], Any], repeats: int = 20) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats * 1e3


def on_the_gpu(batch: SourceBatch) -> None:
    device = torch.device("cuda")
    moved = batch.to(device)
    plain = Augmentation(DATA.augmentation, CROP)
    compiled = Augmentation(DATA.augmentation, CROP, compile=True)
    images, labels = plain(moved)
    model = FENet(FENetConfig(backbone="resnet18", supervision=(3, 4)), 19).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = SegmentationLoss(LossConfig())
    targets = labels.clamp(max=18)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            output = model(images.contiguous(memory_format=torch.channels_last))
        terms = criterion(output, targets)
        criterion.total(terms.statistics, terms.sizes)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    recipe = kornia_recipe().to(device)
    sources = torch.rand(len(batch), 3, *SIZE, device=device)
    masks = torch.randint(0, 19, (len(batch), 1, *SIZE), device=device).float()
    training = gpu_milliseconds(step)
    print(f"on {torch.cuda.get_device_name()}, batch {len(batch)}, milliseconds")
    print(f"  training step, FENet ResNet-18, bf16   {training:8.2f}")
    for name, work in (
        ("augmentation", lambda: plain(moved)),
        ("augmentation, compiled", lambda: compiled(moved)),
        ("kornia's AugmentationSequential", lambda: recipe(sources, masks)),
    ):
        spent = gpu_milliseconds(work)
        print(f"  {name:36} {spent:10.2f}   {spent / training:6.1%} of the step")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to load training samples.")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as directory:
        on_the_cpu(Path(directory), options.images, options.rounds, options.batch)
        if torch.cuda.is_available():
            split = open_dataset(Path(directory) / "set").split("train")
            batches = TrainingBatches(split, DATA, 0, options.batch)
            on_the_gpu(next(batches.epoch(0)))
        else:
            print("no GPU: skipped augmentation's share of a training step")


if __name__ == "__main__":
    main()

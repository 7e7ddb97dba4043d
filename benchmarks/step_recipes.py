"""Implementations of a training step, from the straightforward one on, timed part by part."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.roofline import Work, count_work
from benchmarks.scenes import open_scenes
from models import SegmentationLoss, set_sample_keys, split_output
from pipelines.data.augmentation import Augmentation
from pipelines.data.dataset import PreparedDataset, Samples
from pipelines.data.device_batches import TrainingBatch, prefetch_to_device
from pipelines.data.loading import TrainingBatches
from pipelines.data.node_cache import NodeCache
from pipelines.network.build import build_network
from pipelines.network.precision import Numerics
from pipelines.training.experiment import Experiment
from pipelines.training.optimization import build_optimizer

PARTS = ("data", "augmentation", "forward", "loss", "backward", "optimizer")
RATE = 1e-6  # learning rate; tiny, so that all subjects keep nearly the same weights


@dataclass(frozen=True)
class Recipe:
    """How a step is implemented; each field is one improvement."""

    mining: bool = False  # hard pixels of each image, without a sort or a device-to-host copy
    channels_last: bool = False
    bf16: bool = False
    fused: bool = False  # SGD in one kernel
    loaded_ahead: bool = False  # batches loaded by threads
    prefetched: bool = False  # batches copied and augmented on a separate CUDA stream
    compiled: bool = False


class Subject:
    """One recipe on one device, with its own model, optimizer and data."""

    def __init__(
        self, recipe: Recipe, experiment: Experiment, directory: Path, device: torch.device
    ) -> None:
        self.recipe, self.device, self.directory = recipe, device, directory
        self.experiment = experiment
        dataset = open_scenes(directory / "set")
        self.numerics = Numerics(device, "bf16" if recipe.bf16 else "fp32", recipe.channels_last)
        network = build_network(experiment.model, len(dataset.manifest.classes), seed=0)
        self.model = self.numerics.to_device(network).train()
        self.run: nn.Module = self.model
        if recipe.compiled:
            self.run = torch.compile(self.model)  # type: ignore[assignment]
        if recipe.fused:
            self.optimizer = build_optimizer(self.model, experiment.training)
        else:
            self.optimizer = torch.optim.SGD(
                self.model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4
            )
        self.criterion = SegmentationLoss(experiment.training.loss).to(device)
        self.augmentation = Augmentation(experiment.data.augmentation, experiment.data.crop)
        self.batches = self._batches(dataset)
        self._prepared: Iterator[TrainingBatch] = iter(())

    def _batches(self, dataset: PreparedDataset) -> TrainingBatches:
        # Decoded once for every recipe: decoding would hide the differences between steps.
        split: Samples = NodeCache(self.directory / "cache").decoded(dataset, "train")
        batch, pin = self.experiment.training.batch, self.device.type == "cuda"
        return TrainingBatches(split, self.experiment.data, 0, batch, pin=pin)

    def endless(self) -> Iterator[Any]:
        """Yield the source batches of all epochs."""
        epoch = 0
        while True:
            if self.recipe.loaded_ahead:
                yield from self.batches.epoch(epoch)
            else:
                yield from map(self.batches.load, self.batches.batches.epoch(epoch))
            epoch += 1

    def steps(self, count: int) -> list[dict[str, float]]:
        """Return the milliseconds of each part of `count` steps, after one warm-up step."""
        sources = self.endless()
        if self.recipe.prefetched:
            self._prepared = prefetch_to_device(sources, self.augmentation, self.device)
        times = []
        for _ in range(count + 1):
            watch = Stopwatch(self.device)
            self.step(sources, watch)
            times.append(watch.milliseconds())
        return times[1:]

    def step(self, sources: Iterator[Any], watch: "Stopwatch") -> None:
        if self.recipe.prefetched:
            batch = watch.timed("data", lambda: next(self._prepared))
            images, labels, keys = batch.images, batch.labels, batch.sample_keys
        else:
            source = watch.timed("data", lambda: next(sources).to(self.device))
            images, labels = watch.timed("augmentation", lambda: self.augmentation(source))
            keys = source.sample_keys
        output = watch.timed("forward", lambda: self.forward(images, keys))
        loss = watch.timed("loss", lambda: self.loss(output, labels))
        watch.timed("backward", loss.backward)
        watch.timed("optimizer", self.update)

    def forward(self, images: Tensor, keys: Tensor) -> Any:
        set_sample_keys(self.model, keys)
        with self.numerics.autocast():
            return self.run(self.numerics.to_memory_format(images))

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        if not self.recipe.mining:
            return straightforward_loss(output, labels)
        with self.numerics.autocast():
            terms = self.criterion(output, labels)
        return self.criterion.total(terms.statistics, terms.sizes)[0]

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def work(self) -> dict[str, Work]:
        """Count the work of each part in one step."""
        counted: dict[str, Work] = {"data": Work(0, 0)}  # prefetched on the host

        def count(name: str, part: Callable[[], Any]) -> Any:
            results: list[Any] = []
            counted[name] = count_work(lambda: results.append(part()))
            return results[0]

        source = next(self.endless()).to(self.device)
        images, labels = count("augmentation", lambda: self.augmentation(source))
        output = count("forward", lambda: self.forward(images, source.sample_keys))
        loss = count("loss", lambda: self.loss(output, labels))
        count("backward", loss.backward)
        count("optimizer", self.update)
        return counted


class Stopwatch:
    """Times the parts of a step, with CUDA events on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: dict[str, tuple[Any, Any]] = {}

    def timed(self, part: str, work: Callable[[], Any]) -> Any:
        started = self._now()
        result = work()
        self._spans[part] = started, self._now()
        return result

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each part, and as `whole` the time from first start to last end."""
        if self._cuda:
            torch.cuda.synchronize()
        spans = {part: self._between(*span) for part, span in self._spans.items()}
        first, last = next(iter(self._spans.values())), [*self._spans.values()][-1]
        return {**spans, "whole": self._between(first[0], last[1])}

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) if self._cuda else 1e3 * (end - start)


def straightforward_loss(output: Any, labels: Tensor) -> Tensor:
    """Mine hard pixels as most code does: softmax, a sort of all pixels, boolean indexing."""
    logits, auxiliary = split_output(output)
    total = logits.new_zeros(())
    for term in (logits, *auxiliary.values()):
        resized = F.interpolate(term.float(), labels.shape[-2:], mode="bilinear")
        losses = F.cross_entropy(resized, labels, ignore_index=255, reduction="none").flatten()
        with torch.no_grad():
            chosen = labels.clamp(max=resized.shape[1] - 1)[:, None]
            probability = resized.softmax(dim=1).gather(1, chosen).flatten()
            probability[labels.flatten() == 255] = 1
            ordered = probability.sort().values
            threshold = max(0.7, float(ordered[len(ordered) // 20]))
        total = total + losses[probability < threshold].mean()
    return total


def improvements(gpu: bool, compiled: bool, bf16: bool) -> list[tuple[str, Recipe]]:
    """Return the recipes; each adds one improvement to the one before.

    bf16: whether the device computes it natively; a training would not choose it otherwise.
    """
    added = [
        ("+ mining without a sort", "mining"),
        ("+ channels last", "channels_last"),
        *([("+ bf16 autocast", "bf16")] if bf16 else []),
        ("+ fused SGD", "fused"),
        ("+ loaded ahead by threads", "loaded_ahead"),
        *([("+ augmentation prefetch", "prefetched")] if gpu else []),
        *([("+ torch.compile", "compiled")] if compiled else []),
    ]
    recipes = [("straightforward, fp32", Recipe())]
    for name, improvement in added:
        recipes.append((name, replace(recipes[-1][1], **{improvement: True})))
    return recipes

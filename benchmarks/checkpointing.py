"""What share of training time do checkpoints take, in the background and in the training thread?

    python -m benchmarks.checkpointing [--backbone NAME] [--crop N] [--batch N] [--epochs N]

FENet-ResNet-18 trains on `streets` in three ways that take turns, one epoch each: without
checkpoints; with a checkpoint per epoch written in the background, as `pipelines.train` does; with
a checkpoint per epoch written and flushed to disk by the training thread.

Prints the median seconds per epoch and the time for which a checkpoint blocks the training thread
(waiting for the previous write and taking the snapshot), also as a share of an epoch of CamVid (367
images) and Cityscapes (2975) at the measured speed. On a machine without an idle core, writing in
the background also takes CPU time, at most as much as writing in the training thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from models import FENetConfig
from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.device_batches import prefetch_to_device
from pipelines.machine import cores
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.streets import Streets
from pipelines.training.checkpoint_folder import CheckpointFolder, CheckpointWriter
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training


@dataclass
class Subject:
    """One way to write checkpoints; none if it has no writer and is not `blocking`.

    epochs: seconds of each epoch.
    blocked: seconds for which each checkpoint blocked the training thread.
    """

    folder: CheckpointFolder
    writer: CheckpointWriter | None
    blocking: bool = False
    epochs: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)

    def checkpoint(self, training: Training, epoch: int) -> None:
        started = time.perf_counter()
        if self.writer is not None:
            self.writer.wait()
            self.writer.start(self._saving(training, epoch))
        elif self.blocking:
            self._saving(training, epoch)()
        self.blocked.append(time.perf_counter() - started)

    def _saving(self, training: Training, epoch: int) -> Callable[[], None]:
        training.position.epoch = epoch
        return partial(self.folder.save, training._snapshot(), epoch, 0)


def train_epoch(training: Training, epoch: int) -> None:
    training.replica.train()
    numerics = training.numerics
    for part in prefetch_to_device(
        training.batches.epoch(epoch), training.augmentation, numerics.device
    ):
        training._step([part], 1e-6, False)


def compare(dataset: PreparedDataset, options: argparse.Namespace, directory: Path) -> None:
    experiment = Experiment(
        data=DataConfig(crop=(options.crop, options.crop)),
        model=FENetConfig(backbone=options.backbone, supervision=(3, 4)),
        training=TrainingConfig(batch=options.batch),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(experiment, dataset, device)
    subjects = {
        "no checkpoints": Subject(CheckpointFolder(directory / "none"), None),
        "in background": Subject(CheckpointFolder(directory / "background"), CheckpointWriter()),
        "blocking": Subject(CheckpointFolder(directory / "blocking"), None, blocking=True),
    }
    train_epoch(training, 0)  # warm-up
    for epoch in range(1, options.epochs + 1):
        for subject in subjects.values():
            # A checkpoint that is started here is written during the epoch.
            started = time.perf_counter()
            subject.checkpoint(training, epoch)
            train_epoch(training, epoch)
            subject.epochs.append(time.perf_counter() - started)
            if subject.writer is not None:
                subject.writer.wait()
    files = (directory / "background" / "last").glob("*")
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    images = len(training.batches) * options.batch
    print(
        f"{options.backbone}, crop {options.crop}, batch {options.batch}, on {device.type}: "
        f"{images} images per epoch, checkpoints of {megabytes:.0f} MB"
    )
    plain = statistics.median(subjects["no checkpoints"].epochs)
    rate = images / plain
    for name, subject in subjects.items():
        seconds, blocked = (statistics.median(each) for each in (subject.epochs, subject.blocked))
        shares = "".join(
            f"{f'{blocked / (count / rate):.2%} of {data}':>22}"
            for data, count in (("CamVid", 367), ("Cityscapes", 2975))
        )
        print(f"  {name:18} epoch {seconds:7.2f} s   blocked {1e3 * blocked:7.1f} ms{shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the cost of ways to write checkpoints.")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--images", type=int, default=24, help="images per epoch")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        streets = Streets(train=options.images, val=1, size=(256, 512))
        prepare(streets, directory / "set", workers=cores())
        compare(open_dataset(directory / "set"), options, directory)


if __name__ == "__main__":
    main()

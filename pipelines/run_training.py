"""The work of `pipelines.train`: train one experiment in this process or process group."""

import argparse
import json
import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.config import ConfigurationError, dump_yaml, load_yaml
from pipelines.data.dataset import open_dataset
from pipelines.data.facts import (
    augmentation_warnings,
    check_trainable,
    sampling_warnings,
    summary,
    training_warnings,
)
from pipelines.data.files import write_text
from pipelines.data.node_cache import NodeCache
from pipelines.errors import UserError
from pipelines.evaluation.image_size import check_evaluation
from pipelines.gpu import gpu_problem
from pipelines.model_directory import initial_class_warnings, metadata_files
from pipelines.network.build import check_network
from pipelines.preparation.embedded import dataset_location
from pipelines.training.checkpoint_folder import CheckpointFolder, CheckpointWriter
from pipelines.training.experiment import Experiment, experiment_differences, read_experiment
from pipelines.training.loop import Training, TrainingReport
from pipelines.training.loss_division import division_warnings
from pipelines.training.results import write_results


def run_training(options: argparse.Namespace) -> int:
    """Train the experiment; return the command's exit status."""
    if options.device != "cpu" and (problem := gpu_problem()):
        raise UserError(f"--device {options.device}: {problem}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine")
    distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    device = _device(options.device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with worker_group(backend) if distributed else nullcontext():
        for name in ("keep", "checkpoint_steps"):
            value = getattr(options, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise ConfigurationError(f"--{option} must be at least 1, received {value}")
        experiment = read_experiment(options.experiment, options.dataset)
        for name in ("out", "cache"):
            _check_directory(name, getattr(options, name))
        _train(experiment, Path(options.out), device, options)
    return 0


@contextmanager
def worker_group(backend: str) -> Iterator[None]:
    """Join the group of processes that torchrun describes; leave it at the end of the context.

    The group must not end after the network: the network's destructor would end it while it holds
    the interpreter's lock, and wait for threads of gloo that may wait for this lock. After an
    error, the traceback refers to the network, so the variables in the traceback are deleted first.
    """
    dist.init_process_group(backend)
    try:
        yield
    except BaseException as error:
        raised: BaseException | None = error
        while raised is not None:
            traceback.clear_frames(raised.__traceback__)
            raised = raised.__context__
        raise
    finally:
        dist.destroy_process_group()


def _train(
    experiment: Experiment, out: Path, device: torch.device, options: argparse.Namespace
) -> None:
    """Train and write to `out`: `experiment.yaml`, `metrics.jsonl`, `results/`, and `checkpoints/`
    with model directories, to which the links `last` and `best` point."""
    cache = None if options.cache is None else NodeCache(Path(options.cache).expanduser())
    dataset = open_dataset(dataset_location(experiment.data.dataset, out.parent))
    splits = experiment.data.trained_on, experiment.data.validation_split
    check_trainable(dataset, *splits)
    classes, channels = len(dataset.manifest.classes), dataset.manifest.images.channels
    check_network(experiment.model, classes, experiment.data.crop, channels)
    if splits[1] is not None:
        check_evaluation(experiment.model, classes, experiment.evaluation, dataset.split(splits[1]))
    training = Training(experiment, dataset, device, cache=cache)
    is_rank_0 = training.group.rank == 0
    scored = [split for split in splits[1:] if split is not None]
    for line in summary(dataset, [splits[0], *scored]):
        _say(is_rank_0, line)
    warnings = training_warnings(dataset, splits[0], scored)
    batch, crop = experiment.training.batch, experiment.data.crop
    warnings += sampling_warnings(dataset, splits[0], batch, crop)
    warnings += augmentation_warnings(dataset.manifest.images, experiment.data.augmentation)
    config = experiment.training
    warnings += division_warnings(config.loss, config.accumulation, training.group.size)
    if config.init is not None and is_rank_0:  # it may read all weights
        warnings += initial_class_warnings(config.init, config.init_skip, dataset.manifest)
    for line in warnings:
        _say(is_rank_0, f"warning: {line}")
    experiment_file = out / "experiment.yaml"
    if experiment_file.exists():
        recorded = load_yaml(experiment_file.read_text(encoding="utf-8")) or {}
        changed = experiment_differences(recorded, experiment.as_json())
        if changed:
            raise ConfigurationError(
                f"{out} holds another experiment ({'; '.join(changed)}); choose another --out"
            )
    folder = CheckpointFolder(
        out, keep=options.keep, texts=metadata_files(experiment, dataset.manifest)
    )
    if is_rank_0:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"--out {out}: cannot be created ({error.strerror})"
            ) from error
        write_text(experiment_file, dump_yaml(experiment.as_json()))
        damaged = folder.set_aside_damaged(averaged=config.ema is not None)
        folder.tidy()
        for sentence in damaged:
            _say(True, f"warning: {sentence}")
        if damaged and folder.last() is None:
            _say(True, "no whole checkpoint is left: training from the start")
    if training.group.size > 1:
        dist.barrier()  # no rank looks for a checkpoint before rank 0 has tidied the folder
    resumed = folder.last()
    if resumed is not None:
        training.restore(resumed)
        _say(is_rank_0, f"resuming after epoch {training.position.epoch}")

    with CheckpointWriter() as writer:

        def keep(report: TrainingReport) -> None:
            if not is_rank_0:
                return
            writer.wait()  # hold one snapshot in memory, not two
            if report.metrics is not None and report.epoch == training.duration.epochs:
                # Written before the last checkpoint, so that a finished training has results.
                shutil.rmtree(out / "results", ignore_errors=True)
                write_results(out / "results", training, report)
            snapshot, position = report.snapshot(), training.position
            writer.start(partial(folder.save, snapshot, position.epoch, position.step))
            if report.metrics is not None:
                _write_history(out, training)
                _say(is_rank_0, _line(report, training.duration.epochs))

        if is_rank_0:
            _write_history(out, training)
        training.run(keep, report_steps=options.checkpoint_steps)
    _say(is_rank_0, f"finished: {out}")


def _write_history(out: Path, training: Training) -> None:
    """Write the metrics of all epochs, all of them each time so that resuming repeats no line."""
    lines = [json.dumps(metrics) + "\n" for metrics in training.history]
    write_text(out / "metrics.jsonl", "".join(lines))


def _line(report: TrainingReport, epochs: int) -> str:
    metrics = report.metrics or {}
    text = f"epoch {report.epoch}/{epochs}  loss {metrics['train/loss']:.3f}"
    if "val/miou" in metrics:
        best = 100 * metrics["val/best_miou"]
        text += f"  mIoU {100 * metrics['val/miou']:.2f} % (best {best:.2f} %)"
    return f"{text}  {metrics['images_per_second']:.1f} images/s"


def _check_directory(option: str, path: str | None) -> None:
    """Raise ConfigurationError if `path` is not a directory and cannot become one."""
    if path is None:
        return
    directory = Path(path).expanduser()
    existing = next(each for each in (directory, *directory.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise ConfigurationError(f"--{option} {path}: {existing} is a file; choose a directory")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return torch.device("cpu")


def _say(is_rank_0: bool, message: str) -> None:
    if is_rank_0:
        print(message, flush=True)

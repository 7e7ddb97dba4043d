"""`python -m pipelines.train EXPERIMENT.yaml --out DIR`: one experiment on one machine.

No scheduler, no tracker: the loop, the data and a directory. Run it under `torchrun` for several
processes. Called again with the same directory it goes on where it stopped.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import yaml

from pipelines.config import ConfigurationError, CoreLoader
from pipelines.data.dataset import open_dataset
from pipelines.data.files import write_text
from pipelines.data.node_cache import NodeCache
from pipelines.errors import UserError
from pipelines.model_directory import describing_files
from pipelines.preparation.embedded import dataset_location
from pipelines.training.checkpoint_folder import BackgroundWriter, CheckpointFolder
from pipelines.training.experiment import Experiment, differences, read_experiment
from pipelines.training.loop import Report, Training
from pipelines.training.results import write_results


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.train") -> int:
    """Run the command. Returns 0, or 2 with a sentence where something is wrong with the input."""
    options = _parser(prog).parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda: there is no GPU here that torch can use", file=sys.stderr)
        return 2
    distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    device = _device(options.device)
    if distributed:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        for name in ("keep", "checkpoint_steps"):
            value = getattr(options, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise ConfigurationError(f"--{option} must be at least 1, received {value}")
        experiment = read_experiment(options.experiment, options.dataset)
        for name in ("out", "cache"):
            _check_folder(name, getattr(options, name))
        _train(experiment, Path(options.out), device, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if distributed:
            dist.destroy_process_group()
    return 0


def _train(
    experiment: Experiment, out: Path, device: torch.device, options: argparse.Namespace
) -> None:
    """Train into `out`: `checkpoints/`, model directories of which `last` and `best` name two,
    `metrics.jsonl`, and `results/`."""
    cache = None if options.cache is None else NodeCache(Path(options.cache).expanduser())
    dataset = open_dataset(dataset_location(experiment.data.dataset, out.parent))
    training = Training(experiment, dataset, device, cache=cache)
    leads = training.group.rank == 0
    recorded = out / "experiment.yaml"
    if recorded.exists():
        known = yaml.load(recorded.read_text(encoding="utf-8"), CoreLoader) or {}
        found = differences(known, experiment.as_json())
        if found:
            raise ConfigurationError(
                f"{out} holds another experiment ({'; '.join(found)}); choose another --out"
            )
    folder = CheckpointFolder(
        out, keep=options.keep, texts=describing_files(experiment, dataset.manifest)
    )
    if leads:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--out {out}: cannot be made ({error.strerror})") from error
        write_text(recorded, yaml.safe_dump(experiment.as_json(), sort_keys=False))
        folder.tidy()
    if training.group.size > 1:
        dist.barrier()  # nobody looks for what rank 0 has yet to write or to clear away
    resumed = folder.last()
    if resumed is not None:
        training.restore(resumed)
        _say(leads, f"going on after epoch {training.position.epoch}")

    with BackgroundWriter() as writer:

        def keep(report: Report) -> None:
            if not leads:
                return
            writer.wait()  # one snapshot in memory, not two
            if report.metrics is not None and report.epoch == experiment.training.epochs:
                # Before the checkpoint: a finished training has its results.
                shutil.rmtree(out / "results", ignore_errors=True)
                write_results(out / "results", training, report)
            snapshot, position = report.snapshot(), training.position
            writer.start(partial(folder.save, snapshot, position.epoch, position.step))
            if report.metrics is not None:
                _write_history(out, training)
                _say(leads, _line(report, experiment.training.epochs))

        if leads:
            _write_history(out, training)
        training.run(keep, report_steps=options.checkpoint_steps)
    _say(leads, f"finished: {out}")


def _write_history(out: Path, training: Training) -> None:
    """The metrics of all epochs: the whole history each time, so that no line is there twice."""
    lines = [json.dumps(metrics) + "\n" for metrics in training.history]
    write_text(out / "metrics.jsonl", "".join(lines))


def _line(report: Report, epochs: int) -> str:
    metrics = report.metrics or {}
    text = f"epoch {report.epoch}/{epochs}  loss {metrics['train/loss']:.3f}"
    if "val/miou" in metrics:
        best = 100 * metrics["val/best_miou"]
        text += f"  mIoU {100 * metrics['val/miou']:.2f} % (best {best:.2f} %)"
    return f"{text}  {metrics['images_per_second']:.1f} images/s"


def _check_folder(option: str, path: str | None) -> None:
    """Raise ConfigurationError where `path` is no folder and cannot be one."""
    if path is None:
        return
    place = Path(path).expanduser()
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ConfigurationError(f"--{option} {path}: {there} is a file; name a folder")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return torch.device("cpu")


def _say(leads: bool, message: str) -> None:
    if leads:
        print(message, flush=True)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Train one experiment on this machine.")
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="data, model, training, ...")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoints and results")
    parser.add_argument("--dataset", metavar="URI", help="a prepared data set, over the file's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--cache", metavar="DIR", help="keep decoded data here between runs")
    parser.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="a checkpoint every N steps as well"
    )
    parser.add_argument(
        "--keep",
        type=int,
        default=1,
        metavar="N",
        help="keep the N best checkpoints on the validation split, besides the last (default: 1)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

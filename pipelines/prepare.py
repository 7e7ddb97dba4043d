"""`python -m pipelines.prepare DATASET`: convert a data set to Parquet shards and a manifest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.facts import dataset_warnings, summary
from pipelines.data.image_io import check_writable, save_image
from pipelines.errors import UserError, run_command
from pipelines.machine import cores
from pipelines.preparation import prepare_dataset
from pipelines.preparation.inspection import describe, verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.streets import parse_size

_LINE_SECONDS = 30.0  # between lines of progress where there is no terminal for a bar


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.prepare") -> int:
    """Run the command and return its exit status, as `run_command` defines it."""
    options = _parser(prog).parse_args(arguments)
    work = {"inspect": _inspect, "preview": _preview}.get(options.command, _prepare)
    interrupted = "interrupted"
    if options.command in READERS:
        interrupted += "; run the same command again to resume after the last finished shard"
    return run_command(lambda: work(options), interrupted=interrupted)


def _prepare(options: argparse.Namespace) -> int:
    reader = READERS[options.command].from_arguments(options)
    with _progress(f"preparing {reader.name}") as progress:
        manifest = prepare(
            reader, options.destination, options.workers, options.skip_invalid, progress=progress
        )
    dataset = open_dataset(options.destination)
    if options.verify:
        _verify(dataset)
    for problem in manifest.skipped:
        print(f"skipped {problem}", file=sys.stderr)
    counts = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{options.destination}: {manifest.name}, {counts}, {len(manifest.classes)} classes")
    for line in summary(dataset, list(manifest.counts)):
        print(line)
    for note in manifest.notes:
        print(f"note: {note}")
    for line in dataset_warnings(dataset):
        print(f"warning: {line}")
    print(f"fingerprint {manifest.fingerprint}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    dataset = open_dataset(options.uri)
    path = options.out or Path(f"{dataset.manifest.name}-samples.png")
    check_writable(path)
    from pipelines.preparation.contact_sheet import contact_sheet  # importing torch takes seconds

    print(describe(dataset))
    if options.verify:
        _verify(dataset)
    save_image(contact_sheet(dataset, options.count), path)
    print(f"contact sheet: {path}")
    return 0


def _verify(dataset: PreparedDataset) -> None:
    with _progress("verifying") as progress:
        verify(dataset, progress, threads=cores())
    print("verified: every shard and every sample is unchanged")


def _preview(options: argparse.Namespace) -> int:
    dataset = open_dataset(options.uri)
    path = options.out or Path(f"{dataset.manifest.name}-crops.png")
    check_writable(path)
    from pipelines.data.config import DataConfig
    from pipelines.preparation.contact_sheet import preview
    from pipelines.training.experiment import read_experiment

    if options.experiment is None:
        split = dataset.split(options.split or "train")
        sizes = (min(1024, int(np.median(each))) for each in (split.heights, split.widths))
        data, seed = DataConfig(crop=(next(sizes), next(sizes))), 0
    else:
        experiment = read_experiment(options.experiment)
        data, seed = experiment.data, experiment.seed
    changes = {
        "crop": options.crop,
        "train_split": options.split,
        "class_uniform": options.class_uniform,
    }
    try:
        data = replace(data, **{key: value for key, value in changes.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error
    seed = seed if options.seed is None else options.seed
    save_image(preview(dataset, data, options.count, seed), path)
    print(f"augmented crops of {data.crop[0]} x {data.crop[1]} pixels (height x width): {path}")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Convert a data set to Parquet shards with a manifest, checking every image; "
        "`inspect` and `preview` show a prepared data set.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, reader in READERS.items():
        command = commands.add_parser(name, help=reader.help, description=reader.help)
        reader.add_arguments(command)
        command.add_argument("--destination", required=True, help="output directory or URI")
        command.add_argument("--workers", type=_positive, default=cores(), help="worker processes")
        command.add_argument(
            "--skip-invalid",
            action="store_true",
            help="skip and record invalid samples instead of failing",
        )
        _add_verify(command)
    inspect = commands.add_parser("inspect", help="print class frequencies and draw samples")
    _add_verify(inspect)
    crops = commands.add_parser("preview", help="draw augmented crops with their labels")
    crops.add_argument(
        "--crop",
        type=parse_size,
        metavar="HxW",
        help="height and width of the crops in pixels; default: the median of the images, at most "
        "1024x1024",
    )
    crops.add_argument(
        "--experiment",
        type=Path,
        metavar="FILE",
        help="take crop, split, augmentation and seed from an experiment file; other options "
        "override it",
    )
    crops.add_argument("--split", help="split to draw from; default: train")
    crops.add_argument("--seed", type=int, help="seed of the augmentation; default: 0")
    crops.add_argument(
        "--class-uniform",
        type=float,
        metavar="SHARE",
        help="share of crops sampled by class; default: 0",
    )
    for command in (inspect, crops):
        command.add_argument("uri", help="directory or URI of a prepared data set")
        command.add_argument(
            "--count", type=_positive, default=12, help="samples to draw; default: 12", metavar="N"
        )
        command.add_argument("--out", type=Path, metavar="FILE", help="image file to write")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, received {text!r}")
    return int(text)


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verify",
        action="store_true",
        help="compare all checksums and decode every sample",
    )


@contextmanager
def _progress(title: str) -> Iterator[prepare_dataset.Progress]:
    """Show a bar with rate and time left; without a terminal, print a line now and then."""
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[meaning]}"),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, meaning="left")
        started = printed = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal printed
            meaning = "total" if done == total else "left"
            bar.update(task, completed=done, total=total, meaning=meaning)
            now = time.monotonic()
            if not console.is_terminal and now - printed >= _LINE_SECONDS:
                printed = now
                print(
                    f"{title}: {done} of {total} samples after {now - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )

        yield show


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} samples/s" if task.speed else "")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m pipelines.prepare DATASET`: from a data set's own layout to Parquet and a manifest."""

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
from pipelines.data.image_io import check_writable, save_picture
from pipelines.machine import cores
from pipelines.preparation import prepare_dataset
from pipelines.preparation.inspection import describe, verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.streets import parse_size

LINE_EVERY = 30.0  # seconds, where there is no terminal for a bar


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.prepare") -> int:
    options = _parser(prog).parse_args(arguments)
    try:
        if options.command == "inspect":
            _inspect(options)
        elif options.command == "preview":
            _preview(options)
        else:
            _prepare(options)
    except (ValueError, OSError) as error:  # what the user can mend; DatasetError among them
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        message = "interrupted; run the same command again to go on from the last finished shard"
        print(message if options.command in READERS else "interrupted", file=sys.stderr)
        return 130
    return 0


def _prepare(options: argparse.Namespace) -> None:
    reader = READERS[options.command].from_arguments(options)
    with _progress(f"preparing {reader.name}") as progress:
        manifest = prepare(
            reader, options.destination, options.workers, options.skip_invalid, progress=progress
        )
    if options.verify:
        _verify(open_dataset(options.destination))
    for problem in manifest.skipped:
        print(f"skipped {problem}", file=sys.stderr)
    counts = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{options.destination}: {manifest.name}, {counts}, {len(manifest.classes)} classes")
    print(f"fingerprint {manifest.fingerprint}")


def _inspect(options: argparse.Namespace) -> None:
    dataset = open_dataset(options.uri)
    path = options.out or Path(f"{dataset.manifest.name}-samples.png")
    check_writable(path)
    from pipelines.preparation.contact_sheet import contact_sheet  # torch takes seconds to import

    print(describe(dataset))
    if options.verify:
        _verify(dataset)
    save_picture(contact_sheet(dataset, options.count), path)
    print(f"contact sheet: {path}")


def _verify(dataset: PreparedDataset) -> None:
    with _progress("verifying") as progress:
        verify(dataset, progress, threads=cores())
    print("verified: every shard and every sample is as it was written")


def _preview(options: argparse.Namespace) -> None:
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
    given = {
        "crop": options.crop,
        "train_split": options.split,
        "class_uniform": options.class_uniform,
    }
    data = replace(data, **{key: value for key, value in given.items() if value is not None})
    seed = seed if options.seed is None else options.seed
    save_picture(preview(dataset, data, options.count, seed), path)
    print(f"augmented crops of {data.crop[1]}x{data.crop[0]}: {path}")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Turn a data set's own layout into Parquet shards with a manifest, checked "
        "picture by picture; `inspect` and `preview` show what was prepared.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, reader in READERS.items():
        command = commands.add_parser(name, help=reader.help, description=reader.help)
        reader.add_arguments(command)
        command.add_argument("--destination", required=True, help="directory or URI to write to")
        command.add_argument("--workers", type=_positive, default=cores(), help="processes to use")
        command.add_argument(
            "--skip-invalid",
            action="store_true",
            help="leave bad samples out and record them, instead of failing",
        )
        _add_verify(command)
    inspect = commands.add_parser("inspect", help="counts, class frequencies and a contact sheet")
    _add_verify(inspect)
    crops = commands.add_parser("preview", help="a sheet of augmented crops with their labels")
    crops.add_argument(
        "--crop",
        type=parse_size,
        metavar="WxH",
        help="default: the images' size, at most 1024x1024",
    )
    crops.add_argument(
        "--experiment",
        type=Path,
        metavar="FILE",
        help="crop, split, augmentation and seed of an experiment that is to be trained; what is "
        "given here besides counts instead",
    )
    crops.add_argument("--split", help="default: train")
    crops.add_argument("--seed", type=int, help="default: 0")
    crops.add_argument(
        "--class-uniform",
        type=float,
        metavar="SHARE",
        help="share drawn class by class; default: 0",
    )
    for command in (inspect, crops):
        command.add_argument("uri", help="prepared data set, a directory or URI")
        command.add_argument(
            "--count", type=_positive, default=12, help="samples to draw", metavar="N"
        )
        command.add_argument("--out", type=Path, metavar="FILE", help="picture to write")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verify",
        action="store_true",
        help="compare checksums and decode every sample of what is there",
    )


@contextmanager
def _progress(title: str) -> Iterator[prepare_dataset.Progress]:
    """A bar with rate and time left; on no terminal, as in a job's log, a line now and then."""
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
        started = said = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal said
            meaning = "in all" if done == total else "left"
            bar.update(task, completed=done, total=total, meaning=meaning)
            now = time.monotonic()
            if not console.is_terminal and now - said >= LINE_EVERY:
                said = now
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

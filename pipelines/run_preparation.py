"""The work of `pipelines.prepare`: fetch, prepare, inspect and preview data sets."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.facts import dataset_warnings, summary
from pipelines.data.image_io import check_writable, save_image
from pipelines.errors import UserError
from pipelines.machine import cores
from pipelines.preparation.fetching.fetch import fetch
from pipelines.preparation.inspection import describe_dataset, image_format_lines, verify
from pipelines.preparation.prepare_dataset import Progress as ReportProgress
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.own_reader import construct, own_failures

_LINE_SECONDS = 30.0  # between lines of progress where there is no terminal for a bar


def prepare_dataset(options: argparse.Namespace) -> int:
    """Prepare a data set and print its summary; return the exit status."""
    reader_class = READERS.find(options.command)
    reader = construct(reader_class, options)
    with own_failures(reader_class), _progress(f"preparing {reader.name}") as progress:
        manifest = prepare(
            reader,
            options.destination,
            options.workers,
            options.skip_invalid,
            progress=progress,
            waiting=lambda: print(
                f"{options.destination}: another process prepares it; waiting until it is done",
                file=sys.stderr,
                flush=True,
            ),
        )
    dataset = open_dataset(options.destination)
    if options.verify:
        _verify(dataset)
    for problem in manifest.skipped:
        print(f"skipped {problem}", file=sys.stderr)
    counts = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    print(f"{options.destination}: {manifest.name}, {counts}, {len(manifest.classes)} classes")
    for line in [*image_format_lines(manifest.images), *summary(dataset, list(manifest.counts))]:
        print(line)
    for note in manifest.notes:
        print(f"note: {note}")
    for line in dataset_warnings(dataset):
        print(f"warning: {line}")
    print(f"fingerprint {manifest.fingerprint}")
    return 0


def fetch_dataset(options: argparse.Namespace) -> int:
    """Download and unpack a published data set; return the exit status."""
    name = options.name
    fetched = fetch(name, options.to, _progress, options.mirror)
    if fetched.archive is None:
        print(f"{fetched.folder}: exists already; nothing was downloaded")
    else:
        print(f"{fetched.folder}: unpacked from {fetched.archive}, which you may delete")
        print(f"sha256 {fetched.sha256}, recorded in {fetched.archive.name}.sha256")
    source = shlex.quote(str(fetched.folder))
    print(f"next: orchestrator prepare {name} --source {source} --destination data/{name}")
    return 0


def inspect_dataset(options: argparse.Namespace) -> int:
    """Print class frequencies and draw samples; return the exit status."""
    dataset = open_dataset(options.uri)
    path = options.out or Path(f"{dataset.manifest.name}-samples.png")
    check_writable(path)
    from pipelines.preparation.contact_sheet import contact_sheet  # importing torch takes seconds

    print(describe_dataset(dataset))
    if options.verify:
        _verify(dataset)
    save_image(contact_sheet(dataset, options.count), path)
    print(f"contact sheet: {path}")
    return 0


def _verify(dataset: PreparedDataset) -> None:
    with _progress("verifying") as progress:
        verify(dataset, progress, threads=cores())
    print("verified: every shard and every sample is unchanged")


def preview_crops(options: argparse.Namespace) -> int:
    """Draw augmented crops; return the exit status."""
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
    if options.split is not None:  # crops of this split, not of the experiment's folds
        data = replace(data, folds=None, fold=None, fold_by="group", validation_split=None)
    try:
        data = replace(data, **{key: value for key, value in changes.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error
    seed = seed if options.seed is None else options.seed
    save_image(preview(dataset, data, options.count, seed), path)
    print(f"augmented crops of {data.crop[0]} x {data.crop[1]} pixels (height x width): {path}")
    return 0


@contextmanager
def _progress(title: str, unit: str = "samples") -> Iterator[ReportProgress]:
    """Show a bar with rate and time left; without a terminal, print a line now and then.

    A total of 0 means that it is not known.
    """
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())  # whatever FORCE_COLOR says
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}"),
        BarColumn(),
        *((DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else _counted(unit)),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[meaning]}"),
    ]
    with Progress(*columns, console=console, disable=not console.is_interactive) as bar:
        task = bar.add_task(title, total=None, meaning="left")
        started = printed = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal printed
            meaning = "total" if done == total else "left"
            bar.update(task, completed=done, total=total or None, meaning=meaning)
            now = time.monotonic()
            if not console.is_interactive and now - printed >= _LINE_SECONDS:
                printed = now
                amount = f"{done} of {total}" if total else f"{done}"
                print(
                    f"{title}: {amount} {unit} after {now - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )

        yield show


def _counted(unit: str) -> tuple[ProgressColumn, ProgressColumn]:
    return MofNCompleteColumn(), _Rate(unit)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "")

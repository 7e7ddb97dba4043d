"""`python -m pipelines.prepare DATASET`: convert a data set to Parquet shards and a manifest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from models.registry import is_class_name
from models.user_code import describe
from pipelines.command import run_command
from pipelines.errors import UserError
from pipelines.imports import importing_libraries
from pipelines.machine import cores
from pipelines.option_types import parse_size
from pipelines.preparation.fetching.published_datasets import ARCHIVES, INSTRUCTIONS
from pipelines.preparation.readers import READERS, Reader
from pipelines.preparation.readers.own_reader import own_failures, own_reader

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

#: What the command itself sets in the parsed options of any reader.
_DESTINATIONS = ("command", "destination", "workers", "skip_invalid", "verify")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.prepare") -> int:
    """Run the command and return its exit status, as `run_command` defines it."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser, commands = _parser(prog)
    options = argparse.Namespace()
    if given and is_class_name(given[0]):
        failed = run_command(lambda: _read_own_options(parser, commands, given, options))
        if failed:
            return failed
    else:
        parser.parse_args(given, options)
    interrupted = "interrupted"
    if options.command in READERS or is_class_name(options.command):
        interrupted += "; run the same command again to resume after the last finished shard"
    if options.command == "fetch":
        interrupted += "; run the same command again to continue"
    return run_command(lambda: _run(options), interrupted=interrupted)


def _run(options: argparse.Namespace) -> int:
    with importing_libraries():
        from pipelines.run_preparation import (
            fetch_dataset,
            inspect_dataset,
            prepare_dataset,
            preview_crops,
        )

    work = {"fetch": fetch_dataset, "inspect": inspect_dataset, "preview": preview_crops}
    return work.get(options.command, prepare_dataset)(options)


def _parser(prog: str) -> tuple[argparse.ArgumentParser, _Commands]:
    """Return the parser, and the commands of it, to which the user's own reader is added."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Convert a data set to Parquet shards with a manifest, checking every image; "
        "`fetch` downloads a published one, `inspect` and `preview` show a prepared one.",
        epilog="COMMAND may also be `package.module:Class`, a reader of your own: "
        "a subclass of `Reader` in `pipelines.preparation.readers`.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, reader in READERS.items():
        _add_reader(commands, name, reader)
    fetch = commands.add_parser(
        "fetch",
        help="download and unpack a published data set, or say how to get it",
        description=f"Download and unpack {', '.join(sorted(ARCHIVES))}. For the others, say where "
        "to get them and which layout is expected.",
    )
    names = sorted({*ARCHIVES, *INSTRUCTIONS})
    fetch.add_argument(
        "name", choices=names, metavar="NAME", help=f"the data set: {', '.join(names)}"
    )
    fetch.add_argument(
        "--to",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="directory for the archive and the unpacked folder (default: the working directory)",
    )
    fetch.add_argument("--mirror", metavar="URL", help="address of the archive, if not its owner's")
    inspect = commands.add_parser("inspect", help="print class frequencies and draw samples")
    _add_verify(inspect)
    crops = commands.add_parser("preview", help="draw augmented crops with their labels")
    crops.add_argument(
        "--crop",
        type=partial(parse_size, least=16),
        metavar="HxW",
        help="height and width of the crops in pixels (default: the median of the images, at most "
        "1024x1024)",
    )
    crops.add_argument(
        "--experiment",
        type=Path,
        metavar="FILE",
        help="take crop, split, augmentation and seed from an experiment file; other options "
        "override it",
    )
    crops.add_argument("--split", help="split to draw from (default: train)")
    crops.add_argument("--seed", type=int, help="seed of the augmentation (default: 0)")
    crops.add_argument(
        "--class-uniform",
        type=float,
        metavar="SHARE",
        help="share of crops sampled by class (default: 0)",
    )
    for command, file in ((inspect, "NAME-samples.png"), (crops, "NAME-crops.png")):
        command.add_argument("uri", help="directory or URI of a prepared data set")
        command.add_argument(
            "--count", type=_positive, default=12, help="samples to draw (default: 12)", metavar="N"
        )
        command.add_argument(
            "--out",
            type=Path,
            metavar="FILE",
            help=f"image file to write (default: {file}, with the data set's name)",
        )
    return parser, commands


def _read_own_options(
    parser: argparse.ArgumentParser,
    commands: _Commands,
    given: Sequence[str],
    options: argparse.Namespace,
) -> int:
    """Add the command of the user's own reader, which `given` begins with, and read its options
    into `options`; return 0. Raises UserError."""
    name = given[0]
    command = _add_reader(commands, name, own_reader(name))
    try:
        command.format_help()
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"reader {name}: argparse cannot print the help of its options ({error}); write %% for "
            "a percent sign"
        ) from error
    try:
        parser.parse_args(given, options)
    except Exception as error:  # argparse expects other errors of a `type` or an action
        raise UserError(
            f"reader {name}: its options cannot be read ({describe(error)}); for a value that it "
            "does not take, a `type` must raise argparse.ArgumentTypeError"
        ) from error
    return 0


def _add_reader(commands: _Commands, name: str, reader: type[Reader]) -> argparse.ArgumentParser:
    """Add the command that prepares with a reader, and return it. Raises UserError if the reader's
    own code fails, or it has an option of the command."""
    try:
        with own_failures(reader):
            command = commands.add_parser(name, help=reader.help, description=reader.help)
            reader.add_arguments(command)
        _check_destinations(command, name)
        command.add_argument("--destination", required=True, help="output directory or URI")
        command.add_argument(
            "--workers",
            type=_positive,
            default=cores(),
            help="worker processes (default: one per processor core)",
        )
        command.add_argument(
            "--skip-invalid",
            action="store_true",
            help="skip and record invalid samples instead of failing",
        )
        _add_verify(command)
    except argparse.ArgumentError as error:
        raise UserError(f"reader {name}: {error}; rename the option") from error
    return command


def _check_destinations(command: argparse.ArgumentParser, name: str) -> None:
    """Check that the options of a reader set no value that the command itself sets.

    Raises:
        UserError: one does.
    """
    named = {
        action.dest: "/".join(action.option_strings) or "an argument"
        for action in command._actions  # argparse has no public list
    }
    for destination in _DESTINATIONS:
        if destination in named or command.get_default(destination) is not None:
            raise UserError(
                f"reader {name}: {named.get(destination, 'set_defaults')} sets `{destination}`, "
                "as the command itself does; rename it, or give it another `dest`"
            )


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


if __name__ == "__main__":
    sys.exit(main())

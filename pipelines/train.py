"""`python -m pipelines.train EXPERIMENT.yaml --out DIR`: train one experiment on this machine.

Uses no scheduler and no tracking store; everything is written to the directory. Use `torchrun` for
several processes. Run it again with the same directory to resume.
"""

import argparse
import sys
from collections.abc import Sequence

from pipelines.command import run_command
from pipelines.imports import importing_libraries


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.train") -> int:
    """Run the command and return its exit status, as `run_command` defines it."""
    options = _parser(prog).parse_args(arguments)
    return run_command(
        lambda: _run(options),
        interrupted="interrupted; run the same command again to resume",
        continues="the training continues",
    )


def _run(options: argparse.Namespace) -> int:
    with importing_libraries():
        from pipelines.run_training import run_training

    return run_training(options)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Train one experiment on this machine.")
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="experiment file")
    parser.add_argument("--out", required=True, metavar="DIR", help="output directory")
    parser.add_argument("--dataset", metavar="URI", help="prepared data set, overrides the file's")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to train; auto is a GPU if there is one (default: auto)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep decoded data in this directory (default: decode each image anew in every epoch)",
    )
    parser.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="also write a checkpoint every N steps"
    )
    parser.add_argument(
        "--keep",
        type=int,
        default=1,
        metavar="N",
        help="keep the N best checkpoints by validation score and the last one (default: 1)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

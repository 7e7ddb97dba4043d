"""`orchestrator COMMAND ...`: every command of the project under one name.

`orchestrator sweep STUDY.yaml` runs `python -m orchestrator.sweep STUDY.yaml`, but searches the
working directory for modules last, not first: a package `models` there hides nothing.
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from pipelines.wording import suggestion

# By name: the module whose `main(arguments, prog)` runs the command, and its line in --help.
COMMANDS = {
    "init": ("orchestrator.init", "write a first study file into the working directory"),
    "sweep": ("orchestrator.sweep.__main__", "train a study's missing trials and print its table"),
    "report": ("orchestrator.report.__main__", "write a study's tables and charts"),
    "bundle": ("orchestrator.bundle.__main__", "write, check or replay supplementary material"),
    "studies": ("orchestrator.studies.__main__", "list, compare, follow, stop and resume studies"),
    "server": ("orchestrator.server", "serve MLflow from a file that is replicated to a bucket"),
    "evaluate": ("orchestrator.evaluate", "score a trained model on a data set"),
    "predict": ("orchestrator.predict", "predict the label maps of images"),
    "export": (
        "orchestrator.export",
        "export a trained model: torch.export, ONNX, model directory, model card",
    ),
    "figures": ("orchestrator.figures", "draw what trained models predict"),
    "prepare": ("pipelines.prepare", "convert a data set to Parquet shards"),
    "train": ("pipelines.train", "train one experiment without Ray and MLflow"),
    "profile": ("models.profile", "print parameters, GFLOPs and latency of networks"),
}
_DISTRIBUTION = "segmentation-orchestrator"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] not in COMMANDS:
        return _help(given)
    with suppress(OSError):  # the command itself says that the directory was deleted
        directory = os.getcwd()
        if directory not in sys.path:
            sys.path.append(directory)  # a study's `imports` may be there
    name, _ = COMMANDS[given[0]]
    module = import_module(name)
    gc.freeze()  # the modules stay; collecting them again and again takes a second of a plan
    status: int = module.main(given[1:], prog=f"orchestrator {given[0]}")
    gc.freeze()
    return status


def _help(arguments: Sequence[str]) -> int:
    """Answer --help and --version, or exit with status 2 for an unknown command."""
    listed = "\n".join(f"  {name:10}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="orchestrator",
        usage="orchestrator COMMAND ...",
        description="Ablation studies of semantic segmentation networks.",
        epilog=f"commands (COMMAND --help shows the options):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    if arguments and not arguments[0].startswith("-"):
        parser.error(
            f"unknown command {arguments[0]!r}; {suggestion(arguments[0], list(COMMANDS))}"
        )
    if parser.parse_args(arguments).version:
        print(f"{_DISTRIBUTION} {_version()}")
        return 0
    parser.print_help()
    return 2


def _version() -> str:
    from importlib import metadata  # slow to import

    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())

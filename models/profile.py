"""Parameters and multiply-adds of the paper's networks, compared with the paper's values.

python -m models.profile                                    # the backbones in the paper's tables
python -m models.profile fenet --backbone dfnet1 --parts
python -m models.profile --size 1024x2048 --classes 19 --latency --json
"""

import argparse
import errno
import os
import re
import sys
from collections.abc import Sequence

from models.config import backbone_names
from models.paper import CONFIGURATIONS


def _size(text: str) -> tuple[int, int]:
    """Parse `N` or `HEIGHTxWIDTH` to (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"must be N or HxW, such as 1024x2048; received {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, received {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m models.profile") -> int:
    """Run the command and return its exit status: 0, 1 if its output cannot be written, 130 for
    Ctrl-C."""
    options = _options(arguments, prog)
    try:
        from models.cost_table import print_table  # torch takes seconds to import

        print_table(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        if error.errno != errno.EPIPE:
            print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        # Python flushes its output again on exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _options(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Print the parameters and multiply-adds (GFLOPs, as the paper counts them) of "
        "the paper's networks for one image, without auxiliary heads, next to its Tables 2 and "
        "3(a).",
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help=f"any of {', '.join(CONFIGURATIONS)} (default: all)",
    )
    parser.add_argument(
        "--backbone",
        action="append",
        choices=[*backbone_names(), "all"],
        metavar="NAME",
        help=f"any of {', '.join(backbone_names())}, or all; repeatable (default: resnet101 "
        "and resnet18, which the paper reports)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=(1024, 1024),
        metavar="N|HxW",
        help="height and width of the image in pixels; one number for both (default: 1024)",
    )
    parser.add_argument(
        "--classes", type=_positive, default=19, metavar="N", help="number of classes (default: 19)"
    )
    parser.add_argument("--parts", action="store_true", help="list the parts of every network")
    parser.add_argument(
        "--latency",
        action="store_true",
        help="also run each network on this machine: milliseconds and peak memory of one image",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, including parts")
    options = parser.parse_args(arguments)
    for name in options.networks:
        if name not in CONFIGURATIONS:
            parser.error(f"unknown network {name!r}; known: {', '.join(CONFIGURATIONS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())

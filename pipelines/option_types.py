"""Types of command-line options, for argparse."""

import re
from argparse import ArgumentTypeError


def parse_size(text: str, least: int = 1) -> tuple[int, int]:
    """Parse `HEIGHTxWIDTH`, in pixels, to (height, width). Raises ArgumentTypeError, also if a side
    is shorter than `least`."""
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.lower())
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < least:
        raise ArgumentTypeError(
            f"must be HEIGHTxWIDTH, such as 512x1024, and at least {least}x{least}; received "
            f"{text!r}"
        )
    return size

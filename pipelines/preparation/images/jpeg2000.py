"""Read the bit depths that a JPEG 2000 file states, which Pillow cuts to 8 in color images."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

_CODESTREAM = b"jp2c"
_START_OF_CODESTREAM = b"\xff\x4f"
_SIZES = b"\xff\x51"
# Bytes in the segment of sizes before the number of components: length, capabilities, eight sizes.
_BEFORE_COMPONENTS = 2 + 2 + 8 * 4


@dataclass(frozen=True)
class ComponentForm:
    """What one component (band) stores: bits per value, and whether the values are signed."""

    bits: int
    signed: bool


def component_forms(file: IO[bytes]) -> list[ComponentForm]:
    """Return the form of each component, from a JP2 file or a bare codestream.

    The position of the file is kept. The list is empty if the file states no forms, which only a
    damaged file does not.
    """
    position = file.tell()
    try:
        file.seek(0)
        if file.read(2) != _START_OF_CODESTREAM:
            file.seek(0)
            if not _enter_codestream(file) or file.read(2) != _START_OF_CODESTREAM:
                return []
        # The segment of sizes is always the first.
        if file.read(2) != _SIZES:
            return []
        count = int.from_bytes(file.read(_BEFORE_COMPONENTS + 2)[_BEFORE_COMPONENTS:], "big")
        depths = file.read(3 * count)[::3]
        return [ComponentForm((depth & 0x7F) + 1, bool(depth & 0x80)) for depth in depths]
    finally:
        file.seek(position)


def _enter_codestream(file: IO[bytes]) -> bool:
    """Move to the content of the box that holds the codestream; return whether there is one."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == _CODESTREAM:
            if length == 1:
                file.read(8)
            return True
        if length == 1:
            length = int.from_bytes(file.read(8), "big") - 8
        if length < 8:  # 0: up to the end of the file
            return False
        file.seek(length - 8, 1)
    return False

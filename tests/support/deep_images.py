"""Writes images of bit depths that Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_png16(path: Path, values: NDArray[np.uint16]) -> None:
    """Write a PNG of 16-bit gray (height, width), gray and alpha (..., 2), RGB or RGBA."""
    bands = 1 if values.ndim == 2 else values.shape[2]
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


def encode_few_bits(values: NDArray[np.uint8], bits: int) -> bytes:
    """Encode values (height, width) as a gray PNG of 1, 2, 4 or 8 bits."""
    height, width = values.shape
    single = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = np.packbits(single, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def write_tiff16(path: Path, values: NDArray[np.uint16], order: str, deflate: bool) -> None:
    """Write a TIFF of 16-bit RGB. order: `<` or `>`, the byte order."""
    height, width, bands = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    pixels += b"\0" * (len(pixels) % 2)
    bits = 8 + len(pixels)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, bands, bits),
        (259, 4, 1, 8 if deflate else 1),
        (262, 4, 1, 2),
        (273, 4, 1, 8),
        (277, 4, 1, bands),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, bits + 2 * bands)
    directory = struct.pack(f"{order}H", len(tags))
    directory += b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    directory += struct.pack(f"{order}I", 0)
    path.write_bytes(head + pixels + struct.pack(f"{order}{bands}H", *[16] * bands) + directory)

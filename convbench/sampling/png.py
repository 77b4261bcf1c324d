"""A PNG of a grid of images, written with the standard library alone (W3C Portable Network Graphics, third edition)."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]

LEAST_SIDE = 64
"""Smaller images are enlarged by a whole factor to at least this many pixels, so that they are visible."""
GAP = 2  # pixels between images


def image_grid(images: Images, columns: int) -> Images:
    """Arrange images (N, H, W, 1 or 3) in rows on white. -> (height, width, 1 or 3)"""
    _, height, width, channels = images.shape
    factor = max(1, -(-LEAST_SIDE // max(height, width)))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = height * factor, width * factor
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def encode_png(image: Images) -> bytes:
    """Encode an image (H, W, 1 or 3) as the bytes of a PNG file."""
    height, width, channels = image.shape
    colour = {1: 0, 3: 2}[channels]  # grey, or red, green and blue
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row follows its filter type: 0, none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

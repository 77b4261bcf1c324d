"""Glyphs: labelled images of letters, digits and signs, drawn from the fonts that ship with matplotlib.

Image number i of a seed is the same in every set that contains it: millions of images that nobody has to store. Each
is one character in one of the fonts, at a random size, angle, place, weight and contrast.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels
CHARACTERS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghmnqrtΓΔΘΞΠΣΦΨΩ&#%?@€"
"""One class each. Left out is what no one could tell apart at a random size: 0 beside O, the small letters that are
capitals made smaller (c, o, s, v, w, x, z …), and l beside I."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral")

MASTER = 96  # side of the masks that the images are drawn from
HEIGHT = 56  # size of the font in them, pixels for each em
BLURRED = 1.0  # standard deviation that softens a mask, so that its edge can be moved
DRAWS = 8  # random numbers for each image


def labels(numbers: Sequence[int]) -> NDArray[np.int64]:
    """Classes of the images with these numbers: they take turns. -> (N,)"""
    return np.asarray(numbers, np.int64) % len(CHARACTERS)


def draw(numbers: Sequence[int], seed: int = 0) -> NDArray[np.uint8]:
    """Draw the images with these numbers. -> (N, 32, 32), white on black

    All arithmetic is in float64 and elementwise, and the result is rounded to whole numbers.
    """
    random = np.stack([_generator(seed, number).random(DRAWS) for number in numbers])
    font = (random[:, 0] * len(FONTS)).astype(int)
    mask = masks()[labels(numbers), font]  # (N, MASTER, MASTER)

    def between(draw: int, low: float, high: float) -> NDArray[np.float64]:
        return (low + (high - low) * random[:, draw])[:, None, None]

    size, angle = between(1, 0.36, 0.52), between(2, -0.2, 0.2)  # pixels of the image to one of the mask; radians
    right, down = between(3, -2.5, 2.5), between(4, -2.5, 2.5)  # pixels
    weight = between(5, -0.12, 0.2)  # moves the edge of the mask outwards
    ink, paper = between(6, 0.55, 1.0), between(7, 0.0, 0.3)

    centre = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE] - centre
    x, y = (x - right) / size, (y - down) / size
    cosine, sine = np.cos(angle), np.sin(angle)
    coverage = _interpolated(mask, cosine * x + sine * y, cosine * y - sine * x)
    coverage = np.clip((coverage - 0.5 + weight) * 1.6 + 0.5, 0, 1)
    image: NDArray[np.uint8] = np.rint(255 * (paper + (ink - paper) * coverage)).astype(np.uint8)
    return image


@cache
def masks() -> NDArray[np.float64]:
    """Coverage of every character in every font, centred and softened. -> (classes, fonts, MASTER, MASTER) in [0, 1]"""
    return np.stack([np.stack([_mask(character, font) for font in FONTS]) for character in CHARACTERS])


def _mask(character: str, font: str) -> NDArray[np.float64]:
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font, LoadFlags

    face = FT2Font(str(Path(get_data_path(), "fonts", "ttf", f"{font}.ttf")))
    face.set_size(HEIGHT, 72)  # at 72 dots an inch a point is a pixel
    face.set_text(character, 0.0, flags=LoadFlags.NO_HINTING)
    face.draw_glyphs_to_bitmap(antialiased=True)
    drawn = np.asarray(face.get_image(), np.float64) / 255
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    drawn = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    mask = np.zeros((MASTER, MASTER))
    top, left = (MASTER - drawn.shape[0]) // 2, (MASTER - drawn.shape[1]) // 2
    mask[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return _softened(_softened(mask).T).T


def _softened(mask: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each pixel with its neighbours along the first axis by a normal distribution."""
    reach = range(-3, 4)
    share = np.exp(-0.5 * (np.array(reach) / BLURRED) ** 2)
    shifted = [np.roll(mask, offset, axis=0) for offset in reach]
    result: NDArray[np.float64] = sum(part * each for part, each in zip(share / share.sum(), shifted, strict=True))
    return result


def _interpolated(mask: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read masks (N, M, M) at points (N, S, S) relative to their centres, bilinearly. -> (N, S, S)"""
    middle = (MASTER - 1) / 2
    x, y = np.clip(x + middle, 0, MASTER - 1.001), np.clip(y + middle, 0, MASTER - 1.001)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, along = x - left, y - top
    image = np.arange(len(mask))[:, None, None]
    above = mask[image, top, left] * (1 - across) + mask[image, top, left + 1] * across
    below = mask[image, top + 1, left] * (1 - across) + mask[image, top + 1, left + 1] * across
    result: NDArray[np.float64] = above * (1 - along) + below * along
    return result


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, number]))

"""Tensors as JSON, at a bounded cost: a text whose objects would take far more memory than its bytes is not read."""

import json
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
KINDS: dict[str, set[type]] = {"int64": {int}, "float32": {int, float}}  # of the elements; true and false are neither
OBJECTS, QUOTES, COMMAS = 64, 1024, 1024  # more than a right request has beside its numbers
WIDE_BYTES = 2**16  # of a text in which one emoji may make every sign take four
SLICE = 4096  # numbers that are written before other threads have their turn


def excess(text: bytes | bytearray, numbers: int, lists: int) -> str | None:
    """What a JSON text holds too much of, in words, from its bytes alone; None if it can be read.

    A few bytes such as ``[],`` become an object of 64 and more, and brackets inside brackets are quicker counted than
    read.

    Args:
        numbers, lists: the most of each in the tensors of a right request.
    """
    for sign, most, what in (
        (b"[", lists + OBJECTS, "lists"),
        (b"{", OBJECTS, "objects"),
        (b'"', QUOTES, "quotation marks"),
        (b",", numbers + COMMAS, "values"),
    ):
        if text.count(sign) > most:
            return f"it has more than {most} {what}"
    if len(text) > WIDE_BYTES and not text.isascii():
        return f"it has more than {WIDE_BYTES} bytes and not all of them are ASCII"
    return None


def most_lists(shape: list[int]) -> int:
    """How many lists write a tensor of that shape, each axis as a level."""
    return sum(math.prod(shape[:axis]) for axis in range(len(shape)))


def array(name: str, data: Any, shape: list[int], dtype: str) -> Array:
    """The tensor that a list of numbers writes, flat or as deep as its shape. Raises ValueError, naming the tensor."""
    numbers = _flat(data, shape)
    if numbers is None:
        raise ValueError(f"the data of {name} is not a list of numbers, flat or as deep as its shape")
    wrong = ValueError(f"the data of {name} is not a list of {dtype} numbers, flat or as deep as its shape")
    # Before NumPy sees them: it makes every text as long as the longest, and a tree of what it does not know.
    if not set(map(type, numbers)) <= KINDS[dtype]:
        raise wrong
    if len(numbers) != math.prod(shape):
        raise ValueError(f"{name} of shape {shape} has {math.prod(shape)} numbers, not {len(numbers)}")
    try:
        values = np.array(numbers, "int64" if dtype == "int64" else "float64")
    except OverflowError:
        raise wrong from None
    with np.errstate(over="ignore"):  # what does not fit is infinite, which is refused with the other values
        return values.astype(dtype, copy=False).reshape(shape)


def _flat(data: Any, shape: list[int]) -> list[Any] | None:
    """The elements of a list, or of lists as deep as the shape; None for anything else."""
    if type(data) is not list:
        return None
    if not any(type(each) is list for each in data[:1]):
        return data
    level = [data]
    for extent in shape:
        if not all(type(each) is list and len(each) == extent for each in level):
            return None
        level = list(chain.from_iterable(level))
    return level


def text(values: Array) -> str:
    """The numbers of a tensor as a flat list. They must be finite."""
    return f"[{','.join(_slices(values.ravel()))}]"


def _slices(values: Array) -> Iterator[str]:
    for at in range(0, len(values), SLICE):
        yield json.dumps(values[at : at + SLICE].tolist(), separators=(",", ":"))[1:-1]

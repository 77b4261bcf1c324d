"""Tensors as JSON at a bounded cost: text that would expand to far more memory than its bytes is refused unread."""

import json
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
KINDS: dict[str, set[type]] = {"int64": {int}, "float32": {int, float}}  # of the elements; true and false are neither
OBJECTS, QUOTES, COMMAS = 64, 1024, 1024  # allowed beside the numbers; a valid request needs fewer
WIDE_BYTES = 2**16  # above which one emoji would quadruple the memory of the whole text
SLICE = 4096  # numbers written at a time; between two slices other threads can run


def excess(text: bytes | bytearray, numbers: int, lists: int) -> str | None:
    """Return what a JSON text has too much of, judged by its bytes alone, or None.

    Three bytes such as ``[],`` become an object of 64 bytes, so counting comes before parsing.

    Args:
        numbers, lists: limits for the tensors of a valid request.
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
    """Number of lists in a tensor of that shape that is nested as deep as its axes."""
    return sum(math.prod(shape[:axis]) for axis in range(len(shape)))


def array(name: str, data: Any, shape: list[int], dtype: str) -> Array:
    """Tensor from a list of numbers, flat or nested as deep as its shape. Raises ValueError, naming the tensor."""
    numbers = _flat(data, shape)
    if numbers is None:
        raise ValueError(f"the data of {name} is not a list of numbers, flat or as deep as its shape")
    wrong = ValueError(f"the data of {name} is not a list of {dtype} numbers, flat or as deep as its shape")
    # Before NumPy sees them: it would pad every string to the length of the longest.
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
    """Elements of a list, or of lists nested as deep as the shape; None for anything else."""
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
    """JSON text of a tensor as a flat list. All numbers must be finite."""
    return f"[{','.join(_slices(values.ravel()))}]"


def _slices(values: Array) -> Iterator[str]:
    for at in range(0, len(values), SLICE):
        yield json.dumps(values[at : at + SLICE].tolist(), separators=(",", ":"))[1:-1]

"""Check of the model description that a server sends to `convbench load`."""

import math
from typing import Any

from convbench.errors import UsageError

DTYPES = {"FP32": "float32", "INT64": "int64", "FP16": "float16"}
MOST_INPUTS, MOST_AXES, MOST_NUMBERS = 8, 8, 2**26  # of a request


def is_named(entry: Any) -> bool:
    """Check for a "name" that can go into an address and a message."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()


def inputs(described: Any, model: str, batch: int, side: int | None) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each input of a request. Raises UsageError for an invalid description."""
    wrong = UsageError(f"the description of {model} does not follow the KServe v2 protocol")
    ports = described.get("inputs") if isinstance(described, dict) else None
    limits = described.get("parameters") or {} if isinstance(described, dict) else None
    if not isinstance(ports, list) or not isinstance(limits, dict) or not 0 < len(ports) <= MOST_INPUTS:
        raise wrong
    found = []
    numbers = 0
    for port in ports:
        given = port.get("shape") if is_named(port) else None
        if not isinstance(given, list) or not 0 < len(given) <= MOST_AXES or not all(type(n) is int for n in given):
            raise wrong
        if port.get("datatype") not in tuple(DTYPES):
            raise UsageError(f"{model} takes a tensor type that no convbench model uses")
        shape = [batch, *given[1:]]
        if len(shape) == 4:
            for axis, name in ((2, "height"), (3, "width")):
                low = limits.get(name)
                smallest = low[0] if isinstance(low, list) and low and type(low[0]) is int else -1
                shape[axis] = (side or smallest) if shape[axis] == -1 else shape[axis]
        if -1 in shape:
            raise UsageError(f"the server does not limit the image size of {model}: specify --side")
        if min(shape) < 1:
            raise wrong
        numbers += math.prod(shape)
        found.append((port["name"], port["datatype"], shape))
    if numbers > MOST_NUMBERS:
        raise UsageError(f"a request of {batch} images has {numbers} numbers, more than {MOST_NUMBERS}: lower --batch")
    return found

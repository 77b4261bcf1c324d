"""ClientLimits of a served artefact, from its manifest alone: nothing of the model itself is imported."""

import math
import re
from dataclasses import dataclass
from functools import cached_property

from convbench.catalogue import Signature
from convbench.errors import UsageError

from ..export.folder import Manifest
from . import json_tensors

JSON_BYTES_PER_NUMBER = 32  # the longest a float64 is written, with its comma
JSON_BYTES_BESIDE = 2**16
MOST_BODY_BYTES = 2**28  # about, whatever the artefact takes
ID = re.compile(r"[A-Za-z0-9_.:@=,/+-]{1,200}")  # what ids of models consist of


@dataclass(frozen=True)
class Served:
    """Bounds of a request. Raises UsageError for a manifest that cannot be served."""

    manifest: Manifest
    max_batch: int

    def __post_init__(self) -> None:
        names = [port.name for port in (*self.manifest.inputs, *self.manifest.outputs)]
        try:
            right = names == ["x", "t", "y", "out"] and len(self.manifest.inputs[0].shape) == 4 and self.numbers > 0
        except (KeyError, ValueError):  # a name of an extent that stands nowhere
            right = False
        if not right or not self.name:
            raise UsageError("this artefact does not take x (N, C, H, W), t and y and return out: it cannot be served")

    @cached_property
    def name(self) -> str:
        """Model name in URLs."""
        return safe_name(self.manifest.model)

    @cached_property
    def last_class(self) -> int | None:
        """Largest y, None if y is a caption. An index outside its table ends some runtimes."""
        return last_class(self.manifest.signature)

    @cached_property
    def max_body_bytes(self) -> int:
        """Size limit of a request body."""
        return JSON_BYTES_BESIDE + JSON_BYTES_PER_NUMBER * self.numbers

    @cached_property
    def numbers(self) -> int:
        """Numbers in the largest request that a body can hold as JSON."""
        return min(sum(math.prod(shape) for shape in self._largest()), MOST_BODY_BYTES // JSON_BYTES_PER_NUMBER)

    @cached_property
    def lists(self) -> int:
        """JSON lists in the largest request, if its inputs are nested as deep as their shapes."""
        return sum(json_tensors.most_lists(shape if len(shape) > 1 else [*shape, 1]) for shape in self._largest())

    def _largest(self) -> list[list[int]]:
        sizes = {name: high for name, (_, high) in self.manifest.dimensions.items()}
        return [[self.max_batch, *(_size(extent, sizes) for extent in port.shape[1:])] for port in self.manifest.inputs]


def last_class(takes: Signature) -> int | None:
    """Largest class index; None for a model that takes a caption."""
    if takes.caption:
        return None
    return takes.classes if takes.null_class else takes.classes - 1


def safe_name(model: str) -> str:
    """Model id as a name in folders, URLs and Triton: letters, digits and underscores.

    Raises UsageError for what cannot be an id.
    """
    if not ID.fullmatch(model):
        raise UsageError(f"{ascii(model)[:80]} is not a valid model id: export the artefact again")
    return re.sub(r"[^A-Za-z0-9_]", "_", model)


def _size(extent: int | str, sizes: dict[str, int]) -> int:
    if isinstance(extent, int):
        return extent
    factor, _, name = extent.rpartition("*")
    return int(factor or 1) * sizes[name]


def extents(manifest: Manifest, axis: int) -> tuple[int, int, int]:
    """The smallest and largest height (axis 2) or width (axis 3) of x, and what divides each."""
    extent = manifest.inputs[0].shape[axis]
    if isinstance(extent, int):
        return extent, extent, extent
    factor, _, name = extent.rpartition("*")
    low, high = manifest.dimensions[name]
    return int(factor or 1) * low, int(factor or 1) * high, int(factor or 1)

"""The plan of the bench: which operations to time at which shapes, in which order, and how long that takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...schema import Second
from ..schema import DTYPES, Kernel, Shape

ROW_S: Second = 0.9  # an operation and its eager form, two graphs each; assumed until a GPU has been measured
PRODUCT_S: Second = 5.0  # a product with each configuration and in the library, compilations included; assumed
COMPILE_S: Second = 4.0  # torch.compile on one shape; assumed
AT_LARGEST_BATCH = "torch.compile is measured at the largest batch only"


@dataclass(frozen=True)
class Work:
    """One row: an operation at one shape, batch and precision."""

    kernel: Kernel
    shape: Shape
    batch: int
    precision: str
    without_compile: str = ""  # reason why torch.compile is not measured too
    on: str | None = None  # kind of node of a cluster

    @property
    def id(self) -> str:
        """Key of the row in a result file."""
        shape = self.shape
        out = f"-{shape.out_channels}" if shape.out_channels else ""
        side = f"k{shape.kernel}" if shape.kernel else ""
        where = f"{shape.model}/{shape.res}px/level{shape.level}/{shape.channels}{out}{side}"
        return f"{self.kernel.name}/{where}/b{self.batch}/{self.precision}" + (f"/on={self.on}" if self.on else "")

    @property
    def expected_s(self) -> Second:
        """Assumed time of the measurement."""
        return ROW_S + (0 if self.without_compile else COMPILE_S)

    @property
    def min_bytes(self) -> int:
        """Least memory traffic of one launch."""
        return self.kernel.min_bytes(self.shape, self.batch, DTYPES[self.precision].itemsize)

    @property
    def flops(self) -> int:
        """FLOPs of one launch."""
        return self.kernel.flops(self.shape, self.batch)


def plan(
    kernels: Sequence[Kernel], precisions: Sequence[str], batches: Sequence[int], resolutions: Sequence[int]
) -> list[Work]:
    """List all rows, the most important first in case time runs out: full resolution, larger batch, smaller images.

    torch.compile is measured at the largest batch only: a compilation takes longer than the rest of a row.
    """
    works = [
        Work(kernel, shape, batch, precision, "" if batch == max(batches) else AT_LARGEST_BATCH)
        for precision in precisions
        for res in resolutions
        for batch in sorted(batches, reverse=True)
        for kernel in kernels
        for shape in kernel.shapes
        if shape.res == res and precision in kernel.timed
    ]
    return sorted(works, key=lambda work: (precisions.index(work.precision), work.shape.level, work.shape.res))


def summary(works: Sequence[Work], held: int, budget: Second) -> str:
    """Describe the work that is left in one line; ``held``: rows that the file already has."""
    seconds = sum(work.expected_s for work in works)
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    parts = [f"{len(works)} rows to measure, about {about}", f"{held} already in the file" if held else ""]
    if seconds > budget:
        parts.append(f"the last rows skip torch.compile to stay near {budget:.0f} s")
    return "; ".join(filter(None, parts)) + "."

"""The loop of the bench: keeps rows in a file, resumes from it, and stays near a budget of time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ... import store
from ...errors import UsageError
from ...schema import KernelTiming, Second
from .plan import COMPILE_S, ROW_S, Work


def held_rows(out: Path | None) -> dict[str, KernelTiming]:
    """Read the rows that the file already holds, by their id. Failed rows are left out, to be measured again."""
    if out is None:
        return {}
    store.require_writable(out)
    if not out.exists():
        return {}
    held = {}
    for row in store.rows_of(out):
        if not isinstance(row, KernelTiming):
            raise UsageError(f"{out} holds measurements of networks, not of kernels; choose another file")
        if row.status == "ok":
            held[row.case] = row
    return held


def run(
    works: Sequence[Work],
    out: Path | None,
    measure: Callable[[Work], KernelTiming],
    clock: Callable[[], Second],
    budget: Second,
    report: Callable[[Work], None] = lambda work: None,
) -> Iterator[KernelTiming]:
    """Yield rows in the order of the works, those of the file included; each new one is first appended to the file.

    Once the remaining rows would not fit the budget with torch.compile, they are measured without it.
    """
    held = held_rows(out)
    start = clock()
    for done, work in enumerate(works):
        report(work)
        if work.id in held:
            yield held[work.id]
            continue
        rest = sum(ROW_S for later in works[done:] if later.id not in held)
        late = not work.without_compile and clock() - start + rest + COMPILE_S > budget
        skipped = f"torch.compile skipped: the run would exceed {budget:.0f} s"
        row = measure(replace(work, without_compile=skipped) if late else work)
        if out is not None:
            store.append(out, row)
        yield row

"""Progress of long work, on stderr: a bar with the time left on a terminal, lines elsewhere. The only one there is."""

import sys
import time
from collections.abc import Mapping
from typing import Self

import click

from ..errors import printable
from ..schema import Second

SHARES = {"loading": 0.1, "reference": 0.2, "proving": 0.3}
"""The part of a job that is over when it reports these; timing is the rest."""


class Bar:
    """A bar over work of a known total; its unit is up to the caller."""

    def __init__(self, total: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.total = total
        self.started = time.monotonic()
        self.on_terminal = sys.stderr.isatty()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not self.on_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=total, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        self.started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def elapsed_s(self) -> Second:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def left_s(self, completed: float) -> Second:
        """Seconds that the rest takes at the pace so far."""
        return self.elapsed_s * max(0.0, self.total - completed) / completed if completed > 0 else 0.0

    def show(self, completed: float, description: str, left_s: Second | None = None) -> None:
        """Move the bar; ``left_s`` takes the place of the time left by the pace so far."""
        left = self.left_s(completed) if left_s is None else left_s
        self.bar.update(self.task, completed=completed, description=description, left=f"{left:.0f} s left")

    def tell(self, line: str) -> None:
        """Print a line that matters, above the bar if there is one."""
        self.bar.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line where there is no bar."""
        if not self.on_terminal:
            click.echo(line, err=True)


class CaseProgress(Bar):
    """Jobs whose seconds are expected roughly, such as the cases of a run."""

    def __init__(self, expected_s: Mapping[str, Second], rows: int) -> None:
        """Take the expected seconds of each job by its id, in their order, and the number of rows to come."""
        super().__init__(max(1.0, sum(expected_s.values())))
        self.expected_s, self.rows = dict(expected_s), rows
        self.spent_s = 0.0
        self.count = 0

    def update(self, id: str, what: str, done: float) -> None:
        """Show the phase of a running job and the share of its timing that is done."""
        now = self.spent_s + SHARES.get(what, 0.4 + 0.6 * done) * self.expected_s.get(id, 1.0)
        # The pace of the first seconds says nothing: process start and imports are in them.
        self.show(now, f"{id}: {what}", None if now > 5 else max(0.0, self.total - now))

    def finished(self, id: str, result: str) -> None:
        """Count a finished row."""
        self.spent_s += self.expected_s.get(id, 0.0)
        self.count += 1
        self.say(f"[{self.count} of {self.rows}] {id}: {result}")


class PhaseProgress(Bar):
    """One long job, or a few, that report phases and give all their rows at the end."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.told = ""

    def update(self, id: str, what: str, done: float) -> None:
        """Show a phase; elsewhere than on a terminal, a line for each new one."""
        line = f"{id}: {what} …"
        self.show(done, line)
        if line != self.told:
            self.told = line
            self.say(line)


class StepProgress(Bar):
    """Steps of about the same length."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.count = 0

    def step(self, what: str) -> None:
        """Start the next step."""
        self.show(self.count, what)
        self.count += 1
        self.say(f"[{self.count} of {self.total:.0f}] {what}")


class ImageProgress(Bar):
    """Images that are sampled in batches of many steps; elsewhere than on a terminal, a line every few seconds."""

    EVERY_S: Second = 10.0

    def __init__(self, images: int, batch: int, steps: int) -> None:
        super().__init__(-(-images // batch) * steps)
        self.images, self.batch, self.steps = images, batch, steps
        self.told_s = 0.0

    def update(self, finished: int, step: int) -> None:
        """Show the images that are finished and the step of the running batch."""
        completed = finished // self.batch * self.steps + step
        what = f"{finished} of {self.images} images, step {step} of {self.steps}"
        self.show(completed, what)
        if self.elapsed_s - self.told_s > self.EVERY_S:
            self.told_s = self.elapsed_s
            self.say(f"{what}, {self.left_s(completed):.0f} s left")

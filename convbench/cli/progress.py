"""Progress of long work, on stderr: a bar with the time left on a terminal, a line a result elsewhere."""

import sys
import time
from collections.abc import Mapping

import click

from ..schema import Second

SHARES = {"loading": 0.1, "reference": 0.2, "proving": 0.3}
"""The part of a job that is over when it reports these; timing is the rest."""


class Progress:
    """Follows jobs whose seconds are expected roughly."""

    def __init__(self, expected_s: Mapping[str, Second], of: int = 0) -> None:
        """Take the expected seconds of each job by its id, in their order, and the number of rows to come."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.expected_s, self.of = dict(expected_s), of or len(expected_s)
        self.total_s = max(1.0, sum(self.expected_s.values()))
        self.spent_s = 0.0
        self.started = time.monotonic()
        self.count = 0
        self.told = ""
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=self.total_s, left="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        self.started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, id: str, what: str, done: float) -> None:
        """Show the phase of a running job. The time left is the expected rest, scaled by the pace so far."""
        share = SHARES.get(what, 0.4 + 0.6 * done)
        now = self.spent_s + share * self.expected_s.get(id, 1.0)
        pace = (time.monotonic() - self.started) / now if now > 5 else 1.0
        left_s = max(0.0, (self.total_s - now) * pace)
        self.bar.update(self.task, completed=now, description=f"{id}: {what}", left=f"{left_s:.0f} s left")

    def phase(self, id: str, what: str, done: float) -> None:
        """The same for a job of many rows: elsewhere than on a terminal, a line for each new phase."""
        self.update(id, what, done)
        if not sys.stderr.isatty() and self.told != (line := f"{id}: {what} …"):
            self.told = line
            click.echo(line, err=True)

    def finished(self, id: str, text: str) -> None:
        """Count a finished row, and say its result where there is no bar."""
        self.spent_s += self.expected_s.get(id, 0.0)
        self.count += 1
        if not sys.stderr.isatty():
            click.echo(f"[{self.count} of {self.of}] {id}: {text}", err=True)

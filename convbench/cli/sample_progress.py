"""How far ``convbench sample`` is."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..sampling.images import Recipe


class Progress:
    """A bar with the time left on a terminal, a line every few seconds elsewhere; both on stderr."""

    EVERY_S = 10.0

    def __init__(self, count: int, batch: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.count, self.batch, self.steps = count, batch, steps
        self.total = -(-count // batch) * steps
        self.started = self.told = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=self.total, left="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        self.started = self.told = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.seconds = time.monotonic() - self.started

    def update(self, finished: int, step: int) -> None:
        """Called after each step of a batch."""
        done, now = finished // self.batch * self.steps + step, time.monotonic()
        left = (now - self.started) / done * (self.total - done)
        what = f"{finished} of {self.count} images, step {step} of {self.steps}"
        self.bar.update(self.task, completed=done, description=what, left=f"{left:.0f} s left")
        if not sys.stderr.isatty() and now - self.told > self.EVERY_S:
            self.told = now
            click.echo(f"{what}, {left:.0f} s left", err=True)

    def summary(self, count: int, recipe: "Recipe", path: Path) -> str:
        return (
            f"{count} images in {self.seconds:.1f} s, {recipe.steps} steps of {recipe.sampler}, "
            f"guidance {recipe.cfg_scale:g}: {path}"
        )

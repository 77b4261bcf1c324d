"""Progress of a command on kernels."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar with the time left on a terminal, a line for each step elsewhere; both on stderr.

    Yields a function to call with the name of each step before it starts.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    task = bar.add_task("starting", total=total)
    count = 0

    def step(name: str) -> None:
        nonlocal count
        bar.update(task, description=name, completed=count)
        count += 1
        if not sys.stderr.isatty():
            click.echo(f"[{count}/{total}] {name}", err=True)

    with bar:
        yield step

"""A store that follows a run: rows go to its file first, then to the store, and a store that fails stops nothing."""

import time
from pathlib import Path

from ..errors import UsageError
from ..schema import Second
from ..schema.upgrade import SCHEMA
from . import places
from .lines import Results
from .postgres import without_password

PAUSE_S: Second = 30.0  # after a failure, before the next attempt


class Mirror:
    """Pushes the rows of a run to a store as they come."""

    def __init__(self, results: Results, to: str) -> None:
        """Follow a run. Raises UsageError for a place that is no store."""
        if places.tables(to) is None:
            raise UsageError(f"{to} is no store: duckdb:///FILE, a .parquet folder, or postgresql://…")
        self.results, self.to = results, to
        self.pushed = 0  # rows of the run
        self.failure: str | None = None
        self.failed_at = -PAUSE_S
        results.then = self.follow

    def follow(self) -> None:
        """Push what is not in the store yet, unless an attempt failed a moment ago."""
        if self.failure is None or time.monotonic() >= self.failed_at + PAUSE_S:
            self._push()

    def _push(self) -> None:
        assert self.results.path
        known = [{"schema": SCHEMA, **row.to_json()} for row in self.results.rows]
        name = places.run_name(self.results.path, known)
        try:
            places.push([(name, row) for row in known[self.pushed :]], self.to)
        except UsageError as error:
            self.failure, self.failed_at = str(error), time.monotonic()
        else:
            self.pushed, self.failure = len(known), None

    def finish(self) -> str | None:
        """Try once more. Returns why rows are missing in the store and the command that pushes them, or None."""
        if self.pushed < len(self.results.rows):
            self._push()
        if self.failure is None:
            return None
        return (
            f"{len(self.results.rows) - self.pushed} rows are in {self.results.path} but not in the store "
            f"({self.failure}). Push them later: {push_command(self.results.path, self.to)}"
        )


def push_command(path: Path | None, to: str) -> str:
    """The command that pushes a file to a store, without the password of its address."""
    return f"convbench store push {path} --to {without_password(to)}"

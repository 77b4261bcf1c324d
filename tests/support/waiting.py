"""Waiting for what another process or thread does: no test depends on how long that takes on a busy machine."""

import time
from collections.abc import Callable

LONGEST_S = 300.0
"""Only something that will never happen takes longer: the test then fails in place of hanging."""


def until(happened: Callable[[], object]) -> None:
    """Return as soon as ``happened()`` is true."""
    latest = time.monotonic() + LONGEST_S
    while not happened():
        assert time.monotonic() < latest, "it never happened"
        time.sleep(0.01)

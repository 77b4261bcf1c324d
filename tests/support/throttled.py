"""Processes that are really slow: stopped most of the time, as one whose processor is throttled or shared."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

PERIOD_S = 0.04
SHARE = 0.15  # of the time that they run


@contextmanager
def throttled(find: Callable[[], Sequence[psutil.Process]]) -> Iterator[None]:
    """Let the processes that ``find`` gives, and those that they start, run for a share of the time only."""
    ends = threading.Event()

    def slow() -> None:
        while not ends.is_set():
            with suppress(psutil.Error):
                found = [each for process in find() for each in (process, *process.children(recursive=True))]
                _each(found, psutil.Process.suspend)
                time.sleep((1 - SHARE) * PERIOD_S)
                _each(found, psutil.Process.resume)
            time.sleep(SHARE * PERIOD_S)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def _each(processes: Sequence[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            act(process)

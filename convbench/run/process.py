"""The channel to a worker: a process that gets one order, says what it does as JSON lines, and ends.

An order names what is wanted under one key (see ``worker``); messages are ``{"what": …, "done": …}`` while it works,
``{"row": …}`` or ``{"batch": …}`` for results, and ``{"error": …}`` for what the user has to change.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConvbenchError, NothingMeasured, UsageError
from ..schema import Second

WORKER = "convbench.run.worker"
Message = Mapping[str, Any]
ERRORS: dict[int, type[ConvbenchError]] = {error.exit_code: error for error in (UsageError, NothingMeasured)}


@dataclass(frozen=True)
class Ended:
    """The end of a worker."""

    code: int  # of its exit; negative for a signal
    errors: list[str]  # lines of its stderr

    def status(self) -> tuple[str, str]:
        """Status and reason of a case for which the worker gave no result."""
        if self.code == -signal.SIGKILL:
            return "out_of_memory", "the process was killed, as the system does when memory runs out"
        how = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        last = f": {self.errors[-1][:200]}" if self.errors else ""
        return "failed", f"the measuring process ended with {how}{last}"


def ask(order: Message, hear: Callable[[Message], None], timeout_s: Second, worker: str = WORKER) -> Ended:
    """Start a worker with an order and pass on each of its messages.

    Args:
        worker: the module to run with ``python -m``.

    Raises:
        TimeoutError: it did not end in time.
        UsageError, NothingMeasured: it says that the order cannot be carried out.
    """
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", worker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        process_group=0,
    ) as process:
        assert process.stdin and process.stdout and process.stderr

        def pump(stream: Iterable[str], keep: Callable[[str], object], end: Callable[[], object]) -> None:
            with suppress(ValueError):  # closed already: Ctrl-C came before this thread ran
                for line in stream:
                    keep(line)
            end()

        threads = [
            threading.Thread(target=pump, args=[process.stdout, lines.put, lambda: lines.put(None)]),
            threading.Thread(target=pump, args=[process.stderr, errors.append, lambda: None]),
        ]
        try:  # Ctrl-C may come at any moment: whoever waits for a thread must have ended the worker first
            for thread in threads:
                thread.start()
            with suppress(BrokenPipeError):  # it died at once; what it said comes through stderr
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()  # left open: the worker ends when it is closed
            deadline = time.monotonic() + timeout_s
            while (line := _next(lines, process, deadline)) is not None:
                message = json.loads(line)
                if "error" in message:
                    raise ERRORS[message["exit_code"]](message["error"])
                hear(message)
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and its children: a compiler's helpers hold its pipes open
            process.kill()
            for thread in threads:
                if thread.ident:  # it was started
                    thread.join()
    return Ended(process.returncode, [line.rstrip() for line in errors if line.strip()])


def _next(lines: queue.Queue[str | None], process: subprocess.Popen[str], deadline: float) -> str | None:
    """The next line of a worker; None once it has ended, even if another process still holds its pipe open."""
    while (left := deadline - time.monotonic()) > 0:
        ended = process.poll() is not None
        try:
            return lines.get(timeout=min(left, 0.5))
        except queue.Empty:
            if ended:
                return None
    raise TimeoutError

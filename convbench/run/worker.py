"""A process that measures what it is told and then ends: ``python -m convbench.run.worker`` with a JSON order on stdin.

A fresh process for each order, so that allocator, library tuning and compiler start alike for every case, and so
that a crash, a kill or a lack of memory takes one case and not the run. It writes JSON lines to stdout, progress
first, then one measurement a case; whatever libraries print goes to stderr.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any, TextIO

from ..errors import ConvbenchError
from ..schema import Case


def main() -> None:
    """Read one order, measure it, report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    try:
        if "search" in order:
            from ..measure.largest_batch import search

            search(Case(**order["search"]), lambda batch: _send(channel, batch=batch))
        elif "sampling" in order:
            _sample(order, channel)
        else:
            _measure(order, channel)
    except ConvbenchError as error:
        _send(channel, error=str(error))


def _measure(order: dict[str, Any], channel: TextIO) -> None:
    from ..measure.forward import measure
    from ..timing.clock import RULES, Rules

    cases = [Case(**case) for case in order["cases"]]
    rules = Rules(**{**asdict(RULES[cases[0].device]), **order["rules"]})
    for measurement in measure(cases, rules, lambda what, done: _send(channel, what=what, done=done)):
        _send(channel, measurement=asdict(measurement))


def _sample(order: dict[str, Any], channel: TextIO) -> None:
    from ..measure.sampling import measure_sampling
    from ..sampling.plan import Plan
    from ..timing.clock import RULES, Rules

    (case,) = (Case(**case) for case in order["cases"])
    rules = Rules(**{**asdict(RULES[case.device]), **order["rules"]})
    plan = Plan(**order["sampling"])
    _send(channel, row=measure_sampling(case, plan, rules, lambda what, done: _send(channel, what=what, done=done)))


def _send(channel: TextIO, **message: Any) -> None:
    channel.write(json.dumps(message) + "\n")


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the other end is closed: the parent is gone
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what it started, such as a compiler's helpers
    os._exit(1)


if __name__ == "__main__":
    main()

"""A process that measures one order and ends: ``python -m convbench.run.worker`` with a JSON order on stdin.

A fresh process for each order gives every case the same allocator, library tuning and compiler state, and confines
a crash, a kill or a lack of memory to one case. Orders: ``{"cases": [...], "rules": {...}}`` for cases to be timed
interleaved; ``{"largest_batch": case}``; ``{"survey": [...]}``, what the machine can do for cases. It writes JSON lines
to stdout, progress first, then one row a case; output of libraries goes to stderr.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TextIO

from ..errors import ConvbenchError
from ..schema import Case

Send = Callable[..., None]


def main() -> None:
    """Read one order, carry it out, report."""
    serve(_carry_out)


def serve(carry_out: Callable[[Mapping[str, Any], Send], None]) -> None:
    """Read an order from stdin and carry it out; ``carry_out`` gets the order and a function that sends a message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        carry_out(order, lambda **message: _send(channel, message))
    except ConvbenchError as error:
        _send(channel, {"error": str(error), "exit_code": error.exit_code})


def _carry_out(order: Mapping[str, Any], send: Send) -> None:
    if "largest_batch" in order:
        from ..measure.largest_batch import search

        search(Case(**order["largest_batch"]), lambda batch: send(batch=batch))
        return
    if "survey" in order:
        from .survey import answer

        send(**answer([Case(**case) for case in order["survey"]]))
        return
    from ..measure import forward, sampling
    from ..timing.clock import RULES, Rules

    cases = [Case(**case) for case in order["cases"]]
    rules = Rules(**{**asdict(RULES[cases[0].device]), **order["rules"]})
    if cases[0].world > 1:
        from .ranks import world_row

        for case in cases:
            send(what="timing", done=0.0)
            send(row=world_row(case, rules))
        return
    measure = sampling.measure if cases[0].sampling else forward.measure
    for row in measure(cases, rules, lambda what, done: send(what=what, done=done)):
        send(row=row.to_json())


def _send(channel: TextIO, message: Mapping[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the other end is closed: the parent is gone
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # and its children, such as a compiler's helpers
    os._exit(1)


if __name__ == "__main__":
    main()

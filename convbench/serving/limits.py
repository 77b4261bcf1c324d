"""How much of the server one client may take: seconds, bytes and connections."""

import resource
from dataclasses import dataclass

import psutil

from convbench.errors import UsageError

RATE = 2**16  # bytes a second, below which a client has only its first seconds
ACCEPTED_AT_ONCE = 16  # connections that the event loop accepts before it looks at any of them
SPARE_FILES = 5 * ACCEPTED_AT_ONCE + 32  # connections pass through up to five turns of the loop uncounted; /metrics
FEWEST, MOST = 16, 1000  # connections


@dataclass(frozen=True)
class Limits:
    """What ends a connection or a request that the server waits for."""

    client_s: float = 10.0  # a client may keep the server waiting, and a second more for each RATE bytes that move
    grace_s: float = 30.0  # from the signal to the end, however slow the clients are
    connections: int = MOST  # at once; one more takes the place of that which keeps the server waiting longest
    held_bytes: int = 2**28  # of all bodies that have arrived; of all answers that have not been taken

    def allowed_s(self, size: int) -> float:
        """Seconds for ``size`` bytes to come or go: at most three times those of a client that moves nothing."""
        return min(self.client_s + size / RATE, 3 * self.client_s)


def connections() -> int:
    """How many connections fit below the process's limit of open files, at most MOST.

    Raises UsageError where they are fewer than FEWEST.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    free = soft - psutil.Process().num_fds() - SPARE_FILES
    if free < FEWEST:
        raise UsageError(
            f"only {soft} files may be open, too few to serve: at least {soft + FEWEST - free} are needed (ulimit -n)"
        )
    return min(free, MOST)

"""ClientLimits on what clients may take of the server: seconds, bytes and connections."""

import resource
from dataclasses import dataclass

import psutil

from convbench.errors import UsageError

RATE = 2**16  # bytes a second, below which a client has only its first seconds
ACCEPTED_AT_ONCE = 16  # connections that the event loop accepts before it looks at any of them
SPARE_FILES = 5 * ACCEPTED_AT_ONCE + 32  # connections pass through up to five turns of the loop uncounted; /metrics
FEWEST, MOST = 16, 1000  # connections


@dataclass(frozen=True)
class ClientLimits:
    """ClientLimits on connections, requests and the shutdown."""

    client_s: float = 10.0  # for the headers of a request; for a body or an answer a second more for each RATE bytes
    grace_s: float = 30.0  # from the signal to the end of the server
    connections: int = MOST  # one more replaces the connection that has kept the server waiting longest
    held_bytes: int = 2**28  # of all bodies received so far; the same for all answers not yet read

    def allowed_s(self, size: int) -> float:
        """Time limit for the transfer of ``size`` bytes: at most three times ``client_s``."""
        return min(self.client_s + size / RATE, 3 * self.client_s)


def connections() -> int:
    """Number of connections that fit below the limit of open files, at most MOST.

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

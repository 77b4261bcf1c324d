"""uvicorn's HTTP protocol with limits on time, number of connections and memory."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from .limits import ClientLimits

HEADER_BYTES = 2**14  # of a request line and its headers
READ_BYTES = 2**16  # that are read of a connection before the others have their turn
CHUNKS, CHUNK_BYTES = 1000, 64  # a body of more chunks than that must have at least so many bytes in each on average
LOG_S = 60.0  # a warning is not repeated before

logger = logging.getLogger(__name__)
CLOSED = {
    "header": "closed a connection that sent no complete request header in time",
    "answer": "closed a connection whose client did not read its answer in time",
    "full": "connection limit reached: closed the connection that had kept the server waiting longest",
}


class OncePerMinute(logging.Filter):
    """Drops repetitions of a message for a minute, so that clients cannot fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        what = str(record.msg).partition("\n")[0][:200] + kind
        now = time.monotonic()
        if now - self.said.get(what, -math.inf) < LOG_S:
            return False
        if len(self.said) > 100:
            self.said.clear()
        self.said[what] = now
        return True


ONCE = OncePerMinute()


def quieten() -> None:
    """Log each message of the server, uvicorn and asyncio at most once a minute."""
    for name in (__name__, "uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(ONCE)


class State(ServerState):
    """Connections of a server, ordered by when each began to keep the server waiting.

    Args:
        closed: called with a key of CLOSED whenever a limit closes a connection.
    """

    def __init__(self, limits: ClientLimits, closed: Callable[[str], None]) -> None:
        super().__init__()
        self.limits, self.closed = limits, closed
        self.order: dict[Guarded, None] = {}

    def came(self, new: "Guarded") -> None:
        """Register a connection; above the limit, close the one that has kept the server waiting longest."""
        self.order[new] = None
        if len(self.order) > self.limits.connections:
            self.drop(next(each for each in self.order if each.waits_for_client), "full")

    def sweep(self) -> None:
        """Close connections that exceed their time limit, or hold too many unread answers."""
        now = asyncio.get_running_loop().time()
        unsent = 0
        for each in list(self.order):
            unsent += each.unsent
            if why := each.overdue(now):
                self.drop(each, why)
        for each in list(self.order):
            if unsent <= self.limits.held_bytes:
                break
            if each.unsent:
                unsent -= each.unsent
                self.drop(each, "answer")

    def drop(self, connection: "Guarded", why: str) -> None:
        """Close a connection at once and discard what has not been sent."""
        self.order.pop(connection, None)
        connection.transport.abort()
        self.closed(why)
        logger.warning(f"warning: {CLOSED[why]}; /metrics counts them, this message appears at most once a minute")

    def drop_all(self) -> None:
        """Close every connection at the end of the grace period."""
        for each in list(self.order):
            self.order.pop(each)
            each.transport.abort()


class Frugal(h11.Connection):
    """HTTP/1.1 that refuses ambiguous lengths (request smuggling) and floods of tiny chunks."""

    refusal: str | None = None  # why the last request was refused here
    chunks = size = 0  # of the body that is being read

    def next_event(self) -> Any:
        event = super().next_event()
        if type(event) is h11.Request:
            self.chunks = self.size = 0
            names = [name for name, _ in event.headers]
            if len(event.target) + sum(len(name) + len(value) + 4 for name, value in event.headers) > HEADER_BYTES:
                self._refuse(f"the request line and its headers have more than {HEADER_BYTES} bytes")
            if b"transfer-encoding" in names and b"content-length" in names:
                self._refuse("a request has Content-Length or Transfer-Encoding, not both")
        elif type(event) is h11.Data:
            self.chunks += event.chunk_start
            self.size += len(event.data)
            if self.chunks > CHUNKS and self.size < CHUNK_BYTES * self.chunks:
                self._refuse(f"the chunks of the body are too small: send {CHUNK_BYTES} bytes or more in each")
        return event

    def _refuse(self, why: str) -> None:
        self.refusal = why
        raise h11.RemoteProtocolError(why)


class Guarded(H11Protocol):
    """One connection."""

    server_state: State

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn: Frugal = Frugal(h11.SERVER, HEADER_BYTES)
        self.app_state = {**self.app_state, "connection": self}  # available to each request in its scope
        self.when_lost: Callable[[], object] | None = None  # called once the client is gone
        self.since = self.loop.time()  # when it was made, or its last answer was complete
        # The answer that is being sent: its request, since when, and the unsent bytes at that time.
        self.taking: tuple[RequestResponseCycle | None, float, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES  # asyncio reads 256 KiB: parsing so many headers would delay other clients
        self.server_state.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.order.pop(self, None)
        super().connection_lost(exc)
        self.app_state = {}
        if self.when_lost is not None:
            self.when_lost()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        if self in self.server_state.order:
            del self.server_state.order[self]
            self.server_state.order[self] = None
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(self.conn.refusal or msg)
        else:  # the answer is out already, and uvicorn would fail at a second one
            self.transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has not read."""
        return self.transport.get_write_buffer_size()

    @property
    def waits_for_client(self) -> bool:
        """True if the client, not the server, has to act next."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.unsent > 0

    def overdue(self, now: float) -> str | None:
        """Return why the connection has to be closed now, a key of CLOSED, or None. bodies.py limits request bodies."""
        limits, unsent = self.server_state.limits, self.unsent
        if not unsent:
            self.taking = None
            begun = self.timeout_keep_alive_task is None  # otherwise nothing has come since, and uvicorn closes it
            idle = self.cycle is None or self.cycle.response_complete
            return "header" if begun and idle and now - self.since > limits.client_s else None
        if self.taking is None or self.taking[0] is not self.cycle:
            self.taking = (self.cycle, now, unsent)
        return "answer" if now - self.taking[1] > limits.allowed_s(self.taking[2]) else None

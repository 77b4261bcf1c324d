"""Connections that cannot wear the server out: uvicorn's protocol with limits of time, number and memory."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from .limits import Limits

HEADER_BYTES = 2**14  # of a request line and its headers
READ_BYTES = 2**16  # that are read of a connection before the others have their turn
CHUNKS, CHUNK_BYTES = 1000, 64  # a body of more chunks than that must have at least so many bytes in each on average
LOG_S = 60.0  # a warning is not repeated before

logger = logging.getLogger(__name__)
CLOSED = {
    "header": "closed a connection that sent no complete request header in time",
    "answer": "closed a connection whose client did not take its answer",
    "full": "closed the connection that kept the server waiting longest: there are no more",
}


class OncePerMinute(logging.Filter):
    """Lets a warning through and drops its repetitions for a minute: what clients do must not fill the log."""

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
    """Log every warning of the server, of uvicorn and of asyncio once a minute."""
    for name in (__name__, "uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(ONCE)


class State(ServerState):
    """All connections of a server, in the order in which each began to keep it waiting.

    Args:
        closed: told why, a key of CLOSED, each time that a connection is closed against its client's will.
    """

    def __init__(self, limits: Limits, closed: Callable[[str], None]) -> None:
        super().__init__()
        self.limits, self.closed = limits, closed
        self.order: dict[Guarded, None] = {}

    def came(self, new: "Guarded") -> None:
        """Make room for a new connection: the one that has kept the server waiting longest goes."""
        self.order[new] = None
        if len(self.order) > self.limits.connections:
            self.drop(next(each for each in self.order if each.waits_for_client), "full")

    def sweep(self) -> None:
        """Drop connections whose clients take longer than they may, or leave too many answers lying."""
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
        """Close a connection at once, with whatever has not been sent."""
        self.order.pop(connection, None)
        connection.transport.abort()
        self.closed(why)
        logger.warning(f"warning: {CLOSED[why]}; /metrics counts them, the log repeats this once a minute at most")

    def drop_all(self) -> None:
        """The end of the grace: nobody is waited for any longer."""
        for each in list(self.order):
            self.order.pop(each)
            each.transport.abort()


class Frugal(h11.Connection):
    """HTTP/1.1 without what is only good for wearing a server out, or for hiding a request in another."""

    refusal: str | None = None  # why the last request was refused here
    chunks = size = 0  # of the body that is being read

    def next_event(self) -> Any:
        event = super().next_event()
        if type(event) is h11.Request:
            self.chunks = self.size = 0
            names = [name for name, _ in event.headers]
            if b"transfer-encoding" in names and b"content-length" in names:
                self._refuse("a request has Content-Length or Transfer-Encoding, not both")
        elif type(event) is h11.Data:
            self.chunks += event.chunk_start
            self.size += len(event.data)
            if self.chunks > CHUNKS and self.size < CHUNK_BYTES * self.chunks:
                self._refuse(f"the chunks of the body are too small: {CHUNK_BYTES} bytes or more are right")
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
        self.app_state = {**self.app_state, "connection": self}  # which each request finds in its scope
        self.when_lost: Callable[[], object] | None = None  # called once the client is gone
        self.since = self.loop.time()  # when it was made, or its last answer was complete
        # The answer that is being taken: of which request, since when, and how much was left then.
        self.taking: tuple[RequestResponseCycle | None, float, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES  # of asyncio: 256 KiB of headers would hold everybody else up
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
        """Bytes of answers that the client has not taken."""
        return self.transport.get_write_buffer_size()

    @property
    def waits_for_client(self) -> bool:
        """Whether the client, not the server, has to do something next."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.unsent > 0

    def overdue(self, now: float) -> str | None:
        """Why the client has had its time, if so. Bodies have a limit of their own, where they are read."""
        limits, unsent = self.server_state.limits, self.unsent
        if not unsent:
            self.taking = None
            begun = self.timeout_keep_alive_task is None  # otherwise nothing has come since, and uvicorn closes it
            idle = self.cycle is None or self.cycle.response_complete
            return "header" if begun and idle and now - self.since > limits.client_s else None
        if self.taking is None or self.taking[0] is not self.cycle:
            self.taking = (self.cycle, now, unsent)
        return "answer" if now - self.taking[1] > limits.allowed_s(self.taking[2]) else None

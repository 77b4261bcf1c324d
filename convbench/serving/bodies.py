"""Reading request bodies within limits, and cancelling work for clients that have disconnected."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.requests import ClientDisconnect, Request

from .guard import Guarded
from .limits import RATE, ClientLimits
from .protocol import Refused

SMALL = 2**18  # bytes of a body that is always accepted: the number of connections bounds their sum


class Bodies:
    """Budget of all request bodies in memory, including those that are still arriving.

    Args:
        most: bytes of one body.
    """

    def __init__(self, limits: ClientLimits, most: int) -> None:
        self.limits, self.most = limits, most
        self.held = 0  # bytes received, not those announced by Content-Length

    @asynccontextmanager
    async def arrived(self, request: Request) -> AsyncIterator[bytearray]:
        """Yield the body, which counts as held until the block ends.

        Raises Refused if it is too long (413), too slow (408) or exceeds the budget (429), and ClientDisconnect.
        """
        too_long = Refused(413, f"the body is longer than {self.most} bytes, the most that a valid request can have")
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > self.most:
            raise too_long
        body = bytearray()
        try:
            await self._fill(body, request, too_long)
            yield body
        finally:
            self.held -= len(body)

    async def _fill(self, body: bytearray, request: Request, too_long: Refused) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self.limits.allowed_s(0)) as ends:
                async for chunk in request.stream():
                    body += chunk
                    self.held += len(chunk)
                    if len(body) > self.most:
                        raise too_long
                    if self.held > max(self.limits.held_bytes, len(body)) and len(body) > SMALL:
                        raise Refused(429, "too many large requests at once: try again")
                    if len(body) >= RATE:  # before that it is a second at most
                        ends.reschedule(started + self.limits.allowed_s(len(body)))
        except TimeoutError:
            raise Refused(
                408, f"the body came too slowly: {len(body)} bytes in {loop.time() - started:.1f} s"
            ) from None


@contextmanager
def connected(request: Request) -> Iterator[None]:
    """Cancel the block with ClientDisconnect when the client disconnects. The body must have been read before."""
    connection: Guarded = request.scope["state"]["connection"]
    task = asyncio.current_task()
    assert task is not None
    connection.when_lost = task.cancel
    try:
        yield
    except asyncio.CancelledError:
        if connection.transport.is_closing() and task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        connection.when_lost = None

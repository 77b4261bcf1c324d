"""uvicorn with the limits of guard.py and a bounded shutdown."""

import asyncio
import math
import socket

import uvicorn

from .app import Service, application
from .guard import Guarded, State, quieten
from .limits import ACCEPTED_AT_ONCE

BACKLOG = 1024  # connections queued by the kernel until they are accepted
LEEWAY_S = 5  # after the grace period, until uvicorn cancels requests that closing the connections did not end


class Server(uvicorn.Server):
    """Stops when the inference thread fails, and within the grace period after a signal."""

    server_state: State

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                application(service),
                http=Guarded,
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=ACCEPTED_AT_ONCE,
                timeout_graceful_shutdown=math.ceil(service.limits.grace_s) + LEEWAY_S,
            )
        )
        self.service = service
        self.server_state = State(service.limits, lambda why: service.metrics.closed.labels(why).inc())
        quieten()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:  # asyncio takes one number for this and for how many it accepts at once
            listener.listen(BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        self.server_state.sweep()
        return await super().on_tick(counter) or self.service.batcher.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer at once what waits for a fuller batch; close connections that are left after the grace period."""
        loop = asyncio.get_running_loop()
        grace_s = self.service.limits.grace_s
        self.service.stop_by = loop.time() + grace_s
        self.service.batcher.hurry()
        loop.call_later(grace_s, self.server_state.drop_all)
        await super().shutdown(sockets)

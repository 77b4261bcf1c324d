"""The routes of the server: health, metadata, inference and metrics. Every answer but the metrics is JSON."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from convbench import __version__
from convbench.errors import first_line

from . import protocol
from .batching import Batcher, QueueFull, Run, Stopped
from .protocol import Refused, Served

BODY_S = 30.0  # within which a body must arrive
BODIES_AT_ONCE = 2**28  # bytes of all bodies that are held, beyond which clients must wait
LONG_BODY = 2**18  # bytes, above which reading numbers would hold up the other requests
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Metrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="convbench")
        histogram = partial(Histogram, registry=self.registry, namespace="convbench")
        self.requests = counter("requests", "Answers to inference requests, by HTTP status.", ["code"])
        self.images = counter("images", "Images computed.")
        self.waiting = Gauge("queue_images", "Images that wait.", registry=self.registry, namespace="convbench")
        self.request_s = histogram("request_seconds", "From headers to answer.", buckets=SECONDS_BUCKETS)
        self.run_s = histogram("run_seconds", "Of the artefact, a batch.", buckets=SECONDS_BUCKETS)
        self.batch = histogram("batch_images", "Images of a batch.", buckets=BATCH_BUCKETS)
        ProcessCollector(registry=self.registry)

    def ran(self, images: int, seconds: float) -> None:
        self.images.inc(images)
        self.run_s.observe(seconds)
        self.batch.observe(images)


class Service:
    """One artefact behind the routes."""

    def __init__(self, served: Served, run: Run, max_delay_s: float, max_queue: int) -> None:
        self.served = served
        self.metrics = Metrics()
        self.batcher = Batcher(
            run, served.max_batch, max_delay_s, max_queue, served.manifest.batch[0], seen=self.metrics.ran
        )
        self.metrics.waiting.set_function(lambda: self.batcher.images)
        self.held_bytes = 0

    async def infer(self, request: Request) -> Response:
        """Counted and timed, whatever comes out."""
        started = perf_counter()
        code = 500
        try:
            response = await self._infer(request)
            code = response.status_code
            return response
        except Refused as refused:
            code = refused.status
            return error(code, str(refused))
        except QueueFull:
            code = 429
            return error(code, f"{self.batcher.max_queue} images are waiting already: try again", retry=1)
        except Stopped:
            code = 503
            return error(code, "the server is stopping")
        except ClientDisconnect:
            code = 499  # nobody is left to read it
            return error(code, "the client is gone")
        finally:
            self.metrics.requests.labels(str(code)).inc()
            self.metrics.request_s.observe(perf_counter() - started)

    async def _infer(self, request: Request) -> Response:
        self.require_model(request)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "compressed requests are not read")
        length = request.headers.get("inference-header-content-length")
        async with self._body(request) as body:
            if len(body) > LONG_BODY and length is None:
                asked = await asyncio.to_thread(protocol.parse, body, length, self.served)
            else:
                asked = protocol.parse(body, length, self.served)
        try:
            out = await asyncio.wrap_future(self.batcher.submit(asked.x, asked.t, asked.y))
        except (QueueFull, Stopped):
            raise
        except Exception as failed:  # of the runtime, whatever class it has
            raise Refused(500, f"the artefact failed: {first_line(failed)}") from failed
        content, headers = protocol.answer(asked, out, self.served)
        return Response(content, headers=headers)

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, as long as it keeps to the limits of size and time."""
        limit = self.served.max_body_bytes
        stated = request.headers.get("content-length", "0")
        too_long = Refused(413, f"the body is longer than {limit} bytes, the most that a right request can have")
        if not stated.isdecimal() or int(stated) > limit:
            raise too_long
        # One that does not say how long it is may become as long as the limit.
        reserved = int(stated) if "content-length" in request.headers else limit
        if self.held_bytes and self.held_bytes + reserved > BODIES_AT_ONCE:
            raise Refused(429, "too many large requests at once: try again")
        self.held_bytes += reserved
        try:
            body = bytearray()
            async with asyncio.timeout(BODY_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_long
            yield bytes(body)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {BODY_S:.0f} s") from None
        finally:
            self.held_bytes -= reserved

    def require_model(self, request: Request) -> None:
        """Raise Refused, status 404, for another model or version."""
        name, version = request.path_params["model"], request.path_params.get("version", "1")
        if name != self.served.name:
            raise Refused(404, f"unknown model {name[:80]!r}: there is {self.served.name}")
        if version != "1":
            raise Refused(404, f"unknown version {version[:80]!r} of {name}: there is 1")


class Server(uvicorn.Server):
    """Answers at once what waits for a fuller batch when it is told to stop."""

    def __init__(self, service: Service) -> None:
        quiet = partial(uvicorn.Config, log_level="warning", access_log=False, server_header=False)
        super().__init__(quiet(application(service), ws="none", lifespan="on"))
        self.service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.batcher.hurry()
        await super().shutdown(sockets)


def error(status: int, message: str, retry: int | None = None) -> Response:
    return JSONResponse({"error": message}, status, {"retry-after": str(retry)} if retry else None)


def application(service: Service) -> Starlette:
    """The server as an ASGI application. Leaving its lifespan finishes what is queued."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.stop)

    async def live(request: Request) -> Response:
        return health(service.batcher.thread.is_alive())

    async def ready(request: Request) -> Response:
        return health(service.batcher.alive)

    async def about(request: Request) -> Response:
        return JSONResponse({"name": "convbench", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def index(request: Request) -> Response:
        return JSONResponse([{"name": service.served.name, "version": "1", "state": "READY"}])

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type="text/plain; version=0.0.4")

    async def describe(request: Request) -> Response:
        service.require_model(request)
        return JSONResponse(protocol.metadata(service.served))

    async def model_ready(request: Request) -> Response:
        service.require_model(request)
        return health(service.batcher.alive)

    def health(good: bool) -> Response:
        return JSONResponse({"ready": good}, 200 if good else 503)

    Handler = Callable[[Request], Awaitable[Response]]
    models: list[tuple[str, Handler, str]] = [
        ("", describe, "GET"),
        ("/ready", model_ready, "GET"),
        ("/infer", service.infer, "POST"),
    ]
    versions = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return Starlette(
        routes=[
            Route("/v2", about),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route("/v2/repository/index", index, methods=["POST"]),
            Route("/metrics", metrics),
            *(Route(base + end, handler, methods=[way]) for base in versions for end, handler, way in models),
        ],
        exception_handlers={HTTPException: _http, Refused: _refused, Exception: _unexpected},
        lifespan=lifespan,
    )


async def _http(request: Request, raised: Any) -> Response:
    status: int = raised.status_code
    return JSONResponse({"error": f"{HTTPStatus(status).phrase}: {request.url.path[:200]}"}, status, raised.headers)


async def _refused(request: Request, raised: Any) -> Response:
    return error(raised.status, str(raised))


async def _unexpected(request: Request, raised: Exception) -> Response:
    return error(500, f"{type(raised).__name__}, which the server's log shows in full")

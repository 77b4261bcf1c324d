"""The routes of the server: health, metadata, inference and metrics. Every answer but the metrics is JSON."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from convbench import __version__
from convbench.errors import first_line

from . import protocol
from .batching import Array, Batcher, QueueFull, Run, Stopped
from .bodies import Bodies, connected
from .limits import ClientLimits
from .protocol import Refused, shown
from .served import Served

LONG_BODY = 2**18  # bytes of JSON, above which reading it would hold up the other requests
LONG_ANSWER = 2**12  # numbers, the same for writing
LAST_RUN_S = 1.0  # for the batch that is running when the grace period has passed
GONE = 499  # the status, as nginx names it, of an answer that nobody is left to read
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Metrics:
    """Metrics of the server, as /metrics shows them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="convbench")
        histogram = partial(Histogram, registry=self.registry, namespace="convbench")
        self.requests = counter(
            "requests", f"Answers to inference requests, by HTTP status; {GONE}: the client was gone.", ["code"]
        )
        self.images = counter("images", "Images computed.")
        self.closed = counter("connections_closed", "Connections closed by a limit.", ["reason"])
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

    def __init__(
        self, served: Served, run: Run, max_delay_s: float, max_queue: int, limits: ClientLimits | None = None
    ) -> None:
        self.served = served
        self.limits = limits or ClientLimits()
        self.metrics = Metrics()
        self.batcher = Batcher(
            run, served.max_batch, max_delay_s, max_queue, served.manifest.batch[0], seen=self.metrics.ran
        )
        self.metrics.waiting.set_function(lambda: self.batcher.images)
        self.bodies = Bodies(self.limits, served.max_body_bytes)
        self.long_json = asyncio.Semaphore(1)  # one at a time bounds its memory; Python parses only one at once anyway
        self.stop_by: float | None = None  # of the event loop's clock, known once the server is told to stop

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
            return refusal(refused)
        except QueueFull:
            code = 429
            return error(code, f"{self.batcher.max_queue} images are waiting already: try again", {"retry-after": "1"})
        except Stopped:
            code = 503
            return error(code, "the server is stopping")
        except ClientDisconnect:
            code = GONE
            return error(code, "the client is gone")
        finally:
            self.metrics.requests.labels(str(code)).inc()
            self.metrics.request_s.observe(perf_counter() - started)

    async def _infer(self, request: Request) -> Response:
        self.require_model(request)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "compressed requests are not supported")
        async with self.bodies.arrived(request) as body:
            with connected(request):
                asked = await self._read(body, request.headers.get("inference-header-content-length"))
                out = await self._computed(asked)
                content, headers = await self._written(asked, out)
        return Response(content, headers=headers)

    async def _computed(self, asked: protocol.InferenceRequest) -> Array:
        try:
            return await asyncio.wrap_future(self.batcher.submit(asked.x, asked.t, asked.y))
        except (QueueFull, Stopped):
            raise
        except Exception as failed:  # of the runtime, whatever class it has
            raise Refused(500, f"the artefact failed: {shown(first_line(failed, 80))}") from failed

    async def _read(self, body: bytearray, length: str | None) -> protocol.InferenceRequest:
        text = int(length) if length and length.isdecimal() and len(length) < 12 else len(body)  # bytes of JSON
        if text <= LONG_BODY:
            return protocol.parse(body, length, self.served)
        return await self._beside(protocol.parse, body, length, self.served)

    async def _written(self, asked: protocol.InferenceRequest, out: Array) -> tuple[bytes, dict[str, str]]:
        if asked.binary or out.size <= LONG_ANSWER:
            return protocol.answer(asked, out, self.served)
        return await self._beside(protocol.answer, asked, out, self.served)

    async def _beside(self, work: Callable[..., Any], *given: Any) -> Any:
        """Run long JSON work in a thread, one at a time; its body counts as held until it ends, client or not."""
        async with self.long_json:
            working = asyncio.ensure_future(asyncio.to_thread(work, *given))
            # Of a client that has gone, nobody else looks at a refusal, and asyncio would log it with a traceback.
            working.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                await asyncio.wait([working])
                raise

    def require_model(self, request: Request) -> None:
        """Raise Refused, status 404, for another model or version."""
        name, version = request.path_params["model"], request.path_params.get("version", "1")
        if name != self.served.name:
            raise Refused(404, f"unknown model '{shown(name)}': there is {self.served.name}")
        if version != "1":
            raise Refused(404, f"unknown version '{shown(version)}' of {name}: there is 1")


class Ascii(JSONResponse):
    """JSON in ASCII: a lone surrogate in a text from a client cannot be encoded otherwise."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode("ascii")


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return Ascii({"error": message}, status, headers)


def refusal(refused: Refused) -> Response:
    """Error response; closes the connection of a client that was too slow, as the rest of its body may follow."""
    return error(refused.status, str(refused), {"connection": "close"} if refused.status == 408 else None)


def application(service: Service) -> Starlette:
    """The server as an ASGI application. Leaving its lifespan finishes what is queued."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        left = None if service.stop_by is None else max(LAST_RUN_S, service.stop_by - asyncio.get_running_loop().time())
        await asyncio.to_thread(service.batcher.stop, left)

    async def live(request: Request) -> Response:
        return health(service.batcher.thread.is_alive())

    async def ready(request: Request) -> Response:
        return health(service.batcher.alive)

    async def about(request: Request) -> Response:
        return Ascii({"name": "convbench", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def index(request: Request) -> Response:
        return Ascii([{"name": service.served.name, "version": "1", "state": "READY"}])

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type="text/plain; version=0.0.4")

    async def describe(request: Request) -> Response:
        service.require_model(request)
        return Ascii(protocol.metadata(service.served))

    async def model_ready(request: Request) -> Response:
        service.require_model(request)
        return health(service.batcher.alive)

    def health(good: bool) -> Response:
        return Ascii({"ready": good}, 200 if good else 503)

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
    path = request.scope["path"]  # not request.url, which reads the Host that the client sent
    return Ascii({"error": f"{HTTPStatus(status).phrase}: {shown(path[:200])}"}, status, raised.headers)


async def _refused(request: Request, raised: Any) -> Response:
    return refusal(raised)


async def _unexpected(request: Request, raised: Exception) -> Response:
    return error(500, f"{type(raised).__name__}, which the server's log shows in full")

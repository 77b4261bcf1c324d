"""``convbench serve``: its protocol, its batches, and the real process with the clients that people use."""

import json
import queue
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported
import numpy as np
import psutil
import pytest
import served
import torch
from served import Array
from waiting import LONGEST_S, until

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from convbench import cli
from convbench.errors import UsageError
from convbench.export import folder
from convbench.serving import app, batching, bodies, limits, listen, protocol
from convbench.serving.served import Served
from convbench.serving.server import Server

INFER = "/v2/models/tiny_dico/infer"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of tiny:dico: 1 to 8 images of 8x8 to 16x16."""
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@pytest.fixture(scope="module")
def what(artefact: Path) -> Served:
    return Served(folder.read(artefact), 8)


def expected(given: dict[str, Array]) -> Array:
    """What PyTorch computes."""
    with torch.no_grad():
        out: Array = exported.network("dico")(*(torch.from_numpy(given[name]) for name in "xty")).numpy()
    return out


def distance(found: Array, right: Array) -> float:
    assert found.shape == right.shape
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


# The protocol


def changed(**changes: Any) -> dict[str, Any]:
    """A right request of one image of 8x8 with fields of its first input exchanged, or taken out with None."""
    request = served.content(served.inputs(1, 8))
    request["inputs"][0] = {k: v for k, v in (request["inputs"][0] | changes).items() if v is not None}
    return request


def input_of(name: str, shape: list[int], datatype: str, data: Any) -> dict[str, Any]:
    request = served.content(served.inputs(1, 8))
    (entry,) = [entry for entry in request["inputs"] if entry["name"] == name]
    entry |= {"shape": shape, "datatype": datatype, "data": data}
    return request


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": (b'{"inputs": [', "the body is not JSON"),
    "not UTF-8": (b'{"id": "\xff\xfe"}', "the body is not JSON"),
    "too deep": (b"[" * 100_000, "the body is not a valid request: "),
    "a list": ([], "the request must be a JSON object"),
    "misspelt field": ({"input": []}, "unknown field 'input' of the request; choose from id, parameters, inputs"),
    "misspelt field of an input": (changed(data_type="FP32"), "unknown field 'data_type' of an input"),
    "unknown parameter": (changed(parameters={"shared_memory_region": "a"}), "unknown parameter 'shared_memory_reg"),
    "no inputs": ({}, "inputs must be a list of tensors"),
    "an input missing": ({"inputs": changed()["inputs"][:2]}, "y missing: the inputs are x, t, y"),
    "an input twice": ({"inputs": changed()["inputs"][:1] * 2}, "'x' is given twice"),
    "unknown input": (changed(name="latents"), "'latents' is not an input: the inputs are x, t, y"),
    "name of another kind": (changed(name=["x"]), "is not an input"),
    "unknown output": (
        changed() | {"outputs": [{"name": "noise"}]},
        "'noise' is not an output; the only output is out",
    ),
    "wrong type": (changed(datatype="FP16"), "x must be FP32, not FP16"),
    "no data": (changed(data=None), "x needs either data or the parameter binary_data_size"),
    "negative shape": (changed(shape=[1, 4, -8, 8]), "the shape of x must be a list of positive whole numbers"),
    "too few numbers": (changed(data=[1.0]), "x of shape [1, 4, 8, 8] has 256 numbers, not 1"),
    "ragged": (changed(data=[[1.0], [1.0, 2.0]]), "the data of x is not a list of numbers"),
    "texts": (changed(data=["1"] * 256), "the data of x is not a list of float32 numbers"),
    "nothing": (changed(data=[None] * 256), "the data of x is not a list of float32 numbers"),
    "booleans": (changed(data=[True] * 256), "the data of x is not a list of float32 numbers"),
    "too large for its type": (changed(data=[1e300] * 256), "x contains values that are not finite"),
    "not finite": (changed(data=[float("nan")] * 256), "x contains values that are not finite"),
    "too many images": (served.content(served.inputs(9, 8)), "x has 9 images; a request may contain 1 to 8"),
    "wrong channels": (served.content(served.inputs(1, 8, channels=3)), "x must have the shape [N, 4, 4*h4, 4*w4]"),
    "no multiple": (served.content(served.inputs(1, 10)), "x has the height 10: 8 to 16 in steps of 4 are possible"),
    "too small": (served.content(served.inputs(1, 4)), "x has the height 4"),
    "too large": (served.content(served.inputs(1, 20)), "x has the height 20"),
    "batches differ": (input_of("t", [2], "FP32", [1.0, 2.0]), "t holds 2 images, x 1"),
    "scalar": (input_of("t", [], "FP32", [1.0]), "t must have the shape [N], not []"),
    "fractional class": (input_of("y", [1], "INT64", [0.5]), "the data of y is not a list of int64 numbers"),
    "huge class": (input_of("y", [1], "INT64", [2**70]), "the data of y is not a list of int64 numbers"),
    "class too large": (input_of("y", [1], "INT64", [11]), "y must lie between 0 and 10"),
    "scalar x": (changed(shape=[], data=[1.0]), "x must have the shape [N, 4, 4*h4, 4*w4], not []"),
    "number": (changed(data=1.0), "the data of x is not a list of numbers"),
    "a number among lists": (changed(data=[[1.0], 1.0]), "the data of x is not a list of numbers"),
    "a list among numbers": (changed(data=[1.0, [1.0]]), "the data of x is not a list of float32 numbers"),
    "deeper than its shape": (input_of("t", [1], "FP32", [[[1.0]]]), "the data of t is not a list of float32 numbers"),
    "an endless number": (changed(data=[10**400] * 256), "the data of x is not a list of float32 numbers"),
    "not ASCII in a long one": (
        '{"id": "\u00e9"}'.encode() + b" " * 2**16,
        "more than 65536 bytes and not all of them",
    ),
    "a long id": ({"id": "i" * 257, "inputs": []}, "id must be a text of at most 256 characters"),
    "class below zero": (input_of("y", [1], "INT64", [-1]), "y must lie between 0 and 10"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_with_what_would_be_right(name: str, what: Served) -> None:
    given, message = BAD[name]
    with pytest.raises(protocol.Refused) as caught:
        protocol.parse(given if isinstance(given, bytes) else json.dumps(given).encode(), None, what)
    assert caught.value.status == 400 and message in str(caught.value)


def binary(given: dict[str, Array], sizes: dict[str, Any] | None = None) -> tuple[bytes, str]:
    request = served.content(given)
    for entry in request["inputs"]:
        del entry["data"]
        entry["parameters"] = {"binary_data_size": (sizes or {}).get(entry["name"], given[entry["name"]].nbytes)}
    head = json.dumps(request).encode()
    return head + b"".join(value.tobytes() for value in given.values()), str(len(head))


@pytest.mark.parametrize(
    ("sizes", "cut", "length", "message"),
    [
        ({"t": 5}, 0, None, "t of shape [1] has 4 bytes, not 5"),
        ({"t": True}, 0, None, "t of shape [1] has 4 bytes, not True"),
        ({}, 3, None, "y has 8 bytes, of which 5 arrived"),
        ({}, -2, None, "2 bytes follow the last binary tensor"),
        ({}, 0, "100000000", "Inference-Header-Content-Length is not the length"),
        ({}, 0, "-5", "Inference-Header-Content-Length is not the length"),
        ({}, 0, "10", "the body is not JSON"),
    ],
)
def test_binary_tensors_must_have_their_size(
    sizes: dict[str, Any], cut: int, length: str | None, message: str, what: Served
) -> None:
    body, head = binary(served.inputs(1, 8), sizes)
    body = body + b"ab" if cut < 0 else body[: len(body) - cut]
    with pytest.raises(protocol.Refused) as caught:
        protocol.parse(body, length or head, what)
    assert message in str(caught.value)


def test_json_and_bytes_mean_the_same(what: Served) -> None:
    given = served.inputs(3, 8)
    flat = protocol.parse(json.dumps(served.content(given)).encode(), None, what)
    nested = served.content(given)
    for entry in nested["inputs"]:
        entry["data"] = given[entry["name"]].tolist()
    columns = {**given, "t": given["t"][:, None], "y": given["y"][:, None]}  # as Triton wants t and y
    for request in (
        flat,
        protocol.parse(json.dumps(nested).encode(), None, what),
        protocol.parse(*binary(given), what),
        protocol.parse(*binary(columns), what),
    ):
        for name, value in given.items():
            found = getattr(request, name)
            assert found.dtype == value.dtype and np.array_equal(found, value)


# Batches


class Artefact:
    """Adds t and y to x, counts, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()

    def __call__(self, x: Array, t: Array, y: Array) -> Array:
        self.running.set()
        assert self.gate.wait(30)
        self.batches.append((len(x), x.shape[-1]))
        if (t == 666).any():
            raise RuntimeError("the number of the beast")
        out: Array = x + np.where(t == 777, np.nan, t + y)[:, None, None, None]
        return out


def submit(to: batching.Batcher, images: int, side: int, value: int) -> "Future[Array]":
    x = np.full((images, 1, side, side), float(value))
    return to.submit(x, np.arange(images, dtype="float64"), np.zeros(images, "int64"))


@contextmanager
def held(max_batch: int = 8, **settings: Any) -> Iterator[tuple[Artefact, batching.Batcher]]:
    """A batcher whose artefact is busy with a first image until its gate opens."""
    artefact = Artefact()
    artefact.gate.clear()
    batcher = batching.Batcher(artefact, max_batch, **{"max_delay_s": 0.001, "max_queue": 100} | settings)
    submit(batcher, settings.get("min_batch", 1), 4, 0)
    assert artefact.running.wait(LONGEST_S)
    yield artefact, batcher
    artefact.gate.set()
    batcher.stop()


def test_requests_of_one_size_become_a_batch_and_each_gets_its_own_back() -> None:
    with held() as (artefact, batcher):
        sizes = [(3, 4), (2, 8), (3, 4), (1, 8), (2, 4), (3, 4)]
        waiting = [submit(batcher, images, side, 10 * k) for k, (images, side) in enumerate(sizes)]
        artefact.gate.set()
        for k, (future, (images, side)) in enumerate(zip(waiting, sizes, strict=True)):
            right = np.broadcast_to(np.arange(images)[:, None, None, None] + 10.0 * k, (images, 1, side, side))
            assert np.array_equal(future.result(LONGEST_S), right)
    assert artefact.batches == [(1, 4), (8, 4), (3, 8), (3, 4)]


def test_a_batch_waits_for_more_but_not_for_long() -> None:
    artefact = Artefact()
    full = batching.Batcher(artefact, 4, max_delay_s=2 * LONGEST_S, max_queue=10)
    waiting = [submit(full, 2, 4, 0) for _ in range(2)]
    waiting[1].result(LONGEST_S)  # it did not wait
    full.stop()
    batcher = batching.Batcher(artefact, 4, max_delay_s=0.5, max_queue=10)
    started = time.monotonic()
    submit(batcher, 2, 4, 0).result(LONGEST_S)
    assert time.monotonic() - started > 0.5
    batcher.stop()
    assert artefact.batches == [(4, 4), (2, 4)]


def test_few_images_are_filled_up_for_an_artefact_of_one_batch() -> None:
    artefact = Artefact()
    batcher = batching.Batcher(artefact, 4, 0.001, 10, min_batch=4)
    assert submit(batcher, 3, 4, 1).result(LONGEST_S)[:, 0, 0, 0].tolist() == [1, 2, 3]
    batcher.stop()
    assert artefact.batches == [(4, 4)]


def test_a_request_that_fails_takes_no_other_with_it() -> None:
    with held() as (artefact, batcher):
        good = submit(batcher, 2, 4, 1)
        bad = batcher.submit(np.zeros((1, 1, 4, 4)), np.array([666.0]), np.zeros(1, "int64"))
        after = submit(batcher, 1, 4, 5)
        artefact.gate.set()
        assert good.result(LONGEST_S).shape[0] == 2 and after.result(LONGEST_S)[0, 0, 0, 0] == 5
        with pytest.raises(RuntimeError, match="the number of the beast"):
            bad.result(LONGEST_S)


def test_a_full_queue_refuses_and_a_stop_finishes_what_waits() -> None:
    with held(max_queue=4) as (artefact, batcher):
        waiting = [submit(batcher, 2, 4, k) for k in range(2)]
        with pytest.raises(batching.QueueFull):
            submit(batcher, 1, 4, 0)
        waiting[1].cancel()  # a client that went away
        threading.Timer(0.1, artefact.gate.set).start()
        batcher.stop()
        assert waiting[0].done() and not batcher.alive
        with pytest.raises(batching.Stopped):
            submit(batcher, 1, 4, 0)
    assert artefact.batches == [(1, 4), (2, 4)]


def test_a_request_that_is_given_up_makes_room_at_once() -> None:
    with held(max_queue=4) as (artefact, batcher):
        waiting = [submit(batcher, 2, 4, k) for k in range(2)]
        waiting[0].cancel()
        assert batcher.images == 2
        last = submit(batcher, 2, 4, 7)
        waiting[1].cancel()
        artefact.gate.set()
        assert last.result(LONGEST_S)[0, 0, 0, 0] == 7
    assert artefact.batches == [(1, 4), (2, 4)]


def test_a_batch_that_waits_for_more_may_lose_all_it_has() -> None:
    artefact = Artefact()
    batcher = batching.Batcher(artefact, 4, max_delay_s=0.2, max_queue=4)
    submit(batcher, 1, 4, 1).cancel()
    assert submit(batcher, 1, 4, 2).result(LONGEST_S)[0, 0, 0, 0] == 2
    batcher.stop()
    assert artefact.batches == [(1, 4)] and batcher.failure is None


def test_nobody_waits_for_a_thread_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with held() as (artefact, batcher):
        waiting = [submit(batcher, 2, 4, k) for k in range(2)]
        monkeypatch.setattr(batcher, "_run", lambda batch: None)  # what no runtime returns
        artefact.gate.set()
        for each in waiting:
            with pytest.raises(batching.Stopped):
                each.result(LONGEST_S)
        batcher.thread.join(10)
        assert isinstance(batcher.failure, TypeError) and not batcher.alive
        with pytest.raises(batching.Stopped):
            submit(batcher, 1, 4, 0)


# Over HTTP, with an artefact that does what a test needs


@contextmanager
def http(
    what: Served, run: Callable[..., Array], max_queue: int = 100, client_s: float = 10.0
) -> Iterator[tuple[str, app.Service]]:
    service = app.Service(what, run, 0.001, max_queue, limits.ClientLimits(client_s))
    with served.in_thread(Server(service)) as address:
        yield address, service
    assert not service.batcher.thread.is_alive()


def post(address: str, given: dict[str, Array], path: str = INFER) -> tuple[int, Any]:
    return served.request(address, "POST", path, json.dumps(served.content(given)).encode())


def test_limits_back_pressure_and_failures_over_http(what: Served) -> None:
    artefact = Artefact()
    with http(what, artefact, max_queue=2, client_s=0.5) as (address, service), ThreadPoolExecutor(4) as pool:
        limit = str(what.max_body_bytes)
        status, answer = served.request(address, "POST", INFER, b"", {"content-length": str(10**12)})
        assert status == 413 and limit in answer["error"]
        endless = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16) * (2 + what.max_body_bytes // 2**16)
        assert chunked(address, endless).startswith(b"HTTP/1.1 413")
        assert chunked(address, b"1\r\n{\r\n").startswith(b"HTTP/1.1 408")  # and then nothing more
        assert served.request(address, "POST", INFER, b"{}", {"content-encoding": "gzip"})[0] == 415
        assert service.bodies.held == 0

        artefact.gate.clear()
        artefact.running.clear()
        first = pool.submit(post, address, served.inputs(1, 8))
        assert artefact.running.wait(LONGEST_S)
        second = pool.submit(post, address, served.inputs(2, 8))
        until(lambda: service.batcher.images == 2)
        status, answer = post(address, served.inputs(1, 8))
        assert status == 429 and answer["error"] == "2 images are waiting already: try again"
        assert served.request(address, "GET", "/v2/health/ready")[0] == 200  # busy, not ill
        artefact.gate.set()
        assert first.result()[0] == second.result()[0] == 200

        bad = served.inputs(1, 8)
        bad["t"][:] = 666
        assert post(address, bad) == (500, {"error": "the artefact failed: the number of the beast"})
        bad["t"][:] = 777
        assert post(address, bad)[1] == {"error": "the output contains values that are not finite"}
        assert post(address, served.inputs(1, 8))[0] == 200
        for path, message in {
            "/v2/models/dico/infer": "unknown model 'dico': there is tiny_dico",
            "/v2/models/tiny_dico/versions/2/infer": "unknown version '2' of tiny_dico: there is 1",
            "/v3": "Not Found: /v3",
        }.items():
            assert served.request(address, "POST", path, b"{}") == (404, {"error": message})
        assert served.request(address, "GET", INFER)[0] == 405
        _, text = served.request(address, "GET", "/metrics")
    counts = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert {code: float(counts[f'convbench_requests_total{{code="{code}"}}']) for code in (200, 413, 429, 500)} == {
        200: 3,
        413: 2,
        429: 1,
        500: 2,
    }
    assert float(counts["convbench_queue_images"]) == 0


@pytest.mark.parametrize("name", ["parse", "parse with a length", "answer"])
def test_long_json_is_read_and_written_beside_the_other_requests(
    name: str, what: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Event()
    function, body = name.split(maxsplit=1)[0], json.dumps(served.content(served.inputs(1, 8))).encode()
    work = getattr(protocol, function)
    running = []

    def held_up(*given: Any) -> Any:
        running.append(1)
        begun.set()
        assert gate.wait(30) and len(running) == 1
        running.pop()
        return work(*given)

    monkeypatch.setattr(protocol, function, held_up)
    monkeypatch.setattr(app, "LONG_BODY", 0 if function == "parse" else 10**9)
    monkeypatch.setattr(app, "LONG_ANSWER", 0 if function == "answer" else 10**9)
    headers = {"inference-header-content-length": str(len(body))} if "length" in name else {}
    with http(what, Artefact()) as (address, service), ThreadPoolExecutor(2) as pool:
        with served.connect(address) as gone:  # what has begun ends, and counts until then
            gone.sendall(served.post(body, "".join(f"{key}: {value}\r\n" for key, value in headers.items())))
            assert begun.wait(LONGEST_S)
        asking = [pool.submit(served.request, address, "POST", INFER, body, headers) for _ in range(2)]
        until(lambda: service.bodies.held == 3 * len(body))
        assert served.alive(address) and not any(each.done() for each in asking)
        gate.set()
        assert [each.result()[0] for each in asking] == [200, 200]
        until(lambda: service.bodies.held == 0)
        assert served.metrics(address)['convbench_requests_total{code="499"}'] == 1


def test_large_bodies_wait_for_each_other_and_small_ones_for_none(
    what: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SMALL", 2**14)
    service = app.Service(what, Artefact(), 0.001, 100, limits.ClientLimits(held_bytes=2**15))
    body = json.dumps(served.content(served.inputs(1, 8))).encode()
    large = body + b" " * 2**15
    with served.in_thread(Server(service)) as address, served.connect(address) as half:
        half.sendall(served.post(large)[: -(2**13)])
        until(lambda: service.bodies.held > 2**14)
        status, answer = served.request(address, "POST", INFER, large)
        assert (status, answer) == (429, {"error": "too many large requests at once: try again"})
        assert served.request(address, "POST", INFER, body)[0] == 200
        half.sendall(b" " * 2**13)
        assert served.answer(half)[0] == 200
        assert served.request(address, "POST", INFER, large)[0] == 200
        assert service.bodies.held == 0


def chunked(address: str, body: bytes) -> bytes:
    """Send a body of unknown length; the first bytes of the answer."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LONGEST_S) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
            connection.sendall(head.encode() + body)
        return connection.recv(100)


# The real process


@pytest.fixture(scope="module")
def server(artefact: Path) -> Iterator[tuple[Any, str]]:
    with served.process(str(artefact), "--max-delay", "2ms") as (process, address):
        yield process, address


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_triton_client_gets_what_pytorch_computes(server: tuple[Any, str], as_bytes: bool) -> None:
    client_library = pytest.importorskip("tritonclient.http")
    _, address = server
    client = client_library.InferenceServerClient(address.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny_dico")
    described = client.get_model_metadata("tiny_dico")
    assert described["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 4, -1, -1]}
    assert described["parameters"]["height"] == [8, 16, 4]
    given = served.inputs(3, 12)
    asked = []
    for name, value in given.items():
        asked.append(client_library.InferInput(name, value.shape, served.DATATYPES[str(value.dtype)]))
        asked[-1].set_data_from_numpy(value, binary_data=as_bytes)
    for outputs in (None, [client_library.InferRequestedOutput("out", binary_data=as_bytes)]):
        result = client.infer("tiny_dico", asked, outputs=outputs, request_id="mine")
        assert distance(result.as_numpy("out"), expected(given)) < 2e-6
        assert result.get_response()["id"] == "mine"
    asked[0].set_shape([3, 4, 144])
    with pytest.raises(client_library.InferenceServerException, match="x must have the shape"):
        client.infer("tiny_dico", asked)
    with pytest.raises(client_library.InferenceServerException, match="unknown model 'other'"):
        client.infer("other", asked)
    client.close()


def test_five_hundred_requests_some_of_them_bad(server: tuple[Any, str]) -> None:
    """From sixteen clients at once: every good one is answered right, every bad one refused, and memory is flat."""
    process, address = server
    cases = [served.inputs(1 + k % 3, (8, 12, 16)[k % 3], seed=k) for k in range(12)]
    right = [expected(case) for case in cases]
    bodies = [json.dumps(served.content(case)).encode() for case in cases]
    bad = [given if isinstance(given, bytes) else json.dumps(given).encode() for given, _ in BAD.values()]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for k in range(500):
        todo.put(k)

    def client() -> list[str]:
        wrong = []
        while True:
            try:
                k = todo.get_nowait()
            except queue.Empty:
                return wrong
            if k % 20 == 7:
                status, answer = served.request(address, "POST", INFER, bad[k // 20 % len(bad)])
                if status != 400 or not answer["error"]:
                    wrong.append(f"bad request {k}: {status} {answer}")
                continue
            status, answer = served.request(address, "POST", INFER, bodies[k % 12])
            if status != 200 or not distance(served.output(answer), right[k % 12]) < 2e-6:
                wrong.append(f"request {k}: {status}")

    client_count = 16
    for k in range(12):
        assert served.request(address, "POST", INFER, bodies[k])[0] == 200
    before = psutil.Process(process.pid).memory_info().rss
    with ThreadPoolExecutor(client_count) as pool:
        wrong = [text for found in [pool.submit(client) for _ in range(client_count)] for text in found.result()]
    assert wrong == []
    assert psutil.Process(process.pid).memory_info().rss - before < 64 * 2**20
    _, text = served.request(address, "GET", "/metrics")
    counts = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert float(counts["convbench_batch_images_count"]) < float(counts['convbench_requests_total{code="200"}'])


def test_a_signal_finishes_what_was_accepted(artefact: Path) -> None:
    """Requests that wait in a batch for more are answered at once; the process ends with 0 and the port is free."""
    given = served.inputs(1, 8)
    with served.process(str(artefact), "--max-delay", "1m") as (process, address), ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(post, address, given) for _ in range(3)]
        until(lambda: b"convbench_queue_images 3.0" in served.request(address, "GET", "/metrics")[1])
        process.send_signal(signal.SIGTERM)
        for future in waiting:
            status, answer = future.result(LONGEST_S)
            assert status == 200 and distance(served.output(answer), expected(given)) < 2e-6
        assert process.wait(LONGEST_S) == 0
        with pytest.raises(ConnectionRefusedError):
            served.request(address, "GET", "/v2")


# What is not served


def test_what_cannot_be_served_is_one_line(
    artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", *arguments.split()])
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "is not an artefact" in fails(f"{tmp_path} --port 0")
    assert "takes at most 8 images" in fails(f"{artefact} --port 0 --max-batch 9")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in fails(f"{artefact} --port {taken.getsockname()[1]}")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artefact.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / folder.VERIFICATION).write_text('{"status": "failed"}')
    assert "failed its verification" in fails(f"{copy} --port 0")
    (copy / "model.onnx").write_bytes(b"not a model")
    assert "is damaged: model.onnx is not the file that was made" in fails(f"{copy} --port 0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "starlette is not installed: pip install 'convbench[serve]'" in fails(f"{artefact} --port 0")


def test_serving_imports_nothing_of_the_model(artefact: Path, tmp_path: Path) -> None:
    """Not even where its id names a module that lies in the working folder and on the path."""
    copy = tmp_path / "copy"
    shutil.copytree(artefact, copy)
    content = json.loads((copy / "manifest.json").read_text())
    content["signature"]["classes"] = 7
    (copy / "manifest.json").write_text(json.dumps({**content, "model": "payload:net"}))
    (tmp_path / "payload.py").write_text("raise AssertionError('imported')")
    with served.process(str(copy), folder=tmp_path) as (_, address):
        described = served.request(address, "GET", "/v2/models/payload_net")[1]
        assert described["parameters"]["classes"] == 7 and described["parameters"]["t_end"] == 1000
        bad = served.inputs(1, 8)
        bad["y"][:] = 8
        assert post(address, bad, "/v2/models/payload_net/infer")[1] == {"error": "y must lie between 0 and 7"}
        assert post(address, bad | {"y": np.array([7])}, "/v2/models/payload_net/infer")[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ()},
        {"outputs": ()},
        {"inputs": (folder.Port("x", "float32", ()),) * 3},
        {"dimensions": {}},
        {"model": "a/b?c"},
        {"model": "a b"},
        {"model": "\x1b[31m"},
    ],
    ids=str,
)
def test_a_manifest_of_something_else_is_not_served(changes: dict[str, Any], artefact: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a valid |cannot be served") as caught:
        Served(replace(folder.read(artefact), **changes), 8)
    assert str(caught.value).isprintable()


def test_a_body_is_bounded_whatever_the_artefact_takes(artefact: Path) -> None:
    huge = {"batch": (1, 8), "h4": (2, 2**30), "w4": (2, 2**30)}
    assert Served(replace(folder.read(artefact), dimensions=huge), 8).max_body_bytes == 2**28 + 2**16
    assert Served(folder.read(artefact), 8).max_body_bytes == 2**16 + 32 * 8 * (4 * 16 * 16 + 2)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["openvino", "aoti"])
def test_the_other_artefacts_run_too(to: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("openvino")
    path = exported.artefact(tmp_path_factory.getbasetemp(), "dico", to)
    with listen.opened(path, listen.ServerSettings(threads=1)) as (what, run):
        batcher = batching.Batcher(run, what.max_batch, 0.001, 100)
        cases = [served.inputs(1 + k, (8, 16)[k % 2], seed=k) for k in range(4)]
        waiting = [batcher.submit(*(case[name] for name in "xty")) for case in cases]
        for case, future in zip(cases, waiting, strict=True):
            assert distance(future.result(LONGEST_S), expected(case)) < 2e-6
        batcher.stop()


def test_an_artefact_that_does_not_run_is_named(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = replace(folder.read(artefact), batch=(1, 8), dimensions={"batch": (1, 8), "h4": (0, 4), "w4": (2, 4)})
    monkeypatch.setattr(folder, "read", lambda path: manifest)
    with (
        pytest.raises(UsageError, match="does not run here: "),
        listen.opened(artefact, listen.ServerSettings(threads=1)),
    ):
        pass

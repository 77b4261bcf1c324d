"""Hostile requests to a real server process on loopback: each is refused in one line, at little cost."""

import asyncio
import gc
import json
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import exported
import pytest
import served
from served import INFER, alive, post, right

pytest.importorskip("uvicorn")

from convbench.export import folder
from convbench.serving import app, protocol
from convbench.serving.served import MOST_JSON_BYTES, Served

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
MEMORY = 48 * 2**20  # that an attack may cost, with everything that the right requests beside it need


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@pytest.fixture(scope="module")
def server(artefact: Path) -> Iterator[tuple[int, str]]:
    """Its process and address. Whatever is done to it, it writes no traceback and nothing that a terminal obeys."""
    log: list[str] = []
    with served.process(str(artefact), "--max-delay", "1ms", log=log) as (process, address):
        assert right(address) == 200
        yield process.pid, address
        assert right(address) == 200
    text = "".join(log)
    assert "Traceback" not in text
    assert all(sign.isprintable() for sign in text.replace("\n", ""))


@pytest.fixture(scope="module")
def body_bytes(artefact: Path) -> int:
    """Of the longest body that the server reads."""
    return Served(folder.read(artefact), 8).max_body_bytes


def tensor(data: Any, **changes: Any) -> bytes:
    """A request whose x holds that data, as written or as text."""
    request = served.content(served.inputs(1, 8))
    request["inputs"][0] |= changes
    text = json.dumps(request)
    if isinstance(data, str):
        old = json.dumps(request["inputs"][0]["data"])
        return text.replace(old, data).encode("utf-8", "surrogatepass")
    request["inputs"][0]["data"] = data
    return json.dumps(request).encode()


# Bodies


def bombs(most: int) -> dict[str, bytes]:
    """Bodies that could cost far more than their bytes."""
    room = most - 2000
    few = room // 400
    return {
        "texts of different lengths": tensor(["a" * 30_000] + ["b"] * 6_000),
        "a few of them": tensor(["a" * (room - 2500)] + ["b"] * 400),
        "empty lists": tensor(f"[{'[],' * (room // 3)}[]]"),
        "empty objects": tensor(f"[{'{},' * (room // 3)}{{}}]"),
        "lists in lists": tensor("[" * (room // 2) + "]" * (room // 2)),
        "not quite too deep": tensor("[" * 900 + "1" + "]" * 900),
        "a deep name": tensor("[1]", name=json.loads("[" * 400 + "]" * 400)),
        "a deep type": tensor("[1]", datatype=json.loads('{"a":' * 400 + "1" + "}" * 400)),
        "keys": tensor("{" + ",".join(f'"{k}":1' for k in range(room // 12)) + "}"),
        "nothing": tensor(f"[{'null,' * (room // 5)}null]"),
        "long numbers": tensor(f"[{','.join(['9' * 4000] * (room // 4001))}]"),
        "a longer number": tensor(f"[{'9' * room}]"),
        "many digits": tensor(f"[0.{'1' * room}]"),
        "a large exponent": tensor(f"[1e{'9' * room}]"),
        "numbers in texts": tensor([["1" * few] * 20] * 20),
        "one wide sign": tensor(f'["{"a" * (room - 100)}\U0001f600"]'),
        "blanks": tensor(" " * room),
        "UTF-16": tensor([1]).decode().encode("utf-16"),
        "UTF-32": tensor([1]).decode().encode("utf-32"),
        "zeros": b"\0" * room,
        "a huge shape": tensor([1], shape=[2**31 - 1] * 8),
        "a shape of no axes": tensor([1.0], shape=[]),
        "a shape of many axes": tensor([1.0], shape=[1] * 1000),
        "a long id": tensor([1]).replace(b'{"inputs"', b'{"id": "%s", "inputs"' % (b"i" * (room - 4000)), 1),
        "the last name wins": b'{"inputs": [], "inputs": [%s]}' % (b"{}," * 5000 + b"{}"),
    }


@pytest.mark.parametrize("name", bombs(10_000))
def test_a_small_body_costs_little_memory(name: str, server: tuple[int, str], body_bytes: int) -> None:
    process, address = server
    body = bombs(body_bytes)[name]
    assert len(body) <= body_bytes
    before = served.peak_bytes(process)
    with served.connect(address) as connection:
        connection.sendall(post(body))
        assert alive(address)
        status, content = served.answer(connection)
    assert status == 400 and json.loads(content)["error"].count("\n") == 0
    assert served.peak_bytes(process) - before < MEMORY
    assert right(address) == 200


@pytest.mark.parametrize("name", bombs(10_000))
def test_a_large_body_is_refused_within_six_times_its_bytes(name: str, artefact: Path) -> None:
    """Of an artefact whose requests may have 3 MB, where a factor of 20 would be felt."""
    manifest = replace(folder.read(artefact), batch=(1, 64), dimensions={"batch": (1, 64), "h4": (2, 5), "w4": (2, 5)})
    what = Served(manifest, 64)
    body = bombs(what.max_body_bytes)[name]
    assert 2 * 10**6 < what.max_body_bytes < MOST_JSON_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(protocol.Refused) as caught:
            protocol.parse(body, None, what)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.status == 400
    assert peak < 6 * what.max_body_bytes


def test_json_that_would_hold_up_other_requests_is_refused_for_the_binary_form(artefact: Path) -> None:
    """Python parses JSON in one go: 20 MB held up the health check by a second."""
    manifest = replace(
        folder.read(artefact), batch=(1, 64), dimensions={"batch": (1, 64), "h4": (2, 16), "w4": (2, 16)}
    )
    what = Served(manifest, 64)
    right = json.dumps(served.content(served.inputs(1, 8))).encode()
    longest = right + b" " * (MOST_JSON_BYTES - len(right))
    assert protocol.parse(longest, None, what).x.shape == (1, 4, 8, 8)
    with pytest.raises(protocol.Refused, match=r"at most 4194304 are read: send the tensors in binary") as caught:
        protocol.parse(longest + b" ", None, what)
    assert caught.value.status == 413 and "\n" not in str(caught.value)
    text, raw = served.binary(served.inputs(64, 64))
    assert len(text) + len(raw) > MOST_JSON_BYTES
    assert protocol.parse(text + raw, str(len(text)), what).x.shape == (64, 4, 64, 64)


SURROGATES = {
    "a type": ("datatype", "\ud800"),
    "a name": ("name", "x\udfff"),
    "a field": ("\ud800", 1),
    "a shape": ("shape", ["\ud800"]),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_half_a_surrogate_pair_is_refused_in_one_line(name: str, server: tuple[int, str]) -> None:
    field, value = SURROGATES[name]
    body = tensor([1.0], **{field: value})
    assert b"\\ud" in body
    status, answer = served.request(server[1], "POST", INFER, body)
    assert status == 400 and answer["error"].isascii() and answer["error"].isprintable()


def test_half_a_surrogate_pair_as_id_comes_back(server: tuple[int, str]) -> None:
    request = {**served.content(served.inputs(1, 8)), "id": "\ud800\x1b[31m"}
    assert served.request(server[1], "POST", INFER, json.dumps(request).encode())[1]["id"] == request["id"]


def test_what_a_client_wrote_is_shown_without_what_a_terminal_obeys(server: tuple[int, str]) -> None:
    for path in ("/v2/models/%1B%5D0;owned%07/infer", "/v2/%1b[31m", "/v2/models/a%0Ab/infer", "/v2/models/%ff/infer"):
        status, answer = served.request(server[1], "POST", path, b"{}")
        assert status == 404 and answer["error"].isprintable()


def test_random_damage_is_refused_or_answered(server: tuple[int, str]) -> None:
    """Four hundred requests with bytes exchanged, taken out, doubled: no answer is an error of the server."""
    draw = random.Random(0)
    good = post(json.dumps(served.content(served.inputs(1, 8))).encode())
    head = good.index(b"\r\n\r\n")
    seen = set()
    for k in range(400):
        damaged = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(good) if k % 2 else head)
            kind = draw.randrange(4)
            if kind == 0:
                damaged[at : at + 1] = bytes([draw.randrange(256)])
            elif kind == 1:
                del damaged[at : at + draw.randint(1, 20)]
            elif kind == 2:
                damaged[at:at] = damaged[at : at + draw.randint(1, 20)]
            else:
                damaged[at:at] = draw.choice(
                    [b'"', b"[", b"{", b"\\ud800", b"1e999", b"-", b"\r\n", b"\0", b"null", b","]
                )
        with served.connect(server[1]) as connection:
            connection.sendall(damaged)
            connection.shutdown(socket.SHUT_WR)
            seen.add(served.answer(connection)[0])
    assert seen <= {0, 200, 400, 404, 405, 408, 413, 415, 501}
    assert alive(server[1])


def test_a_refusal_that_nobody_waits_for_is_no_traceback() -> None:
    """Long JSON is read in a thread; its client has gone before it is refused."""
    complaints: list[Any] = []

    def refused() -> None:
        began.set()
        time.sleep(0.1)
        raise protocol.Refused(400, "wrong")

    async def gone() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        service: Any = SimpleNamespace(long_json=asyncio.Semaphore(1))
        asking = asyncio.ensure_future(app.Service._beside(service, refused))
        await asyncio.to_thread(began.wait)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        del asking
        gc.collect()
        await asyncio.sleep(0)

    began = threading.Event()
    asyncio.run(gone())
    assert complaints == []


# Requests that hide others, or are not HTTP

REFUSED = {
    "two lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths, spelt otherwise": b"tRANSFER-eNCODING: Chunked\r\ncontent-LENGTH: 5\r\n\r\n0\r\n\r\n",
    "different lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}   ",
    "different lengths in one": b"Content-Length: 4, 5\r\n\r\n{}   ",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a signed length": b"Content-Length: +5\r\n\r\n{}   ",
    "a length with underscores": b"Content-Length: 1_0\r\n\r\n{}",
    "a long length": b"Content-Length: 1%s\r\n\r\n" % (b"0" * 30),
    "another coding": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no length": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "tiny chunks": b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 20_000,
    "an endless line": b"X: " + b"a" * 100_000,
    "a long line that comes at once": b"X: " + b"a" * 2**14 + b"\r\nContent-Length: 0\r\n\r\n",
    "many headers that come at once": b"a:\r\n" * 4000 + b"Content-Length: 0\r\n\r\n",
    "an endless chunk header": b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 100_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(name: str, server: tuple[int, str]) -> None:
    with served.connect(server[1]) as connection:
        with suppress(ConnectionError):  # refused before all of it was sent
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\n".encode() + REFUSED[name] + LIVE)
        received = b""
        with suppress(ConnectionError):
            while part := connection.recv(2**16):
                received += part
    assert received.count(b"HTTP/1.1 ") == 1 and received.startswith(b"HTTP/1.1 4")
    assert alive(server[1])


def test_other_protocols_are_turned_away(server: tuple[int, str]) -> None:
    for said in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"\0" * 1000,
        b"GET /v2 HTTP/1.1\r\nHost: [\r\n\r\n",
        b"GET http://[/v2 HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /v2/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 40_000 + b"\r\n",
    ):
        with served.connect(server[1]) as connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            assert served.answer(connection)[0] < 500
    assert alive(server[1])

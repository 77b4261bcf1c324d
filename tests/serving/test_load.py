"""``convbench load``: latencies from the intended times, failures counted, and the rate within a bound."""

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import exported
import pytest
import served
from served import Array
from waiting import until

pytest.importorskip("uvicorn")

from convbench import cli
from convbench.errors import NothingMeasured, UsageError
from convbench.export import folder
from convbench.serving import app, connection, load
from convbench.serving.served import Served
from convbench.serving.server import Server


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@contextmanager
def server(artefact: Path, run: Callable[[int], None], max_queue: int = 1000) -> Iterator[str]:
    """One that returns its input, after ``run(number of the call)``."""
    calls = iter(range(10**9))

    def step(x: Array, t: Array, y: Array) -> Array:
        run(next(calls))
        return x

    service = app.Service(Served(folder.read(artefact), 8), step, 0.0005, max_queue)
    with served.in_thread(Server(service)) as address:
        yield address


def stall(call: int) -> None:
    """Hold everything up once, after the requests that warm up."""
    if call == load.WARM_UP:
        time.sleep(0.4)


def test_an_open_loop_shows_a_stall_to_all_whom_it_held_up(artefact: Path) -> None:
    with server(artefact, stall) as address:
        (opened,) = load.run(address, None, 1, None, 0.8, rate=100)
    with server(artefact, stall) as address:
        (closed,) = load.run(address, None, 1, None, 0.8, clients=1)
    assert opened["failed"] == closed["failed"] == 0
    assert 45 < opened["requests"] < 125  # a Poisson process: 80, five standard deviations either way
    assert opened["latency_s_p90"] > 0.1  # half of all were held up
    assert closed["latency_s_p90"] < opened["latency_s_p90"] and closed["requests"] > 2  # one was
    assert opened["images_per_s"] == pytest.approx(opened["requests"] / opened["duration_s"])


def test_answers_are_not_held_back_for_an_acknowledgement(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm and delayed acknowledgements would make every one on a kept connection 40 ms."""
    seen: list[load.Seen] = []
    closed_loop = load.closed_loop

    async def kept(*asked: Any) -> load.Seen:
        seen.append(await closed_loop(*asked))
        return seen[-1]

    monkeypatch.setattr(load, "closed_loop", kept)
    with server(artefact, lambda call: None) as address:
        load.run(address, None, 1, None, 0.5, clients=1)
    assert min(seen[0].latencies) < 0.03


def test_failures_are_counted_by_what_was_said(artefact: Path) -> None:
    def fails(call: int) -> None:
        if call >= load.WARM_UP:
            raise RuntimeError("broken")

    with server(artefact, fails) as address, pytest.raises(NothingMeasured, match="the artefact failed: broken"):
        load.run(address, None, 2, 12, 0.1, clients=2)


def answered(address: str) -> float:
    """Requests that were answered with 200 so far."""
    text = served.request(address, "GET", "/metrics")[1].decode()
    found = re.search(r'^convbench_requests_total\{code="200"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_server_that_goes_away_is_a_failure_not_a_crash(artefact: Path) -> None:
    with served.process(str(artefact)) as (process, address):

        def kill_it_after_some_answers() -> None:
            until(lambda: answered(address) > load.WARM_UP + 3)
            process.kill()

        killer = threading.Thread(target=kill_it_after_some_answers)
        killer.start()
        (row,) = load.run(address, "tiny_dico", 2, 16, 3.0, rate=50)
        killer.join()
    assert 0 < row["failed"] < row["requests"]
    assert sum(row["failures"].values()) == row["failed"]


def test_bisection_finds_the_rate_that_a_server_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = load.Asked("", "", b"", 4)

    async def open_loop(to: Any, asked: Any, rate: float, duration: float, seed: int) -> load.Seen:
        latency = 0.01 if rate <= 37 else 0.2
        return load.Seen([latency] * 100, [0.0], Counter(), 100 / rate)

    async def closed_loop(to: Any, asked: Any, clients: int, duration: float) -> load.Seen:
        return load.Seen([0.1] * 1000, [0.0], Counter(), 10.0)

    async def prepare(*_: Any) -> load.Asked:
        return asked

    for name, double in {"open_loop": open_loop, "closed_loop": closed_loop, "prepare": prepare}.items():
        monkeypatch.setattr(load, name, double)
    rows = load.run("http://a", None, 4, None, 1, slo_s=0.05)
    assert rows[-1]["within"] == "yes" and 35 < rows[-1]["rate"] <= 37
    assert rows[-1]["images_per_s"] == pytest.approx(4 * rows[-1]["rate"])
    assert len(rows) == 1 + load.STEPS
    assert {row["within"] for row in load.run("http://a", None, 4, None, 1, slo_s=0.001)} == {None, "no"}


# Servers that mean harm

DESCRIBED = {
    "name": "m",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 4, -1, -1]},
        {"name": "t", "datatype": "FP32", "shape": [-1]},
        {"name": "y", "datatype": "INT64", "shape": [-1]},
    ],
    "parameters": {"height": [8, 16, 4], "width": [8, 16, 4]},
}
X = DESCRIBED["inputs"][0]  # type: ignore[index]
HARM: dict[str, tuple[Any, str]] = {
    "a list": ([], "does not follow the KServe v2 protocol"),
    "no inputs": ({"inputs": []}, "does not follow the KServe v2 protocol"),
    "many inputs": ({"inputs": [X] * 1000}, "does not follow the KServe v2 protocol"),
    "inputs of another kind": ({"inputs": [1]}, "does not follow the KServe v2 protocol"),
    "an escape in a name": ({"inputs": [{**X, "name": "\x1b[31m"}]}, "does not follow the KServe v2 protocol"),
    "half a surrogate pair": ({"inputs": [{**X, "name": "\ud800"}]}, "does not follow the KServe v2 protocol"),
    "another type": ({"inputs": [{**X, "datatype": ["FP32"]}]}, "takes a tensor type that no convbench model uses"),
    "a shape of texts": ({"inputs": [{**X, "shape": ["-1"]}]}, "does not follow the KServe v2 protocol"),
    "a negative shape": ({"inputs": [{**X, "shape": [-1, -8]}]}, "does not follow the KServe v2 protocol"),
    "a huge shape": ({"inputs": [{**X, "shape": [-1, 2**40]}]}, "more than 67108864: lower --batch"),
    "a huge side": ({"inputs": [X], "parameters": {"height": [2**40], "width": [1]}}, "more than 67108864"),
    "no side": ({"inputs": [X], "parameters": {"height": [], "width": {}}}, "does not limit the image size of"),
    "an error that a terminal obeys": (404, "m: a?[31m\u00e9b"),
}


@contextmanager
def harmful(answers: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that says whatever it likes, once to each connection."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answers(head.partition(b"\r\n")[0]))
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(one, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def said(content: Any, status: int = 200) -> bytes:
    body = json.dumps(content).encode()
    return f"HTTP/1.1 {status} OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("name", HARM)
def test_what_a_server_says_of_its_model_is_checked(name: str) -> None:
    content, message = HARM[name]
    right = said({"error": "a\x1b[31m\u00e9b"}, 404) if content == 404 else said(content)
    with harmful(lambda line: right) as address, pytest.raises(UsageError) as caught:
        load.run(address, "m", 1, None, 0.1, clients=1)
    assert message in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 100_000,
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"[" * 5000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=lambda answer: repr(answer[:60]),
)
@pytest.mark.parametrize("model", ["m", None])
def test_what_is_not_an_answer_is_one_line(answer: bytes, model: str | None) -> None:
    with harmful(lambda line: answer) as address, pytest.raises(UsageError) as caught:
        load.run(address, model, 1, None, 0.1, clients=1)
    assert "no answer from " in str(caught.value) or "KServe v2 protocol" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("what", ["a list of models", "a description", "a refusal", "an answer"])
def test_no_answer_is_larger_than_its_use(what: str) -> None:
    """Of JSON, which takes thirty times its bytes in memory, a mebibyte; of a result what the request implies."""
    sent: list[int] = []

    def answers(line: bytes) -> bytes:
        if b"index" in line and what != "a list of models":
            return said([{"name": "m"}])
        if b"infer" not in line and what in ("a refusal", "an answer"):
            return said(DESCRIBED)
        most = load.Asked("", "", b"x" * 1500, 1).most_bytes if what == "an answer" else connection.JSON_BYTES
        body = (b'{"error": "too much", "a": [' + b"[]," * most)[: most + 2000]
        sent.append(len(body))
        status = 500 if what == "a refusal" else 200
        return f"HTTP/1.1 {status} OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    with harmful(answers) as address, pytest.raises((UsageError, ConnectionError)) as caught:
        load.run(address, None, 1, None, 0.1, clients=1)
    if what == "a refusal":  # it may be as long as a result, and is not parsed
        assert str(caught.value).startswith("m refuses a request of 1 images: b'{") and len(str(caught.value)) < 200
    else:
        assert f"the answer has {sent[0]} bytes: at most" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"error": "no \\u001b[31m"}', "no ?[31m"),
        (b'{"error": 5}', "b'{\"error\": 5}'"),
        (b"[" * 10_000, repr(b"[" * 80)),
        (b'{"error": "' + b"a" * 2**20 + b'"}', repr(b'{"error": "' + b"a" * 69)),
    ],
    ids=["text", "number", "deep", "long"],
)
def test_an_error_of_a_server_is_shown_within_limits(content: bytes, shown: str) -> None:
    assert connection.error_of(content) == shown


def test_a_models_name_does_not_leave_its_part_of_the_address() -> None:
    lines = []

    def answers(line: bytes) -> bytes:
        lines.append(line)
        return said([{"name": "../a b?\u00e9"}] if b"index" in line else {})

    with harmful(answers) as address, pytest.raises(UsageError):
        load.run(address, None, 1, None, 0.1, clients=1)
    assert lines[1] == b"GET /v2/models/..%2Fa%20b%3F%C3%A9 HTTP/1.1"


def test_a_server_cannot_fill_the_list_of_failures() -> None:
    seen = load.Seen([], [], Counter(), 1.0)
    for k in range(1000):
        seen.fail(f"500: {k}")
    assert len(seen.failures) == load.MOST_WORDS + 1
    assert seen.failures["other failures"] == 1000 - load.MOST_WORDS and seen.failures.total() == 1000


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.9, 9), (0.99, 10), (0.01, 1), (1.0, 10)])
def test_percentiles_are_values_that_were_seen(share: float, value: float) -> None:
    assert load.percentile([float(n) for n in range(10, 0, -1)], share) == value
    assert load.percentile([], share) is None


@pytest.mark.parametrize("address", ["ftp://a", "http://", "http://a:port", "http://a/v2"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not an address such as"):
        connection.to(address)


def test_on_the_command_line(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(line: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["load", *line.split()])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    with server(artefact, lambda call: None) as address:
        code, out, err = run(f"{address} --concurrency 2 --duration 200ms --batch 8 --format json")
        (row,) = json.loads(out)
        assert code == 0 and row["failed"] == 0 and row["images_per_s"] > 0 and row["concurrency"] == 2
        code, out, err = run(f"{address} --slo 10s --duration 100ms")
        assert code == 0 and "within 10000 ms: " in out
        assert "a request may contain 1 to 8" in run(f"{address} --batch 9")[2]
        assert "there is tiny_dico" in run(f"{address} --model other")[2]
        assert "has the height 9" in run(f"{address} --side 9")[2]
    for line, message in {
        "http://127.0.0.1:9": "no answer from http://127.0.0.1:9",
        "http://127.0.0.1:9 --rate 1 --slo 1s": "cannot be combined; specify one",
    }.items():
        code, out, err = run(line)
        assert (code, out) == (2, "") and message in err

"""Slow, silent and vanishing clients of a real server process on loopback: it answers others, and it stops."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import exported
import numpy as np
import psutil
import pytest
import served
from served import INFER, alive, post, right, until

pytest.importorskip("uvicorn")

from convbench.export import folder
from convbench.serving.served import Served

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@pytest.fixture(scope="module")
def body_bytes(artefact: Path) -> int:
    """Of the longest body that the server reads."""
    return Served(folder.read(artefact), 8).max_body_bytes


@pytest.fixture(scope="module")
def impatient(artefact: Path) -> Iterator[str]:
    """The address of a server that gives its clients little time."""
    with served.process(str(artefact), "--client-timeout", "500ms") as (_, address):
        yield address


def closed(address: str, why: str) -> float:
    """How many connections the server has closed for a reason."""
    return served.metrics(address).get(f'convbench_connections_closed_total{{reason="{why}"}}', 0)


@contextmanager
def many(address: str, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """That many connections, each of which has said so much and says no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    try:
        with ExitStack() as stack:
            connections = []
            for _ in range(count):
                connections.append(stack.enter_context(served.connect(address)))
                with suppress(ConnectionError):  # the server has closed it already
                    connections[-1].sendall(said)
            yield connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"POST /v2/mod", id="half a line", marks=pytest.mark.slow),
        pytest.param(b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: ", id="half a header", marks=pytest.mark.slow),
        pytest.param(LIVE + b"GET ", id="half a second request", marks=pytest.mark.slow),
        pytest.param(b"", id="nothing"),
    ],
)
def test_more_half_sent_headers_than_files_leave_room_for_others(said: bytes, artefact: Path) -> None:
    log: list[str] = []
    files = 256
    with served.process(str(artefact), "--client-timeout", "1s", log=log, files=files) as (process, address):
        before = psutil.Process(process.pid).num_fds()
        with many(address, files + 50, said) as connections:
            for _ in range(20):  # while they are open
                assert alive(address)
            assert right(address) == 200
            assert psutil.Process(process.pid).num_fds() < files
            for connection in connections:  # the server closes each of them in the end
                with suppress(ConnectionError):
                    while connection.recv(2**16):
                        pass
        until(lambda: psutil.Process(process.pid).num_fds() <= before)
        assert right(address) == 200
        assert closed(address, "full") > 50
    assert len("".join(log)) < 2000


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: ", 0),
        (LIVE + b"GET /v2 HTTP/1.1\r\nHost: ", 200),
        (f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n{{".encode(), 408),
        (f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n{{".encode(), 408),
        (b"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n{", 404),
    ],
    ids=["header", "second header", "body", "chunk", "body that nobody reads"],
)
def test_a_byte_at_a_time_does_not_keep_a_connection(said: bytes, status: int, impatient: str) -> None:
    with served.connect(impatient) as connection:
        connection.sendall(said)
        connection.settimeout(0.1)
        received = b""
        for _ in range(300):
            with suppress(TimeoutError):
                try:
                    connection.sendall(b"a")
                    part = connection.recv(2**16)
                except ConnectionError:
                    break
                received += part
                if not part:
                    break
        else:
            pytest.fail("the server keeps the connection")
    assert received[9:12] == (str(status).encode() if status else b"")
    assert right(impatient) == 200


def test_bodies_that_were_only_announced_take_no_room(artefact: Path, body_bytes: int) -> None:
    announced = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {body_bytes}\r\n\r\n{{".encode()
    count = 842
    assert count * body_bytes > 2**28
    given = served.inputs(8, 16)
    large = json.dumps(served.content(given)).encode()
    large += b" " * (body_bytes - len(large))
    assert len(large) > 2**18
    with (
        served.process(str(artefact), "--client-timeout", "2s", files=2000) as (process, address),
        many(address, count, announced) as connections,
    ):
        assert served.request(address, "POST", INFER, large)[0] == 200
        assert served.peak_bytes(process.pid) < 2**30
        for connection in connections:
            assert served.answer(connection)[0] == 408
        assert served.metrics(address)['convbench_requests_total{code="408"}'] == count


def test_requests_of_clients_that_have_gone_are_not_computed(artefact: Path) -> None:
    """Seven of each of nine sizes: none is a full batch, so that all of them wait."""
    sizes = [(height, width) for height in (8, 12, 16) for width in (8, 12, 16)]
    with served.process(str(artefact), "--max-delay", "1m") as (_, address):
        with ExitStack() as stack:
            for height, width in sizes * 7:
                x = np.zeros((1, 4, height, width), "float32")
                body = json.dumps(served.content({**served.inputs(1, 8), "x": x})).encode()
                stack.enter_context(served.connect(address)).sendall(post(body))
            until(lambda: served.metrics(address)["convbench_queue_images"] == 63)
        until(lambda: served.metrics(address)["convbench_queue_images"] == 0)
        until(lambda: served.metrics(address).get('convbench_requests_total{code="499"}') == 63)
        assert served.metrics(address)["convbench_images_total"] == 0
        assert 'convbench_requests_total{code="200"}' not in served.metrics(address)


def unread(address: str, requests: int = 40) -> socket.socket:
    """A client that asks for answers of 300 kB each and reads none of them."""
    request = {**served.content(served.inputs(8, 16)), "parameters": {"binary_data_output": False}}
    connection = served.connect(address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(1)
    with suppress(TimeoutError, ConnectionError):
        connection.sendall(post(json.dumps(request).encode()) * requests)
    return connection


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(artefact: Path) -> None:
    with (
        served.process(str(artefact), "--grace", "1s") as (process, address),
        unread(address),
        served.connect(address) as other,
    ):
        other.sendall(post(b"")[:-4])  # nor does one that has sent half a header
        until(lambda: served.metrics(address)['convbench_requests_total{code="200"}'] >= 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_an_answer_that_nobody_takes_is_dropped(artefact: Path) -> None:
    with served.process(str(artefact), "--client-timeout", "500ms") as (_, address), unread(address):
        until(lambda: closed(address, "answer") == 1)
        assert right(address) == 200


@pytest.mark.slow
def test_a_server_under_attack_answers_every_request_right(artefact: Path) -> None:
    """Twenty seconds of scripts/faults.py: a reset, a SIGTERM behind retrying clients, and two more attacks."""
    options = ["--seconds", "20", "--requests", "200", "--clients", "16"]
    command = [sys.executable, served.ROOT / "scripts" / "faults.py", artefact, *options]
    environment = {**os.environ, "PYTHONPATH": str(served.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| answers | 200 right |" in done.stdout and "| surprises | none |" in done.stdout
    assert "1 SIGTERM and restart" in done.stdout

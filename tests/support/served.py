"""A real server process on loopback, and requests to it."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from waiting import LONGEST_S, until

ROOT = Path(__file__).parents[2]
Array = NDArray[Any]
INFER = "/v2/models/tiny_dico/infer"
DATATYPES = {"float32": "FP32", "int64": "INT64"}


@contextmanager
def process(
    *arguments: str, log: list[str] | None = None, files: int | None = None, folder: Path = ROOT
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``convbench serve`` on a free port, and its address.

    Args:
        log: gets every line that the server writes; all of them once the block has ended.
        files: how many it may have open.
        folder: where it is started.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    limited = ["sh", "-c", 'ulimit -n "$0"; exec "$@"', str(files)] if files else []
    server = subprocess.Popen(
        [*limited, sys.executable, "-m", "convbench", "serve", *arguments, "--port", "0", "--threads", "1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{paths}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    lines = [] if log is None else log
    drained = threading.Thread(target=lines.extend, args=[server.stderr])  # a full pipe would stop the server
    try:
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r" at (http://\S+);", line):
                break
        else:
            raise AssertionError("".join(lines))
        drained.start()
        until(lambda: request(found[1], "GET", "/v2/health/ready")[0] == 200)
        yield server, found[1]
    finally:
        server.kill()
        server.wait()
        if drained.ident:
            drained.join()
        server.stderr.close()


@contextmanager
def in_thread(server: Any) -> Iterator[str]:
    """A server of this process, which a test can look into, and its address."""
    # With the protocol named: only then asyncio turns Nagle's algorithm off.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def connect(address: str, **options: Any) -> socket.socket:
    """A connection to a server, for what no client library would send."""
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=LONGEST_S, **options)


def post(body: bytes, headers: str = "", path: str = INFER) -> bytes:
    """A POST as it goes over the wire."""
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def right(address: str) -> int:
    """The status of a right request."""
    return request(address, "POST", INFER, json.dumps(content(inputs(1, 8))).encode())[0]


def alive(address: str) -> bool:
    return request(address, "GET", "/v2/health/live")[0] == 200


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection; 0 where the server closed it without one."""
    try:
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()
    except (http.client.RemoteDisconnected, ConnectionError):
        return 0, b""


def metrics(address: str) -> dict[str, float]:
    """What /metrics says, by name and labels."""
    _, text = request(address, "GET", "/metrics")
    lines = (line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def peak_bytes(process: int) -> int:
    """The most memory that a process has had."""
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return 1024 * int(kib)


def request(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and JSON, or bytes, of one request on a connection of its own."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LONGEST_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    is_json = response.headers["content-type"] == "application/json"
    return response.status, json.loads(content) if is_json else content


def inputs(images: int, side: int, seed: int = 0, channels: int = 4) -> dict[str, Array]:
    """x, t and y of a network with ten classes."""
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((images, channels, side, side)).astype("float32"),
        "t": random.integers(0, 1000, images).astype("float32"),
        "y": random.integers(0, 11, images),
    }


def content(given: dict[str, Array]) -> dict[str, Any]:
    """An inference request in JSON alone."""
    return {
        "inputs": [
            {"name": name, "shape": list(v.shape), "datatype": DATATYPES[str(v.dtype)], "data": v.ravel().tolist()}
            for name, v in given.items()
        ]
    }


def binary(given: dict[str, Array]) -> tuple[bytes, bytes]:
    """An inference request whose tensors follow its JSON: the JSON, and their bytes."""
    entries = content(given)["inputs"]
    for entry, value in zip(entries, given.values(), strict=True):
        del entry["data"]
        entry["parameters"] = {"binary_data_size": value.nbytes}
    return json.dumps({"inputs": entries}).encode(), b"".join(value.tobytes() for value in given.values())


def output(answer: Any) -> Array:
    """The tensor in a JSON answer."""
    (found,) = answer["outputs"]
    return np.array(found["data"], "float32").reshape(found["shape"])

"""A real server process on loopback, and requests to it."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
Array = NDArray[Any]
DATATYPES = {"float32": "FP32", "int64": "INT64"}


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``convbench serve`` on a free port, and its address."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    server = subprocess.Popen(
        [sys.executable, "-m", "convbench", "serve", *arguments, "--port", "0", "--threads", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r" at (http://\S+);", line):
                break
        else:
            raise AssertionError("".join(lines))
        until = time.monotonic() + 30
        while request(found[1], "GET", "/v2/health/ready")[0] != 200:
            assert time.monotonic() < until
        yield server, found[1]
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def request(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and JSON, or bytes, of one request on a connection of its own."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
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


def output(answer: Any) -> Array:
    """The tensor in a JSON answer."""
    (found,) = answer["outputs"]
    return np.array(found["data"], "float32").reshape(found["shape"])

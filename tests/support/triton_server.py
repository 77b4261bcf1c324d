"""A real tritonserver, the one that nvidia-pytriton carries; `make serving` installs it into .venv-triton.

CONVBENCH_TRITON names another environment. It needs the system's libpython of its version.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("CONVBENCH_TRITON", ROOT / ".venv-triton")).absolute()


def backends(into: Path) -> Path:
    """Triton's Python backend with the stub for the environment's Python, in the new folder ``into``."""
    (site,) = HOME.glob("lib/python3.*/site-packages")
    version = site.parent.name.removeprefix("python")
    triton = site / "pytriton" / "tritonserver"
    shutil.copytree(triton / "backends" / "python", into / "python")
    shutil.copy(triton / "python_backend_stubs" / version / "triton_python_backend_stub", into / "python")
    return into


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(models: Path, backends: Path, log: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    (site,) = HOME.glob("lib/python3.*/site-packages")
    ways = zip(("http", "grpc", "metrics"), ports, strict=True)
    with log.open("wb") as said:
        return subprocess.Popen(
            [
                site / "pytriton" / "tritonserver" / "bin" / "tritonserver",
                f"--model-repository={models}",
                f"--backend-directory={backends}",
                "--allow-gpu-metrics=false",
                "--model-control-mode=none",
                *(f"--{way}-{what}={value}" for way, port in ways for what, value in (("port", port),)),
                "--http-address=127.0.0.1",
                "--grpc-address=127.0.0.1",
                "--metrics-address=127.0.0.1",
            ],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(site.parent / "site-packages" / "nvidia_pytriton.libs"),
                "PYTHONPATH": str(site),
                "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}",
                "OMP_NUM_THREADS": "1",
            },
        )


@contextmanager
def running(models: Path, backends: Path, log: Path) -> Iterator[list[int]]:
    """Ports (HTTP, gRPC, metrics) of a server that is ready; its exit status has to be 0 at the end."""
    ports = free_ports(3)
    server = start(models, backends, log, ports)
    try:
        until = time.monotonic() + 60
        while True:
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v2/health/ready", timeout=5).status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield ports
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()

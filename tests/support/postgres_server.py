"""A Postgres of its own for a test: its folder, its port, stopped at the end."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import waiting

UNPRIVILEGED = "postgres"  # as root, which Postgres refuses to run as


def program(name: str) -> str | None:
    """Path of one of Postgres' programs; None if there is none."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))  # of Debian: not on PATH
    return str(packaged[-1]) if packaged else shutil.which(name)


MISSING = None if program("initdb") and program("postgres") else "no postgres: apt-get install postgresql"


@dataclass
class Server:
    """A server that can be killed and started again on the same data."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def address(self) -> str:
        return f"postgresql://bench@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "fsync": "off"}
        settings |= {"unix_socket_directories": self.folder, "shared_buffers": "16MB"}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [*_as_other(), str(program("postgres")), "-D", str(self.folder / "data"), *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        waiting.until(self._answers)

    def _answers(self) -> bool:
        import psycopg

        assert self.process and self.process.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self.address, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """End it at once, with every process of its own."""
        if self.process is None:
            return
        postmaster = self.folder / "data" / "postmaster.pid"
        # Immediate shutdown of the server whose number its own folder holds; runuser's child is not ours to signal.
        os.kill(int(postmaster.read_text().split()[0]), 3)
        self.process.wait(30)
        self.process = None


def _as_other() -> list[str]:
    return ["runuser", "-u", UNPRIVILEGED, "--"] if os.geteuid() == 0 else []


@contextmanager
def running() -> Iterator[Server]:
    """A new and empty server."""
    folder = Path(tempfile.mkdtemp(prefix="convbench-postgres-"))  # a folder of pytest is closed to another user
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED)
        made = [*_as_other(), str(program("initdb")), "-D", str(folder / "data"), "-U", "bench", "--auth=trust", "-N"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Server(folder, port)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)

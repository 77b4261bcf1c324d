"""Recorder of the machine during timing: another process samples it ten times a second.

``python -m convbench.timing.telemetry.recorder`` is that process. It reads one order as a line of JSON from stdin and
appends JSON lines to stdout, which is a file: no reader is needed while it samples, and the output of a killed sampler
is kept. Every further byte on stdin makes it write down the time by its own clock. It exits when its stdin is closed or
its parent has exited. It does not load torch.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from ...schema import Second
from .cpu import Processor, Sample
from .gpu import open_gpu
from .summary import summarise

PERIOD_S = 0.1
START_S = 30.0  # longer than a slow disk and the start of NVML together
END_S = 5.0


class Recorder:
    """Context that records samples. Values that cannot be measured are None; a missing value raises no error.

    Enter it after the measured process has started to use the device; entering waits for the first sample.
    ``timed`` marks the part that ``summary`` covers; without it, the summary covers the whole time.
    """

    def __init__(self, device: str, period_s: Second = PERIOD_S) -> None:
        self.device, self.period_s = device, period_s
        self.began, self.ended = float("-inf"), float("inf")  # by time.monotonic(), which all processes share
        self.samples: list[Sample] = []  # each with its time "at"
        self.marks: list[Second] = []  # times at which the sampler was told of the start or the end of a timed part
        self.facts: dict[str, Any] = {}  # about the GPU: driver, MIG, ECC, persistence, Confidential Computing
        self.reason = ""  # why some or all values are missing
        self._file: IO[bytes] | None = None
        self._sampler: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Recorder":
        order = {"device": self.device, "pid": os.getpid(), "period_s": self.period_s}
        if self.device == "cuda":
            order["gpu"] = _current_gpu()
        try:
            self._file = tempfile.TemporaryFile()
            self._sampler = self._start(order)
        except OSError as error:
            self.reason = f"the sampler did not start: {error}"
        return self

    def __exit__(self, *error: object) -> None:
        sampler, self._sampler = self._sampler, None
        if sampler and sampler.stdin:
            with suppress(OSError):
                sampler.stdin.close()
            self._wait_for(sampler)
        self._load()
        if self._file:
            self._file.close()
            self._file = None

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Mark the timed part; the last of several counts. Costs two clock readings and two bytes to the sampler."""
        self._mark()
        self.began, self.ended = time.monotonic(), float("inf")
        try:
            yield
        finally:
            self.ended = time.monotonic()
            self._mark()

    def outside(self) -> tuple[Second, Second] | None:
        """The length of the timed part by the clock of the sampler, which is another process, and its longest silence.

        None if it did not answer.
        """
        self._load()
        if not self.marks or len(self.marks) % 2:
            return None
        began, ended = self.marks[-2:]
        times = [began, *sorted(at for each in self.samples if (at := each["at"]) and began < at < ended), ended]
        return ended - began, max(later - earlier for earlier, later in pairwise(times))

    def _mark(self) -> None:
        if self._sampler and self._sampler.stdin:
            with suppress(OSError):  # it has exited, and outside is not known
                self._sampler.stdin.write(b".")
                self._sampler.stdin.flush()

    def summary(self) -> dict[str, float | None]:
        """Summarise the timed part in base units; summary.py defines the keys."""
        self._load()
        return summarise(self.samples, self.device, self.began, self.ended)

    def series(self, name: str) -> list[tuple[Second, float | None]]:
        """List one reading over the whole time, with seconds since the timed part began (or since the first sample)."""
        self._load()
        start = self.began if self.began > float("-inf") else self.samples[0]["at"] if self.samples else 0.0
        return [(sample["at"] - (start or 0.0), sample.get(name)) for sample in self.samples if sample["at"]]

    def _start(self, order: dict[str, Any]) -> "subprocess.Popen[bytes]":
        home = str(Path(__file__).parents[3])  # works for an installed package and a bare checkout
        sampler = subprocess.Popen(
            [sys.executable, "-m", "convbench.timing.telemetry.recorder"],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))},
        )
        assert sampler.stdin
        with suppress(OSError):  # the sampler exited at once; reported below
            sampler.stdin.write(json.dumps(order).encode() + b"\n")
            sampler.stdin.flush()
        latest = time.monotonic() + START_S
        while sampler.poll() is None and not self.samples and time.monotonic() < latest:
            time.sleep(0.005)
            self._load()
        if sampler.poll() is None and not self.samples:
            self.reason = f"the sampler took no sample within {START_S:.0f} s"
        return sampler

    def _wait_for(self, sampler: "subprocess.Popen[bytes]") -> None:
        try:
            code = sampler.wait(END_S)
        except subprocess.TimeoutExpired:  # stuck in a driver, perhaps past killing
            sampler.kill()
            with suppress(subprocess.TimeoutExpired):
                sampler.wait(END_S)
            code = -signal.SIGKILL
        if code and not self.reason:
            self.reason = f"the sampler exited early with code {code}"

    def _load(self) -> None:
        """Read the output so far; skips a line that was cut off by a kill or a full disk."""
        if not self._file:
            return
        size = os.fstat(self._file.fileno()).st_size
        messages: list[dict[str, Any]] = []
        for line in os.pread(self._file.fileno(), size, 0).split(b"\n"):
            with suppress(ValueError):
                messages.append(json.loads(line))
        self.samples = [message["sample"] for message in messages if "sample" in message]
        self.marks = [message["mark"] for message in messages if "mark" in message]
        for message in messages:
            self.facts = message.get("facts", self.facts)
            self.reason = message.get("reason", self.reason)


def _current_gpu() -> list[str]:
    """Names of torch's current device for NVML, as CUDA itself sees it, independent of CUDA_VISIBLE_DEVICES."""
    import torch

    try:
        torch.cuda.synchronize()  # registers the process with the driver
        facts: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    except (RuntimeError, AssertionError):  # no CUDA, or a faulty GPU: the measurement will report it
        return []
    uuid = str(getattr(facts, "uuid", ""))
    names = [f"GPU-{uuid}", f"MIG-{uuid}"] if uuid else []
    with suppress(AttributeError):  # torch 2.10 or newer
        names.append(f"{facts.pci_domain_id:08x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0")
    return names


def main() -> None:
    """Read one order and sample until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    order = json.loads(_line_of_stdin())
    stopped = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stopped,), daemon=True).start()
    try:
        _sample(order, stopped)
    except Exception as error:
        _send(reason=f"the sampler failed: {type(error).__name__}: {error}")
        sys.exit(1)


def _sample(order: dict[str, Any], stopped: threading.Event) -> None:
    processor, gpu = Processor(order["pid"]), None
    if order["device"] == "cuda":
        gpu, reason = open_gpu(order["gpu"], order["pid"])
        _send(facts=gpu.facts()) if gpu else _send(reason=reason)
    due = time.monotonic()
    while True:
        at = time.monotonic()
        _send(sample={"at": at, **processor.read(), **(gpu.read() if gpu else {})})
        if stopped.is_set() or os.getppid() != order["pid"]:
            return
        due = max(due + order["period_s"], time.monotonic())  # after a late sample, the next one is not earlier
        stopped.wait(due - time.monotonic())


def _line_of_stdin() -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _wait_for_end(stopped: threading.Event) -> None:
    while os.read(0, 1):  # empty when the other end is closed; sys.stdin would hold its lock at exit
        _send(mark=time.monotonic())
    stopped.set()


def _send(**message: Any) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()

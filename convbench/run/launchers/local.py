"""Jobs on this machine: a process each, one a GPU or a group of cores. They outlive a driver that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ...files import read_json
from .cores import Slot, core_slots, gpu_slots
from .job import NODE, JobState, Order

PROCESS = re.compile(r"([0-9]{1,9}):([0-9.]{1,40}):([0-9]{1,5})")


class Local:
    """Processes of this machine. A handle is the number of a process, when it was created, and its slot."""

    name = "local"
    poll_s = 0.2
    elsewhere = False

    def __init__(self, folder: Path, cores: int, gpu: bool, program: str = NODE) -> None:
        """Divide this machine into slots. Raises UsageError where jobs would share cores, or without a GPU."""
        self.folder, self.program = folder, program
        self.slots: list[Slot] = gpu_slots() if gpu else core_slots(max(1, cores))
        self.busy: dict[int, str] = {}  # slot -> handle
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def free(self) -> int:
        """Count the slots without a job."""
        for slot, handle in list(self.busy.items()):
            if self._process(handle) is None:
                del self.busy[slot]
        return len(self.slots) - len(self.busy)

    def submit(self, batch: str, orders: Sequence[Order]) -> list[str]:
        """Start a process for each order in a free slot."""
        return [self._start(order) for order in orders]

    def _start(self, order: Order) -> str:
        number = next(n for n in range(len(self.slots)) if n not in self.busy)
        slot = self.slots[number]
        path = self.folder / f"{order.name}.order.json"
        path.write_text(
            json.dumps({**order.content, "launcher": self.name, "job": order.name, "cpus": slot.cpus, "gpu": slot.gpu})
        )
        chosen = {"CUDA_VISIBLE_DEVICES": slot.gpu} if slot.gpu else {}
        with (self.folder / f"{order.name}.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", self.program, str(path), str(self.folder / f"{order.name}.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths(), **chosen},
                start_new_session=True,  # Ctrl-C and the end of the driver's terminal are not for it
            )
        self.children[child.pid] = child
        handle = f"{child.pid}:{psutil.Process(child.pid).create_time()}:{number}"
        self.busy[number] = handle
        return handle

    def find(self, batch: str, jobs: Sequence[str]) -> dict[str, str]:
        """Look for the processes by the names of their orders, which are on their command lines."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            for word in process.info["cmdline"] or []:
                if (name := Path(word).name.removesuffix(".order.json")) in jobs and name != Path(word).name:
                    found[name] = f"{process.pid}:{process.create_time()}:{self._slot_of(name)}"
        return found

    def _slot_of(self, job: str) -> int:
        """The slot that a job was started in, by the cores of its order."""
        cpus = read_json(self.folder / f"{job}.order.json")["cpus"]
        return next((n for n, slot in enumerate(self.slots) if list(slot.cpus) == cpus), 0)

    def poll(self, handles: Mapping[str, str]) -> dict[str, JobState]:
        """Tell the processes that run from those that have ended."""
        found = {}
        for job, handle in handles.items():
            if self._process(handle) is None:
                found[job] = JobState("ended", reason=last_line(self.folder / f"{job}.log"))
            else:
                found[job] = JobState("running")
                self.busy[int(handle.split(":")[2])] = handle  # of a driver that was killed
        return found

    def cancel(self, handles: Mapping[str, str]) -> None:
        """Kill each process and those that it started; its worker ends with it."""
        for handle in handles.values():
            if process := self._process(handle):
                with suppress(ProcessLookupError, psutil.Error):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)

    def close(self, done: bool) -> None:
        """Forget the children."""
        for child in self.children.values():
            child.poll()

    def _process(self, handle: str) -> psutil.Process | None:
        """The process of a handle while it runs, never a later one with its number."""
        found = PROCESS.fullmatch(handle)
        if found is None:  # of a damaged state, or a job that was never started
            return None
        number, created = found[1], found[2]
        if child := self.children.get(int(number)):
            child.poll()  # so that it does not stay as a zombie
        with suppress(psutil.Error):
            process = psutil.Process(int(number))
            if process.create_time() == float(created) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def paths() -> str:
    """PYTHONPATH with which a job finds this convbench."""
    home = str(Path(__file__).parents[3])
    return os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))


def last_line(log: Path, most: int = 200) -> str:
    """The last line that a job wrote, for a message."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:most] if lines else ""
    return ""

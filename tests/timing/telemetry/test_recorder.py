"""The real sampler process on this machine: it samples during a measurement and exits with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from waiting import until

from convbench.checks.machine import check_contention
from convbench.timing.telemetry import recorder as telemetry
from convbench.timing.telemetry.recorder import Recorder

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def switches() -> int:
    """How often another process was given the core of this one."""
    return int(psutil.Process().num_ctx_switches().involuntary)


def sampled(recorder: Recorder, times: int) -> None:
    """Work until so many samples have been taken, however long that takes here."""

    def enough() -> bool:
        spin(0.05)
        return (recorder.summary()["samples"] or 0) >= times

    until(enough)


def pid_of(recorder: Recorder) -> int:
    assert recorder._sampler
    return recorder._sampler.pid


def test_a_sample_is_taken_every_tenth_of_a_second_and_no_process_is_left() -> None:
    with Recorder("cpu") as recorder:
        pid = pid_of(recorder)
        assert alive(pid)
        with recorder.timed():
            wall, own = time.monotonic(), time.process_time()
            sampled(recorder, 20)
            wall, own = time.monotonic() - wall, time.process_time() - own
    assert not alive(pid)
    assert recorder.reason == ""
    summary = recorder.summary()
    assert 20 <= summary["samples"] <= wall / 0.1 + 2  # never more; fewer where this machine is busy
    assert summary["cores_of_this"] == pytest.approx(own / wall, rel=0.3, abs=0.05)
    assert summary["cores_of_sampler"] < 0.1
    stamps = [at for at, _ in recorder.series("own_s")]
    assert stamps == sorted(stamps) and stamps[0] < 0 < stamps[-1]  # the first before the timed part began


def test_a_summary_is_available_while_recording() -> None:
    with Recorder("cpu", period_s=0.02) as recorder:
        sampled(recorder, 2)
        first = recorder.summary()["samples"]
        sampled(recorder, first + 1)
        assert 1 < first < recorder.summary()["samples"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux to share a core on purpose")
def test_a_shared_core_is_detected() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    program = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    rival = subprocess.Popen([sys.executable, "-c", program])
    try:
        os.sched_setaffinity(0, [core])
        with Recorder("cpu") as recorder, recorder.timed():
            earlier = switches()
            sampled(recorder, 10)
            until(lambda: spin(0.05) or switches() >= earlier + 10)  # type: ignore[func-returns-value]
    finally:
        os.sched_setaffinity(0, before)
        rival.kill()
        rival.wait()
    summary = recorder.summary()
    assert summary["involuntary_switches"] >= 5
    assert summary["cores_waited"] > 0.1
    found = check_contention(summary)
    assert found and found.code == "CONT" and "waited for a core" in found.text and found.severity == "SUSPECT"


def test_samples_of_a_killed_sampler_are_kept_with_a_reason() -> None:
    with Recorder("cpu", period_s=0.02) as recorder:
        sampled(recorder, 2)
        os.kill(pid_of(recorder), signal.SIGKILL)
    assert recorder.reason == "the sampler exited early with code -9"
    assert recorder.summary()["samples"] > 1


def test_a_torn_line_is_skipped() -> None:
    with Recorder("cpu", period_s=0.02) as recorder:
        sampled(recorder, 2)
        os.kill(pid_of(recorder), signal.SIGKILL)
        until(lambda: not alive(pid_of(recorder)))
        assert recorder._file
        os.write(recorder._file.fileno(), b'{"sample": {"at": 12')
    assert len(recorder.samples) > 1 and recorder.samples[-1]["at"] != 12


def test_a_hanging_sampler_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "END_S", 0.2)
    with Recorder("cpu") as recorder:
        pid = pid_of(recorder)
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid) and recorder.reason


def test_without_a_sampler_only_its_values_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Recorder("cpu") as recorder, recorder.timed():
        pass
    assert recorder.reason.startswith("the sampler did not start")
    assert recorder.outside() is None
    assert recorder.summary()["cores_of_others"] is None


def test_a_failing_sampler_states_its_reason() -> None:
    with Recorder("cpu", period_s=1e30) as recorder:  # longer than any wait can be
        until(lambda: not alive(pid_of(recorder)))
    assert recorder.reason.startswith("the sampler failed: ")


PARENT = """
import os, sys, time
from convbench.timing.telemetry.recorder import Recorder
recorder = Recorder("cpu").__enter__()
if sys.argv[1] == "fork" and os.fork() == 0:  # holds the sampler's stdin open, as a pool of compile workers would
    os.setsid()
    time.sleep(3600)
    os._exit(0)
print(recorder._sampler.pid, "torch" in sys.modules, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("kind", ["plain", "fork"])
def test_the_sampler_ends_with_its_parent(kind: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, kind], env=ENV, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, loads_torch = parent.stdout.readline().split()
    children = psutil.Process(parent.pid).children()
    assert alive(int(pid)) and loads_torch == "False"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(int(pid)))
    for child in children:
        if child.is_running():
            child.kill()


def test_the_length_of_the_timed_part_is_that_of_another_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of this process stand still meanwhile; the last of several parts counts."""
    real = time.monotonic
    with Recorder("cpu") as recorder:
        assert recorder.outside() is None
        with recorder.timed():
            pass
        monkeypatch.setattr(time, "monotonic", lambda: 0.0)
        monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
        start = real()
        with recorder.timed():
            while real() < start + 0.3:
                pass
        monkeypatch.undo()
        until(lambda: recorder.outside() and len(recorder.marks) == 4)
    found = recorder.outside()
    assert found and 0 < found[1] <= found[0]  # how much, the load of this machine decides
    assert recorder.marks == sorted(recorder.marks)


def test_a_silence_is_told_within_the_timed_part_alone() -> None:
    recorder = Recorder("cpu")
    assert recorder.outside() is None
    recorder.samples = [{"at": at} for at in (0.0, 1.0, 1.1, 1.5, 1.6, 9.0)]
    recorder.marks = [0.5]
    assert recorder.outside() is None
    recorder.marks = [0.1, 0.2, 1.05, 1.65]
    assert recorder.outside() == pytest.approx((0.6, 0.4))
    recorder.marks = [1.2, 1.4]  # silent throughout
    assert recorder.outside() == pytest.approx((0.2, 0.2))

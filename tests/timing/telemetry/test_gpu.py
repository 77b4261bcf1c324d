"""Readings of a GPU through a stand-in for NVML.

The stand-in is an object with the function names of NVML and invented answers: it tests how answers are processed, not
whether a driver returns them. The tests marked gpu use a real one.
"""

import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from waiting import until

from convbench.checks.machine import check_confidential_computing, check_machine
from convbench.timing.telemetry import gpu as telemetry_gpu
from convbench.timing.telemetry import recorder as telemetry
from convbench.timing.telemetry.gpu import Gpu, find_gpu, other_processes
from convbench.timing.telemetry.recorder import Recorder

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


class NVMLError(Exception):
    """Stand-in for the class of that name in pynvml."""


NOT_SUPPORTED = NVMLError("Not Supported")
ANSWERS = {
    "nvmlDeviceGetHandleByUUID": lambda name: f"handle of {name}",
    "nvmlDeviceIsMigDeviceHandle": 0,
    "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1980, 2: 3201}[clock],  # MHz
    "nvmlDeviceGetPowerUsage": 700_500,  # mW
    "nvmlDeviceGetTemperatureV": 61,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=40),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=141 << 30, used=20 << 30),
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetTotalEnergyConsumption": 123_456_789,  # mJ
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=os.getpid())],
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetUUID": "GPU-1",
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlSystemGetDriverVersion": "580.159.04",
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlSystemGetConfComputeState": SimpleNamespace(environment=0, ccFeature=0, devToolsMode=0),
}


class StandIn:
    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, **changed: Any) -> None:
        self.answers = {**ANSWERS, **changed}

    def __getattr__(self, name: str) -> Any:
        try:
            answer = self.answers[name]
        except KeyError:
            raise AttributeError(name) from None

        def function(*arguments: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return function


def gpu(**changed: Any) -> Gpu:
    return Gpu(StandIn(**changed), "handle", os.getpid())


def test_readings_are_in_base_units() -> None:
    assert gpu().read() == {
        "sm_clock_hz": 1980e6,
        "memory_clock_hz": 3201e6,
        "power_w": pytest.approx(700.5),
        "temperature_c": 61,
        "gpu_utilisation": 0.97,
        "throttle_bits": 4,
        "other_processes": 0,
        "used_bytes": 20 << 30,
        "gpu_energy_j": pytest.approx(123_456.789),
    }


def test_facts_of_the_card() -> None:
    facts = gpu().facts()
    assert facts["mig"] is False and facts["ecc"] is True and facts["persistence"] is True
    assert facts["confidential_computing"] is False and facts["pids"] == "own"
    assert facts["power_limit_w"] == 700 and facts["max_sm_clock_hz"] == 1980e6
    on = gpu(nvmlSystemGetConfComputeState=SimpleNamespace(ccFeature=1)).facts()
    assert check_confidential_computing(facts) is None and check_confidential_computing(on)


def test_unsupported_values_are_none() -> None:
    silent = gpu(**{name: NOT_SUPPORTED for name in ANSWERS})
    assert set(silent.read().values()) == {None}
    facts = silent.facts()
    assert facts.pop("pids") == "hidden" and facts.pop("is_mig_instance") is False
    assert set(facts.values()) == {None}


def test_older_function_names_are_tried() -> None:
    older = StandIn(nvmlDeviceGetCurrentClocksThrottleReasons=0x20, nvmlDeviceGetTemperature=55)
    del older.answers["nvmlDeviceGetCurrentClocksEventReasons"], older.answers["nvmlDeviceGetTemperatureV"]
    read = Gpu(older, "handle", 1).read()
    assert read["throttle_bits"] == 0x20 and read["temperature_c"] == 55


def test_a_mig_instance_reads_clocks_and_power_of_its_card() -> None:
    asked: list[str] = []
    parts = {name: lambda handle, *rest, name=name: asked.append((name, handle)) for name in ANSWERS if "Get" in name}
    parts |= {"nvmlDeviceIsMigDeviceHandle": 1, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda handle: "card"}
    Gpu(StandIn(**parts), "instance", 1).read()
    by_handle = {handle: {name for name, each in asked if each == handle} for handle in ("card", "instance")}
    assert by_handle["instance"] == {"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses"}
    assert {"nvmlDeviceGetClockInfo", "nvmlDeviceGetPowerUsage"} <= by_handle["card"]


def only(known: str) -> Any:
    def look_up(name: str) -> str:
        if name != known:
            raise NVMLError("Not Found")
        return f"handle of {name}"

    return look_up


@pytest.mark.parametrize("known", ["GPU-a", "MIG-a"])
def test_a_gpu_is_found_by_its_cuda_name(known: str) -> None:
    found, reason = find_gpu(StandIn(nvmlDeviceGetHandleByUUID=only(known)), ["GPU-a", "MIG-a"], 1)
    assert found and found.handle == f"handle of {known}" and reason == ""


def test_a_gpu_is_found_by_its_pci_address() -> None:
    stand_in = StandIn(nvmlDeviceGetHandleByUUID=NVMLError("?"), nvmlDeviceGetHandleByPciBusId=only("00000000:3b:00.0"))
    found, _ = find_gpu(stand_in, ["GPU-a", "00000000:3b:00.0"], 1)
    assert found and found.handle == "handle of 00000000:3b:00.0"


@pytest.mark.parametrize(("count", "handle"), [(1, "the only one"), (2, None)])
def test_no_guess_is_made_among_several_unknown_gpus(count: int, handle: str | None) -> None:
    stand_in = StandIn(
        nvmlDeviceGetHandleByUUID=NVMLError("Not Found"),
        nvmlDeviceGetCount=count,
        nvmlDeviceGetHandleByIndex=lambda index: "the only one",
    )
    found, reason = find_gpu(stand_in, ["GPU-a"], 1)
    assert (found.handle if found else None) == handle
    assert ("GPU-a" in reason) == (handle is None)


@pytest.mark.parametrize(
    ("pids", "expected"),
    [
        ([], None),  # hidden: our process is not listed, so others might not be either
        ([os.getpid()], 0),
        ([os.getpid(), 1], 1),
        ([2**30], 0),  # pid of this process on the host
        ([2**30, 2**30 + 1], 1),
    ],
)
def test_other_processes_on_the_gpu(pids: list[int], expected: int | None) -> None:
    assert other_processes(pids, os.getpid()) == expected


def test_a_thread_id_of_our_process_is_ours() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id and other_processes([thread.native_id], os.getpid()) == 0
        assert other_processes([thread.native_id, 2**30], os.getpid()) == 1
    finally:
        done.set()
        thread.join()


def test_pynvml_has_every_name_in_use() -> None:
    pynvml = pytest.importorskip("pynvml")
    source = Path(telemetry_gpu.__file__).read_text()
    asked = set(re.findall(r"\bnvml[A-Z]\w+|NVML_(?:CLOCK_SM|CLOCK_MEM|TEMPERATURE_GPU)", source))
    assert len(asked) > 20
    assert {name for name in asked if not hasattr(pynvml, name)} == set()
    for name, bit in (("GpuIdle", 1), ("ApplicationsClocksSetting", 2), ("SwPowerCap", 4), ("HwThermalSlowdown", 0x40)):
        assert getattr(pynvml, f"nvmlClocksEventReason{name}") == bit and bit in telemetry_gpu.REASONS


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_driver_only_gpu_values_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_current_gpu", lambda: ["GPU-0"])
    with Recorder("cuda", period_s=0.02) as recorder, recorder.timed():
        until(lambda: (recorder.summary()["samples"] or 0) > 1)
    assert recorder.reason.startswith(("pynvml is not installed", "NVML cannot be initialised"))
    summary = recorder.summary()
    assert summary["sm_clock_hz"] is None and summary["power_w"] is None and summary["other_processes"] is None
    assert summary["samples"] > 1 and summary["cores_of_this"] is not None
    assert check_machine(summary, recorder.facts) == []


def test_torch_names_its_device_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(uuid="8f3a", pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: {1: facts}[index])
    assert telemetry._current_gpu() == ["GPU-8f3a", "MIG-8f3a", "00000000:3b:00.0"]


# A real GPU

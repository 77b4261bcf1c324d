"""NVML's answers about a real NVIDIA GPU."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convbench.checks.machine import check_exclusive
from convbench.timing.telemetry.recorder import Recorder

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_readings_of_a_busy_gpu() -> None:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    with Recorder("cuda") as recorder:
        for _ in range(50):
            a @ a
        torch.cuda.synchronize()
        with recorder.timed():
            end = time.monotonic() + 11
            while time.monotonic() < end:
                for _ in range(20):
                    a @ a
                torch.cuda.synchronize()
    summary = recorder.summary()
    print(recorder.facts, summary, recorder.reason)
    assert recorder.reason == ""
    assert recorder.facts["uuid"].endswith(str(torch.cuda.get_device_properties(0).uuid))
    assert summary["samples"] > 60
    assert 0 < summary["sm_clock_hz_min"] <= summary["sm_clock_hz"] <= recorder.facts["max_sm_clock_hz"]
    assert summary["gpu_utilisation"] > 0.5
    assert summary["used_bytes"] >= a.nbytes
    mean_w = summary["gpu_energy_j"] / summary["sampled_s"]
    assert mean_w == pytest.approx(summary["power_w"], rel=0.25)
    assert summary["other_processes"] in (0, None)


def test_another_process_on_a_gpu_is_detected() -> None:
    program = "import torch, sys; torch.zeros(1, device='cuda'); print('ready', flush=True); sys.stdin.read()"
    rival = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert rival.stdout and rival.stdout.readline() == "ready\n"
        with Recorder("cuda") as recorder, recorder.timed():
            time.sleep(1)
    finally:
        rival.communicate()
    if recorder.facts["pids"] == "hidden":
        pytest.skip("this system hides the processes of a GPU")
    found = check_exclusive(recorder.summary())
    assert found and found.code == "EXCL"


def test_cuda_visible_devices_may_name_a_uuid() -> None:
    uuid = str(torch.cuda.get_device_properties(torch.cuda.device_count() - 1).uuid)
    program = (
        "from convbench.timing.telemetry.recorder import Recorder\n"
        "with Recorder('cuda') as recorder: pass\n"
        "print(recorder.facts['uuid'])"
    )
    env = {**ENV, "CUDA_VISIBLE_DEVICES": f"GPU-{uuid}"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"GPU-{uuid}"

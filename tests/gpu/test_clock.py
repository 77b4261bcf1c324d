"""The clock of a real NVIDIA GPU."""

from statistics import median

import torch

from convbench.timing.clock import CudaClock


def test_events_and_the_host_clock_agree_on_a_gpu() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    clock = CudaClock()
    clock.block(lambda: a @ a, 5)
    blocks = [clock.block(lambda: a @ a, 50) for _ in range(5)]
    for block in blocks:
        assert 0 < block.total_s <= block.wall_s
        assert block.step_s == block.total_s / 50
    assert median(block.wall_s / block.total_s for block in blocks) < 1.02
    assert clock.single(lambda: a @ a) > 0

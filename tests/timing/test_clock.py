"""Blocks, their order and the stopping rules, with simulated step times."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from simulated import QUICK, Simulated

from convbench.timing.clock import (
    LATENCY_S,
    RULES,
    Block,
    CpuClock,
    CudaClock,
    Lane,
    Rotation,
    StoppedClock,
    clock_of,
    single_steps,
    time_lanes,
)

STEADY = replace(QUICK, warmup_s=0.05, min_s=0.3, cap_s=2.0, min_blocks=10)


def lanes(count: int) -> list[Lane]:
    return [Lane(run=lambda number=number: number) for number in range(count)]  # type: ignore[misc]


def test_a_block_of_the_cpu_clock_adds_up() -> None:
    """The clock advances by one second at each reading."""

    class Counting(CpuClock):
        seconds = 0.0

        def now(self) -> float:  # type: ignore[override]
            self.seconds += 1
            return self.seconds

        second = now  # type: ignore[assignment]

    block = Counting().block(lambda: None, 4)
    # Readings: the first stamp, the second clock, four stamps, the second clock.
    assert block == Block(step_s=5 / 4, wall_s=5, total_s=5, singles=[2, 1, 1, 1])


def test_the_cpu_clock_measures_elapsed_time() -> None:
    block = CpuClock().block(lambda: time.sleep(0.002), 5)
    assert block.total_s >= 0.01
    assert block.total_s == pytest.approx(sum(block.singles), rel=1e-9)
    assert block.step_s == block.total_s / 5
    assert min(block.singles) >= 0.002


def test_a_steady_lane_stops_as_soon_as_the_rules_allow() -> None:
    """Steps of 0.01 s, blocks of 1 step, at least 10 blocks and 0.3 s: 30 blocks."""
    (lane,) = both = lanes(1)
    clock = Simulated()
    time_lanes(both, clock, STEADY)
    assert lane.steps_per_block == 1
    assert lane.block_s == [0.01] * 30
    assert len(clock.order) == 30 + 5  # warm-up blocks of one step each


@pytest.mark.parametrize(("step_s", "steps"), [(0.001, 5), (0.0012, 5), (0.005, 1), (0.0049, 2), (3.0, 1)])
def test_a_block_has_the_minimum_length(step_s: float, steps: int) -> None:
    (lane,) = both = lanes(1)
    time_lanes(both, Simulated(lambda first, steps, lane: step_s * steps), STEADY)
    assert lane.steps_per_block == steps
    assert lane.block_s == pytest.approx([step_s] * len(lane.blocks), rel=1e-12)
    assert lane.steps_per_block * step_s >= STEADY.block_s


@pytest.mark.parametrize("stalled", [{4}, {1, 2, 4}, {0, 1, 2, 3}])
def test_a_stall_in_the_warm_up_makes_no_short_blocks(stalled: set[int]) -> None:
    """Steps of 1 ms, of which some take 40: blocks of single steps would be two thousand until the cap."""
    (lane,) = both = lanes(1)

    def takes(first: int, steps: int, lane: int) -> float:
        return 0.04 if first in stalled else 0.001 * steps

    rules = replace(STEADY, warmup_s=0.001 * (5 - len(stalled)) + 0.04 * len(stalled))
    time_lanes(both, Simulated(takes), rules)
    assert lane.steps_per_block == 5 and len(lane.blocks) == 60


def test_slow_steps_get_the_minimum_number_of_blocks() -> None:
    (lane,) = both = lanes(1)
    time_lanes(both, Simulated(lambda first, steps, lane: 10.0), STEADY)
    assert len(lane.blocks) == STEADY.least_blocks == 6


def test_a_wide_interval_is_timed_up_to_the_cap() -> None:
    """Alternating steps of 5 and 15 ms: the interval spans both, the median is at most 15 ms."""
    (lane,) = both = lanes(1)
    time_lanes(both, Simulated(lambda first, steps, lane: 0.015 if first % 2 else 0.005), STEADY)
    assert lane.half_width() >= 0.3333
    assert lane.timed_s - lane.blocks[-1].total_s < STEADY.cap_s <= lane.timed_s


@pytest.mark.parametrize("count", [1, 2, 3])
def test_lanes_are_interleaved_forwards_and_backwards(count: int) -> None:
    clock = Simulated()
    time_lanes(lanes(count), clock, STEADY)
    timed = clock.order[5 * count :]
    there, back = list(range(count)), list(range(count))[::-1]
    assert timed == (there + back) * 15


def test_a_comparison_continues_until_it_is_settled_or_capped() -> None:
    asked = 0

    def settled() -> bool:
        nonlocal asked
        asked += 1
        return asked == 8

    both = lanes(2)
    time_lanes(both, Simulated(), STEADY, settled=settled)
    assert [len(lane.blocks) for lane in both] == [37, 37]
    both = lanes(2)
    time_lanes(both, Simulated(), STEADY, settled=lambda: False)
    assert [lane.timed_s for lane in both] == pytest.approx([2.0, 2.0])


def test_one_slow_lane_at_the_cap_stops_all() -> None:
    both = lanes(2)
    time_lanes(both, Simulated(lambda first, steps, lane: 0.5 if lane else 0.01), STEADY, settled=lambda: False)
    assert [len(lane.blocks) for lane in both] == [30, 30]  # as many as the fast lane needs by itself


def test_progress_is_the_share_of_the_cap() -> None:
    seen: list[float] = []
    time_lanes(lanes(2), Simulated(), STEADY, seen.append)
    assert seen == pytest.approx([0.01 * turn / 2 for turn in range(1, 31)])


def test_the_context_of_a_lane_surrounds_only_its_blocks() -> None:
    inside: list[int] = []
    seen: list[list[int]] = []

    def lane(number: int) -> Lane:
        @contextmanager
        def around() -> Iterator[None]:
            inside.append(number)
            yield
            inside.remove(number)

        return Lane(lambda: seen.append(list(inside)), around)

    time_lanes([lane(0), lane(1)], Simulated(), STEADY)
    assert seen[10:14] == [[0], [1], [1], [0]]
    assert (inside, {len(each) for each in seen}) == ([], {1})


def test_garbage_collection_is_off_only_during_timing() -> None:
    during: list[bool] = []
    time_lanes([Lane(lambda: during.append(gc.isenabled()))], Simulated(), STEADY)
    assert during == [True] * 5 + [False] * 30  # the warm-up, the blocks
    assert gc.isenabled()
    failing = Lane(lambda: [][len(during) - 35])
    with pytest.raises(IndexError):
        time_lanes([failing], Simulated(), STEADY)
    assert gc.isenabled()


@pytest.mark.parametrize("after", [0, 10])
def test_a_stopped_clock_ends_the_timing(after: int) -> None:
    """The stopping rules would never be met, and timing would not end."""
    clock = Simulated(lambda first, steps, lane: 0.01 * steps if first < after else 0.0)
    with pytest.raises(StoppedClock, match=r"^the clock did not advance during a block$"):
        time_lanes(lanes(1), clock, STEADY)
    assert clock.steps == after + 1


def test_what_looks_at_the_output_runs_after_each_timed_block_alone() -> None:
    """Inside the context of the lane, when its clock has stopped; never in the warm-up."""
    said: list[str] = []

    class Telling(Simulated):
        def block(self, run: Callable[[], object], steps: int) -> Block:
            found = super().block(run, steps)
            said.append("stop")
            return found

    @contextmanager
    def around() -> Iterator[None]:
        said.append("(")
        yield
        said.append(")")

    time_lanes([Lane(lambda: None, around, after=lambda: said.append("look"))], Telling(), STEADY)
    assert said == ["(", *["stop"] * 5, ")", *["(", "stop", "look", ")"] * 30]


def test_inputs_rotate() -> None:
    sets = [tuple(torch.full((1,), 10.0 * i + j) for j in range(3)) for i in range(3)]
    seen: list[list[float]] = []
    run = Rotation(lambda x, t, y: seen.append([v.item() for v in (x, t, y)]), sets)  # type: ignore[arg-type, func-returns-value]
    for number in (0, 1, 2, 0):
        run()
        assert run.latest == number
    assert seen == [[0, 1, 2], [10, 11, 12], [20, 21, 22], [0, 1, 2]]
    shown = Rotation(lambda x, t, y: x, sets)  # type: ignore[arg-type]
    assert shown.output is None
    shown()
    shown()
    assert shown.output is sets[1][0]


def test_the_rules_match_the_protocol() -> None:
    """docs/protocol.md: blocks of 50 and 100 ms, 20 and 15 of them, 0.5 and 2 %, 30 and 20 s."""
    cuda, cpu = RULES["cuda"], RULES["cpu"]
    assert (cuda.block_s, cuda.min_blocks, cuda.half_width, cuda.cap_s, cuda.min_s) == (0.05, 20, 0.005, 30, 3)
    assert (cpu.block_s, cpu.min_blocks, cpu.half_width, cpu.cap_s) == (0.1, 15, 0.02, 20)


class FakeDevice:
    """In place of torch.cuda: a device that works through its queue only while it is waited for, a second a step."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.seconds = 0.0
        self.said: list[str] = []

    def synchronize(self) -> None:
        self.said.append("wait")
        while self.queue:
            self.queue.pop(0)()

    def launch(self) -> None:
        """A step: queued, and over a second later once its turn comes."""
        self.said.append("step")
        self.queue.append(self.work)

    def work(self) -> None:
        self.seconds += 1.0

    def now(self) -> float:
        self.said.append("time")
        return self.seconds

    def Event(self, enable_timing: bool) -> "FakeEvent":
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.at = device, math.nan

    def record(self) -> None:
        self.device.said.append("event")
        self.device.queue.append(lambda: setattr(self, "at", self.device.seconds))

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1e3 * (end.at - self.at)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    found = FakeDevice()
    monkeypatch.setattr(torch.cuda, "synchronize", found.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", found.Event)
    monkeypatch.setattr(time, "perf_counter", found.now)
    return found


def test_a_single_step_of_the_cuda_clock_is_waited_for_before_and_after(device: FakeDevice) -> None:
    """Two earlier steps are still queued: neither is part of it, and its own work is."""
    device.launch()
    device.launch()
    device.said.clear()
    assert CudaClock().single(device.launch) == 1.0
    assert device.said == ["wait", "time", "step", "wait", "time"]


def test_a_block_of_the_cuda_clock_lies_between_two_waits_and_its_events_around_the_steps(device: FakeDevice) -> None:
    device.launch()
    device.said.clear()
    assert CudaClock().block(device.launch, 3) == Block(step_s=1.0, wall_s=3.0, total_s=3.0, singles=[])
    assert device.said == ["wait", "time", "event", "step", "step", "step", "event", "wait", "time"]


def test_waiting_on_a_gpu_is_for_all_that_is_queued(device: FakeDevice) -> None:
    device.launch()
    CudaClock().wait()
    assert (device.queue, device.seconds) == ([], 1.0)


@pytest.mark.parametrize(("step_s", "steps"), [(0.001, 100), (0.019, 100), (0.5, 4), (0.3, 7), (70.0, 1)])
def test_single_steps_are_bounded_by_number_and_by_time(step_s: float, steps: int) -> None:
    """100 steps of DiT-XL/2 in fp32 at 512 px would take 70 s."""
    found = single_steps(lambda: step_s)
    assert found == [step_s] * steps
    assert sum(found[:-1]) < LATENCY_S


@pytest.mark.parametrize(
    ("blocks", "step_s", "changed", "finished"),
    [
        (10, 0.03, {}, True),  # exactly the fewest blocks and the least time
        (9, 0.05, {}, False),
        (10, 0.029, {}, False),
        (6, 0.5, {"cap_s": 3.0}, True),  # exactly the cap
        (5, 1.0, {"cap_s": 3.0}, False),  # too few for an interval, whatever the time
        (6, 0.49, {"cap_s": 3.0}, False),
    ],
)
def test_a_lane_has_finished_exactly_at_its_limits(
    blocks: int, step_s: float, changed: dict[str, float], finished: bool
) -> None:
    rules = replace(STEADY, min_blocks=10, min_s=10 * 0.03, **changed)
    timed = [Block(step_s, step_s, step_s, [step_s])] * blocks
    lane = Lane(lambda: None, blocks=timed)
    assert lane.finished(replace(rules, min_s=sum([0.03] * 10))) == finished
    assert lane.steps_per_block == 1


def test_an_interval_exactly_as_narrow_as_asked_is_narrow_enough() -> None:
    spread = [1.0, 1.25] * 6
    lane = Lane(lambda: None, blocks=[Block(each, each, each, [each]) for each in spread])
    half = lane.half_width()
    rules = replace(STEADY, min_blocks=1, min_s=0.0, cap_s=1e9, half_width=half)
    assert lane.finished(rules)
    assert not lane.finished(replace(rules, half_width=math.nextafter(half, 0)))


def test_each_device_has_its_clock(device: FakeDevice) -> None:
    assert type(clock_of("cpu")) is CpuClock
    assert type(clock_of("cuda")) is CudaClock

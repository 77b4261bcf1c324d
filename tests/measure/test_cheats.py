"""Every way to cheat the benchmark is caught. On a made-up clock, that advances with the work a step really does."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cheats
import pytest
import torch
from cheats import CHEATS
from simulated import RATES, Unwatched
from torch import Tensor, nn

from convbench.checks import output, timing
from convbench.checks.output import Finding
from convbench.measure import forward, opening
from convbench.schema import Case, Measurement
from convbench.timing.clock import Block, CpuClock, CudaClock, Lane, Rules
from convbench.timing.compare import Comparison

IMAGE_S, CALL_S = 0.05, 0.01
RULES = Rules(block_s=0.1, warmup_s=0.1, min_s=1.5, cap_s=3.0, min_blocks=15, half_width=0.02)
HONEST = ("tiny:dic", "tiny:dico", "tiny:fcdm", "tiny:dit", "tiny:uvit")


class Machine:
    """Its time passes where a network computes, 50 ms an image, and where somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def work(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if threading.current_thread() is threading.main_thread():
            self.seconds += IMAGE_S * len(given[0])


class Clock(CpuClock):
    """The clock of that machine; calling a step takes 10 ms. ``speed`` is that of the clock."""

    def __init__(self, machine: Machine, speed: float = 1.0) -> None:
        self.machine, self.speed = machine, speed

    def now(self) -> float:  # type: ignore[override]
        return self.speed * self.machine.seconds

    second = now  # type: ignore[assignment]

    def block(self, run: Callable[[], object], steps: int) -> Block:
        def step() -> None:
            self.machine.wait(CALL_S)
            run()

        return super().block(step, steps)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine with a telemetry process whose clock nobody tampers with."""
    found, create = Machine(), opening.create

    class Watched(Unwatched):
        def __init__(self, device: str) -> None:
            super().__init__(device)
            self.timed = self.marked  # type: ignore[assignment]

        @cheats.contextmanager
        def marked(self) -> Iterator[None]:
            began = found.seconds
            yield
            self.length = found.seconds - began

        def outside(self) -> tuple[float, float]:
            return self.length, 0.1

    def watched(*which: Any) -> nn.Module:
        model = create(*which)
        model.register_forward_pre_hook(found.work)
        return model

    monkeypatch.setattr(forward, "Recorder", Watched)
    monkeypatch.setattr(opening, "calibrate", lambda device, precision: RATES)
    monkeypatch.setattr(opening, "create", watched)
    monkeypatch.setattr(cheats, "now", found.now)
    monkeypatch.setattr(cheats, "spin", found.wait)
    monkeypatch.setattr(cheats, "FOLDER", [tmp_path])
    return found


def measured(
    backend: str, machine: Machine, model: str = "tiny:dico", speed: float = 1.0, times: int = 1
) -> list[Measurement]:
    """A case, and its A/A repeat if it is timed twice."""
    cases = [Case(model, 64, 2, backend, threads=1, repeat=1 + number) for number in range(times)]
    return forward.measure(cases, RULES, clock=Clock(machine, speed))


def codes(row: Measurement) -> set[str]:
    return {part.partition(":")[0] for part in row.reason.split("; ") if part}


@pytest.mark.parametrize("model", HONEST)
def test_an_honest_backend_is_valid(model: str, machine: Machine) -> None:
    for row in measured("eager", machine, model, times=2):
        assert (row.status, row.verdict, row.reason) == ("ok", "VALID", "")
        assert row.images_per_s == pytest.approx(2 / (2 * IMAGE_S + CALL_S))


@pytest.mark.parametrize("name", sorted(set(CHEATS) - {"halves_the_clocks"}))
def test_a_cheat_is_caught(name: str, machine: Machine) -> None:
    row = measured(f"cheats:{name}", machine, times=2 if CHEATS[name] == {"AA"} else 1)[0]
    assert row.verdict in ("SUSPECT", "INVALID")
    assert codes(row) & CHEATS[name], row.reason


def test_what_persists_is_caught_in_the_next_process_too(machine: Machine) -> None:
    """Its results are all on the disk by then, but those of the inputs that are drawn anew."""
    for _ in range(2):
        row = measured("cheats:keeps_on_disk", machine)[0]
        assert (row.verdict, codes(row)) == ("INVALID", {"FRESH"})


@pytest.mark.parametrize(("speed", "found"), [(1.0, False), (0.9, False), (0.7, True), (0.5, True), (2.0, True)])
def test_a_clock_that_runs_at_another_speed_is_caught(speed: float, found: bool, machine: Machine) -> None:
    """All clocks of the process do, so that they agree. A tenth of the time that passes and 0.4 s may be missing."""
    row = measured("eager", machine, speed=speed)[0]
    assert (codes(row), row.verdict) == (({"CLK"}, "INVALID") if found else (set(), "VALID"))
    assert ("passed in another process" in row.reason) == found


def test_clocks_that_were_halved_are_put_back(machine: Machine) -> None:
    import time

    before = time.perf_counter, CpuClock.now
    model = opening.create("tiny:dico", None, "cpu", 64)
    inputs = output.input_sets(Case("tiny:dico", 64, 2))[0]
    with cheats.halves_the_clocks.open(model, Case("tiny:dico", 64, 2), inputs):
        assert time.perf_counter is not before[0] and CpuClock.now is not before[1]
        start, slow = before[0](), time.perf_counter()
        while before[0]() < start + 0.01:
            pass
        assert time.perf_counter() - slow <= 0.75 * (before[0]() - start)
    assert (time.perf_counter, CpuClock.now) == before


def test_an_output_that_vanishes_depends_on_nothing(machine: Machine) -> None:
    """A network whose work underflows has a right output, as has eager: zeros. It is not timed."""
    zeros = torch.zeros(2, 4, 2, 2)
    sets: Any = [(torch.full((2, 1), float(i)),) * 3 for i in range(4)]
    found = output.prove(lambda x, t, y: zeros, sets, zeros, "fp32", zeros).findings
    assert [each.code for each in found] == ["DEP"] * 3


# A second stream of a GPU, on a made-up device


def test_work_on_another_stream_is_caught_by_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events lie on the stream of the caller and see nothing; waiting for the device takes as long as all of it."""
    device = SimpleNamespace(seconds=0.0, other=0.0)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = device.seconds

        def elapsed_time(self, end: "Event") -> float:
            return 1e3 * (end.at - self.at)

    def synchronize() -> None:
        device.seconds, device.other = device.seconds + device.other, 0.0

    def step() -> None:
        device.seconds += 0.001
        device.other += 0.009

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr("time.perf_counter", lambda: device.seconds)
    block = CudaClock().block(step, 10)
    assert (block.total_s, block.wall_s) == pytest.approx((0.01, 0.1))
    found = timing.check_clocks([block])
    assert found == Finding("CLK", "two clocks disagree: 0.010 s and 0.100 s", severity="SUSPECT")


# Both sides of each limit


@pytest.mark.parametrize(
    ("blocks_s", "outside_s", "gap_s", "found"),
    [
        (3.0, 3.0, 0.1, False),
        (5.01, 6.0, 0.1, False),  # 0.6 + 0.2 + 0.2
        (4.99, 6.0, 0.1, True),
        (6.99, 6.0, 0.1, False),
        (7.01, 6.0, 0.1, True),
        (4.99, 6.0, 0.2, False),
    ],
)
def test_the_blocks_add_up_to_the_time_in_another_process(
    blocks_s: float, outside_s: float, gap_s: float, found: bool
) -> None:
    """CLK."""
    text = f"the timed blocks add up to {blocks_s:.3g} s, while {outside_s:.3g} s passed in another process"
    assert timing.check_outside(blocks_s, outside_s, gap_s) == (Finding("CLK", text) if found else None)


def lane(step_s: float = 0.01, steps: int = 10) -> Lane:
    return Lane(lambda: None, blocks=[Block(step_s, step_s, step_s, [])] * 6, steps_per_block=steps)


class Ratios(CpuClock):
    """The lane's own steps take 10 ms; all others those of the list after each other, as multiples of it."""

    def __init__(self, own: Callable[[], object], ratios: list[float]) -> None:
        self.own, self.ratios, self.steps = own, iter(ratios), list[int]()

    def block(self, run: Callable[[], object], steps: int) -> Block:
        for _ in range(steps):
            run()
        self.steps.append(steps)
        total = 0.01 * steps * (1.0 if run is self.own else next(self.ratios))
        return Block(total / steps, total, total, [])


@pytest.mark.parametrize(
    ("ratios", "noise", "told"),
    [
        ([1.09] * 3, 0.0, None),
        ([1.11] * 12, 0.0, "1.11"),
        ([1.11] * 12, 0.12, None),  # within the noise of the run
        ([1.13] * 12, 0.12, "1.13"),
        ([2.0, 2.0, 2.0] + [1.0] * 9, 0.0, None),  # three stalls
        ([2.0, 2.0, 2.0, 1.0] * 3, 0.0, None),  # the interval of twelve is from the third to the tenth
        ([2.0, 2.0, 2.0, 1.0] * 2 + [2.0] * 4, 0.0, "2.00"),
        ([1.0, 2.0, 1.0], 0.0, None),
    ],
)
def test_unseen_inputs_may_take_a_tenth_longer(ratios: list[float], noise: float, told: str | None) -> None:
    """FRESH."""
    own, drawn, ran = lane(), list[int](), list[int]()

    def fresh() -> Callable[[], object]:
        drawn.append(len(drawn))
        return lambda number=drawn[-1]: ran.append(number)  # type: ignore[misc]

    clock = Ratios(own.run, ratios)
    found = timing.check_fresh(own, fresh, clock, noise)
    assert found == (told and Finding("FRESH", f"inputs not seen before took {told} times as long: it keeps results"))
    assert sorted(ran) == drawn and len(set(ran)) == len(drawn) == 8 * len(clock.steps) / 2  # each is run once
    assert set(clock.steps) == {8}


@pytest.mark.parametrize(("step_s", "pairs"), [(5.0 / 6, 3), (5.01 / 6, 1)])
def test_slow_steps_have_fewer_pairs(step_s: float, pairs: int) -> None:
    own = lane(step_s, steps=1)
    clock = Ratios(own.run, [1.0] * 3)
    assert timing.check_fresh(own, lambda: lambda: None, clock) is None
    assert len(clock.steps) == 2 * pairs
    clock = Ratios(own.run, [2.0] * 12)
    assert timing.check_fresh(own, lambda: lambda: None, clock) is not None
    assert len(clock.steps) == 2 * (pairs + (9 if pairs == 3 else 3))


@pytest.mark.parametrize(
    ("first", "others", "noise", "told"),
    [
        (None, [], 0.0, None),
        (1.24, [], 0.0, None),
        (1.3, [1.24] * 9, 0.0, None),
        (1.3, [1.26] * 9, 0.0, "1.26"),
        (1.3, [1.26] * 9, 0.27, None),
        (1.3, [3.0] * 6 + [1.0] * 3, 0.0, None),
        (1.3, [3.0] * 8 + [1.0], 0.0, "3.00"),
    ],
)
def test_zeros_may_be_a_quarter_faster(
    first: float | None, others: list[float], noise: float, told: str | None
) -> None:
    """ZERO."""
    own = lane()
    clock = Ratios(own.run, [1 / ratio for ratio in others])
    found = timing.check_zeros(first, own, lambda: None, clock, noise)
    text = f"on zeros it is {told} times as fast: a short cut that inputs decide"
    assert found == (told and Finding("ZERO", text, "SUSPECT"))
    assert len(clock.steps) == 2 * len(others) * (first is not None and first > 1 + max(0.25, noise))


@pytest.mark.parametrize("word", ["same", "unclear", "faster", "slower"])
def test_a_case_timed_twice_is_not_told_apart(word: str) -> None:
    """AA."""
    found = timing.check_repeat(Comparison(0.8, 0.79, 0.81, word))
    text = "timed twice at once, the second was 0.80 times as fast: the order decides"
    assert found == (Finding("AA", text, "SUSPECT") if word in ("faster", "slower") else None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_worst_image_decides(precision: str) -> None:
    """One of 1024 images is zeros: 3 % of the batch."""
    reference = torch.ones(1024, 2, 2, 2)
    out = reference.clone()
    out[7] = 0
    assert output.relative_error(out, reference) < 0.05 < output.worst_error(out, reference) == 1.0
    assert output.worst_error(out[:3], reference) == output.worst_error(out * float("nan"), reference) == float("inf")
    sets: Any = [(torch.zeros(1024, 1),) * 3] * 2
    found = output.prove(lambda x, t, y: reference + 1, sets, reference, precision, out, ("x",)).findings
    assert found[0].code == "REF" and "relative error 1.0e+00" in found[0].text


def test_outputs_of_the_timed_part_are_those_of_the_proof() -> None:
    """SUM."""
    assert output.check_during([0.0, 4.9e-6], "fp32") is None
    text = "2 of 3 timed blocks ended without the right output"
    assert output.check_during([0.0, 5.1e-6, float("inf")], "fp32") == Finding("SUM", text)
    assert output.check_during([4.9e-2], "bf16") is None
    assert output.check_during([5.1e-2], "bf16") == Finding("SUM", "1 of 1 timed blocks ended without the right output")


@pytest.mark.parametrize("place", range(3))
def test_inputs_stay_as_they_were_drawn(place: int) -> None:
    """ALIAS."""
    case = Case("dico_s", 64, 2)
    sets = output.input_sets(case)
    assert output.check_inputs([(x.bfloat16(), t, y) for x, t, y in sets], output.input_sets(case)) is None
    sets[2][place][0] += 1
    found = output.check_inputs(sets, output.input_sets(case))
    assert found == Finding("ALIAS", f"the step changes its input {'xty'[place]}")


def test_fresh_inputs_differ_each_time() -> None:
    case = Case("dico_s", 64, 2)
    drawn = [output.fresh_inputs(case) for _ in range(3)]
    known = output.input_sets(case)[0]
    for place in (0, 1):
        values = [each[place] for each in (*drawn, known)]
        assert not any(torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
        assert {(v.shape, v.dtype) for v in values} == {(known[place].shape, known[place].dtype)}

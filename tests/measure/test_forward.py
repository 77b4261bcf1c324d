"""measure() in this process, on small models: the numbers agree with each other, and every fault gets its code.

Most tests run on a made-up machine, with made-up rates and a clock whose steps take made-up times; the model still
computes. One test a code of docs/protocol.md; the backends with the faults are in faulty.py.
"""

import copy
import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import pytest
import tiny
import torch
from contract import THROUGHPUT_KEYS
from simulated import QUICK, RATES, Simulated, Unwatched
from tolerances import RELATIVE_L2

from convbench import catalogue
from convbench.checks import timing
from convbench.counting import Count
from convbench.errors import UsageError
from convbench.measure import forward, opening
from convbench.models.counts import count_variant
from convbench.schema import STATUSES, VERDICTS, Case, Measurement
from convbench.timing.calibration import Rates, limit
from convbench.timing.clock import Block, Clock, CpuClock
from convbench.timing.intervals import median_interval


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with known rates, that nobody else uses and that has the model at hand."""
    monkeypatch.setattr(forward, "Recorder", Unwatched)
    monkeypatch.setattr(opening, "calibrate", lambda device, precision: RATES)
    monkeypatch.setattr(opening, "create", lambda *which: copy.deepcopy(made(*which)))
    monkeypatch.setattr(opening, "count_variant", lambda variant, res: counted(variant.id, res))


made = functools.cache(opening.create)
MODEL = "tiny:dico"
QUICKLY = "faulty:knows_the_answers"  # steps that take no real time, where only made-up times matter


@functools.cache
def counted(model: str, res: int = 64) -> Count:
    return count_variant(catalogue.find(model), res)


def case(backend: str = "eager", **other: Any) -> Case:
    known: dict[str, Any] = {"model": MODEL, "res": 64, "batch": 2, "threads": 1} | other
    return Case(backend=backend, **known)


def measured(*cases: Case, clock: Clock | None = None, rules: Any = QUICK) -> list[Measurement]:
    return forward.measure(cases, rules, clock=clock or Simulated())


def codes(result: Measurement) -> set[str]:
    """The reason codes of a verdict."""
    return {part.partition(":")[0] for part in result.reason.split("; ") if part}


def assert_not_timed(result: Measurement) -> None:
    assert (result.images_per_s, result.latency_s_p50, result.blocks, result.block_s) == (None, None, None, [])
    assert (result.limit_fraction, result.mfu, result.peak_bytes) == (None, None, None)


# Nothing wrong


@pytest.mark.parametrize("batch", [1, 2])
def test_a_real_measurement_agrees_with_itself(batch: int) -> None:
    """Real clock, real rates. No time is judged, only how the numbers follow from each other."""
    (result,) = forward.measure([case(batch=batch)], QUICK)
    assert (result.status, result.case) == ("ok", f"{MODEL}/64px/b{batch}/eager/fp32/cpu/1threads")
    assert result.verdict in VERDICTS and (result.verdict == "VALID") == (result.reason == "")
    assert sorted(THROUGHPUT_KEYS - set(asdict(result))) == []

    assert result.blocks == len(result.block_s) >= QUICK.least_blocks
    assert result.steps_per_block and result.steps_per_block >= 1
    assert min(result.block_s) > 0
    low, high = median_interval(result.block_s)
    assert result.images_per_s == pytest.approx(batch / median(result.block_s), rel=1e-12)
    assert result.images_per_s_low == pytest.approx(batch / high, rel=1e-12)
    assert result.images_per_s_high == pytest.approx(batch / low, rel=1e-12)
    assert result.images_per_s_low <= result.images_per_s <= result.images_per_s_high
    assert result.latency_s_p50 and 0 < result.latency_s_p50 <= result.steps_per_block * max(result.block_s)

    count = counted(MODEL)
    assert (result.params, result.macs, result.macs_full, result.winograd_macs) == (
        count.params,
        count.macs,
        count.macs_full,
        count.winograd_macs,
    )
    assert result.flops_per_s == pytest.approx(2 * count.macs_full * result.images_per_s, rel=1e-12)
    fastest = max(value for key, value in result.rates.items() if key.endswith("_flops_per_s"))
    assert result.peak_flops_per_s == fastest > 1e9
    assert result.mfu == pytest.approx(result.flops_per_s / fastest, rel=1e-12)
    floor = limit(count, batch, Rates(**result.rates), len(count.operations))
    assert result.limit_images_per_s == pytest.approx(batch / floor.seconds, rel=1e-12)
    assert (result.limit_wall, result.limit_fraction) == (
        floor.wall,
        pytest.approx(result.images_per_s / result.limit_images_per_s, rel=1e-12),
    )
    assert ("FLOOR" in result.reason) == (result.limit_fraction > 1 / timing.FLOOR_SLACK)

    assert result.error_vs_fp32 is not None and result.error_vs_fp32 <= RELATIVE_L2["fp32"]
    assert result.prepare_s and result.prepare_s > 0 and result.load_s and result.load_s > 0
    assert result.peak_bytes and result.peak_bytes > count.weight_bytes
    assert result.zeros_ratio and result.zeros_ratio > 0
    assert result.environment["torch"] == torch.__version__
    assert result.flags["cuda.matmul.allow_tf32"] == "False"
    assert result.measured_at.endswith("+00:00")
    line = json.dumps(asdict(result), allow_nan=False)
    assert Measurement(**json.loads(line)) == result


@pytest.mark.parametrize("backend", ["eager", QUICKLY])
def test_on_a_steady_machine_every_number_is_known(backend: str, made_up: None) -> None:
    """10 ms a step of 2 images, and the walls by hand. Only a backend that launches each operator has a launch wall."""
    (result,) = measured(case(backend, model="dico_s"))
    count = counted("dico_s")
    assert (result.status, result.verdict, result.reason) == ("ok", "VALID", "")
    assert result.block_s == [0.01] * 6
    assert (result.images_per_s, result.images_per_s_low, result.images_per_s_high) == pytest.approx((200, 200, 200))
    assert result.latency_s_p50 == pytest.approx(0.01)
    assert (result.latency_s_p90, result.latency_s_p99) == (None, None)  # of six steps
    assert result.flops_per_s == pytest.approx(400 * count.macs_full)
    assert result.peak_flops_per_s == 3e12
    assert result.mfu == pytest.approx(400 * count.macs_full / 3e12)
    walls = {"compute": 4 * count.macs_full / 3e12, "memory": count.weight_bytes / 1e12}
    walls |= {"launch": len(count.operations) / 1e6} if backend == "eager" else {}
    assert result.limit_images_per_s == pytest.approx(2 / max(walls.values()))
    assert walls[str(result.limit_wall)] == max(walls.values())
    assert result.limit_wall == ("launch" if backend == "eager" else "compute")
    assert result.zeros_ratio == pytest.approx(1.0)
    assert result.rates == asdict(RATES)
    assert (result.compared_with, result.ratio, result.difference) == (None, None, None)


def test_percentiles_come_with_enough_steps(made_up: None) -> None:
    """Steps of 1 ms, five to a block; every tenth takes 3 ms."""

    class Uneven(Simulated):
        def block(self, run: Callable[[], object], steps: int) -> Any:
            plain = super().block(run, steps)
            return replace(
                plain, singles=[0.003 if step % 10 == 0 else 0.001 for step in range(self.steps, steps + self.steps)]
            )

    (result,) = measured(
        case(QUICKLY), clock=Uneven(lambda first, steps, lane: 0.001 * steps), rules=replace(QUICK, min_s=0.15)
    )
    assert result.blocks and result.steps_per_block
    assert result.blocks * result.steps_per_block >= 100
    assert (result.latency_s_p50, result.latency_s_p90, result.latency_s_p99) == (0.001, 0.001, 0.003)


OPERATORS: dict[str, set[str]] = {
    **{family: set() for family in ("dic", "dico", "fcdm", "flowdcn")},
    **{"dig": {"gla"}, "dim": {"scan"}, "dimsum": {"attention", "scan"}, "dis": {"scan"}},
}
"""Operators of which torch has several implementations, by family; attention alone in the others."""


FAMILIES = [
    family if family in ("dic", "dico", "dit", "fcdm") else pytest.param(family, marks=pytest.mark.slow)
    for family in catalogue.families()
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured(family: str, made_up: None) -> None:
    """A small network of each, with the inputs of its family; each of them has to matter to every output."""
    model = f"tiny:{family}"
    (result,) = measured(case(model=model, res=tiny.RES[family]))
    assert (result.status, result.verdict, result.reason) == ("ok", "VALID", "")
    assert (result.error_vs_fp32, result.images_per_s) == (0.0, pytest.approx(200))
    assert result.params == counted(model, tiny.RES[family]).params
    assert set(result.kernels) == OPERATORS.get(family, {"attention"})
    assert result.kernels.get("attention") in (None, "math", "flash_attention", "efficient_attention")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_input_of_every_family_is_found(family: str, made_up: None) -> None:
    """DEP: of captions, noise levels and times of flow matching as of classes and steps."""
    for name in "xty":
        (result,) = measured(case(f"faulty:one_image_ignores_{name}", model=f"tiny:{family}", res=tiny.RES[family]))
        assert (result.status, result.reason.partition(";")[0]) == (
            "wrong",
            f"DEP: 1 of 2 outputs do not change with {name}",
        )


@pytest.mark.parametrize("precision", ["bf16", "torch-default"])
def test_other_precisions_of_a_cpu(precision: str, made_up: None) -> None:
    (result,) = measured(case(precision=precision))
    assert (result.status, result.verdict, result.reason) == ("ok", "VALID", "")
    assert result.error_vs_fp32 is not None
    if precision == "bf16":
        assert 1e-4 < result.error_vs_fp32 <= RELATIVE_L2["bf16"]
    else:
        assert result.error_vs_fp32 <= RELATIVE_L2["fp32"]  # a CPU computes in FP32 under this label
        assert result.flags["cudnn.allow_tf32"] == "True"


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_precision_on_a_cpu_may_be_computed_in_float32(
    half: str, made_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own products may be a hundred times slower, but then libraries convert: FLOOR must not be theirs."""
    slow = replace(RATES, matmul_flops_per_s=1e9, conv1x1_flops_per_s=1e9, conv3x3_flops_per_s=1e9)
    monkeypatch.setattr(opening, "calibrate", lambda device, precision: RATES if precision == "fp32" else slow)
    (result,) = measured(case(QUICKLY, model="dico_s", precision=half))
    assert (result.status, result.verdict, result.reason) == ("ok", "VALID", "")
    assert result.rates == asdict(RATES)


def test_progress_is_told_in_order(made_up: None) -> None:
    seen: list[str] = []
    forward.measure([case(QUICKLY)], QUICK, lambda what, done: seen.append(what), Simulated())
    assert list(dict.fromkeys(seen)) == ["loading", "reference", "proving", "timing", "checking"]
    assert seen.count("timing") == 6


def test_a_case_is_timed_interleaved_with_its_counterpart_and_compared(made_up: None) -> None:
    """The counterpart takes 11 ms, the case 10: the case is 1.1 times as fast, and no pair says otherwise."""
    clock = Simulated(lambda first, steps, lane: (0.011 if lane == 1 else 0.010) * steps)
    a, b = measured(case(QUICKLY), case("faulty:knows_them_too"), clock=clock, rules=replace(QUICK, cap_s=10.0))
    assert (b.compared_with, b.ratio, b.difference) == (None, None, None)
    assert a.compared_with == b.case
    assert (a.ratio, a.ratio_low, a.ratio_high) == pytest.approx((1.1,) * 3, rel=1e-9)
    assert a.difference == "faster"
    assert (a.images_per_s, b.images_per_s) == pytest.approx((200, 2 / 0.011))
    assert a.blocks == b.blocks == 20  # pairs


def test_a_row_that_is_never_ranked_is_compared_with_itself_only(made_up: None) -> None:
    """The fused kernels' references on a CPU, interleaved with eager on the same model, which must stay what it was."""
    digits: dict[str, Any] = {"model": "dico_digits", "res": 8}
    words = "reference path of the fused kernels, plain PyTorch"
    eager, fused, again = measured(case(**digits), case("triton", **digits), case("triton", repeat=2, **digits))
    assert [result.status for result in (eager, fused, again)] == ["ok"] * 3, fused.reason
    assert (eager.unranked, eager.error_vs_fp32, eager.reason) == (None, 0.0, "")
    assert fused.error_vs_fp32 is not None
    assert 0 < fused.error_vs_fp32 <= RELATIVE_L2["fp32"]
    for result in (fused, again):
        assert (result.verdict, result.unranked, result.reason) == ("VALID", words, f"not ranked: {words}")
        assert (result.compared_with, result.ratio, result.difference) == (None, None, None)

    first, second = measured(case("triton", **digits), case("triton", repeat=2, **digits))
    assert (second.compared_with, second.difference) == (first.case, "same")


def test_an_aa_comparison_says_same(made_up: None) -> None:
    a, b = measured(case(QUICKLY), case(QUICKLY, repeat=2), rules=replace(QUICK, cap_s=10.0))
    assert (b.ratio, b.ratio_low, b.ratio_high) == pytest.approx((1, 1, 1), rel=1e-9)
    assert (b.difference, b.compared_with, b.repeat) == ("same", a.case, 2)


def test_memory_asked_of_the_device_while_timing_is_suspect(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([7, 9])
    monkeypatch.setattr(forward.memory, "device_allocations", lambda device: next(counts))
    (result,) = measured(case(QUICKLY))
    assert (result.status, result.verdict) == ("ok", "SUSPECT")
    assert result.reason == "COMP: device memory was allocated 2 times during timing"


# One fault, one code


PROOF_FAULTS = {
    "ignores_x": {"DEP"},
    "ignores_t": {"DEP"},
    "ignores_y": {"DEP"},
    **{f"one_image_ignores_{name}": {"DEP"} for name in "xty"},
    "first_label_for_all": {"REF", "PERM"},
    "cached": {"DEP", "PERM"},
    "cached_by_x": {"DEP"},
    "does_nothing": {"REF", "DEP"},
    "garbage": {"REF", "PERM"},
    "not_a_number": {"SUM", "REF", "DEP", "PERM"},
    "one_percent_off": {"REF"},
    "another_shape": {"REF"},
    "mixes_the_batch": {"PERM"},
}


@pytest.mark.parametrize("name", PROOF_FAULTS)
def test_what_is_wrong_is_not_timed(name: str, made_up: None) -> None:
    clock = Simulated()
    (result,) = measured(case(f"faulty:{name}"), clock=clock)
    assert (result.status, result.verdict) == ("wrong", "INVALID")
    assert codes(result) >= PROOF_FAULTS[name]
    assert codes(result) <= PROOF_FAULTS[name] | {"PERM"}
    assert_not_timed(result)
    assert clock.steps == 0
    assert result.params == counted(MODEL).params  # what was counted stays known


@pytest.mark.parametrize("input", ["x", "t", "y"])
@pytest.mark.parametrize(("name", "images"), [("ignores", 2), ("one_image_ignores", 1)])
def test_what_is_ignored_is_named(name: str, images: int, input: str, made_up: None) -> None:
    (result,) = measured(case(f"faulty:{name}_{input}"))
    assert f"DEP: {images} of 2 outputs do not change with {input}" in result.reason
    assert result.reason.count("DEP") == 1


def test_the_error_is_told(made_up: None) -> None:
    (result,) = measured(case("faulty:one_percent_off"))
    assert result.error_vs_fp32 == pytest.approx(0.01, rel=1e-3)
    assert result.reason == "REF: relative error 1.0e-02 against fp32 eager exceeds the limit of 5e-06"


def test_an_error_that_is_no_number_stays_unknown(made_up: None) -> None:
    (result,) = measured(case("faulty:not_a_number"))
    assert result.error_vs_fp32 is None
    json.dumps(asdict(result), allow_nan=False)


def test_batch_1_cannot_be_permuted_but_is_proved_all_the_same(made_up: None) -> None:
    (result,) = measured(case("faulty:first_label_for_all", batch=1))
    assert (result.status, codes(result)) == ("ok", set())  # right: there is one label
    (result,) = measured(case("faulty:ignores_t", batch=1))
    assert result.reason == "DEP: 1 of 1 outputs do not change with t"


@pytest.mark.parametrize("name", ["drifts", "gives_up"])
def test_an_output_that_changes_meanwhile_is_found(name: str, made_up: None) -> None:
    """SUM, after timing and at the end of a timed block; such an output is wrong for unseen inputs, too."""
    (result,) = measured(case(f"faulty:{name}"))
    assert (result.status, result.verdict, codes(result)) == ("ok", "INVALID", {"SUM", "FRESH"})
    assert "the output after timing differs from the one before by" in result.reason
    assert "timed blocks ended without the right output" in result.reason


@pytest.mark.slow
def test_right_answers_known_beforehand_are_too_fast() -> None:
    """FLOOR, on this machine: the rates are measured, the clock is real. Looking up takes microseconds."""
    (result,) = forward.measure([case("faulty:knows_the_answers", model="dico_s")], QUICK)
    assert (result.status, result.verdict) == ("ok", "INVALID")
    assert "FLOOR" in codes(result)
    assert result.error_vs_fp32 is not None and result.error_vs_fp32 <= RELATIVE_L2["fp32"]
    assert result.limit_fraction and result.limit_fraction > 1


def test_no_step_is_faster_than_the_made_up_rates_allow(made_up: None) -> None:
    count = counted("dico_s")
    least = 4 * count.macs_full / 3e12
    for share, expected in ((1.01, "VALID"), (0.99, "VALID"), (0.97, "INVALID")):
        clock = Simulated(lambda first, steps, lane, share=share: share * least * steps)
        (result,) = measured(
            case(QUICKLY, model="dico_s"), clock=clock, rules=replace(QUICK, block_s=1e-6, warmup_s=1e-6)
        )
        assert result.verdict == expected
        assert codes(result) == (set() if expected == "VALID" else {"FLOOR"})
        assert result.limit_fraction == pytest.approx(1 / share)


class Jumping(CpuClock):
    """A host clock that is set forward by a minute in the middle of the fourth block."""

    blocks, ahead = 0, 0.0

    def now(self) -> float:  # type: ignore[override]
        return time.perf_counter() + self.ahead

    def block(self, run: Callable[[], object], steps: int) -> Block:
        self.blocks += 1

        def step() -> None:
            run()
            self.ahead = 60.0 if self.blocks >= 4 else 0.0

        return super().block(step, steps)


class SecondStandsStill(CpuClock):
    """The clock that checks the other one has stopped."""

    second = staticmethod(lambda: 1.0)


@pytest.mark.parametrize("clock", [Jumping, SecondStandsStill])
def test_a_clock_that_jumps_is_found(clock: type[CpuClock], made_up: None) -> None:
    """CLK."""
    (result,) = measured(case(), clock=clock(), rules=replace(QUICK, warmup_s=0.001))
    assert (result.status, result.verdict) == ("ok", "SUSPECT")
    assert "CLK" in codes(result)
    assert "two clocks disagree" in result.reason


@pytest.mark.parametrize("after", [0, 4])
def test_a_clock_that_stands_still_is_found(after: int, made_up: None) -> None:
    """CLK. Measuring must end: with such a clock no time is ever up."""
    (result,) = measured(case(QUICKLY), clock=Simulated(lambda first, steps, lane: 0.01 if first < after else 0.0))
    assert (result.status, result.verdict) == ("wrong", "INVALID")
    assert result.reason == "CLK: the clock did not advance during a block"
    assert_not_timed(result)


@pytest.mark.parametrize(
    ("code", "takes", "words"),
    [
        ("STDY", lambda first, steps, lane: 0.010 + 0.001 * min(first, 20), "slower during timing"),
        ("STDY", lambda first, steps, lane: 0.030 - 0.001 * min(first, 20), "faster during timing"),
        ("WIDE", lambda first, steps, lane: 0.02 if first % 2 else 0.01, "exceeds the requested ±2.0%"),
        ("LIN", lambda first, steps, lane: 0.01 * steps**2, "twice the steps took 4.00 times the time"),
        ("LIN", lambda first, steps, lane: 0.02 + 0.01 * steps, "twice the steps took 1.33 times the time"),
    ],
)
def test_times_that_are_not_steady_are_suspect(code: str, takes: Any, words: str, made_up: None) -> None:
    """STDY, WIDE, LIN. WIDE alone is noise, which the interval carries."""
    (result,) = measured(case(QUICKLY), clock=Simulated(takes), rules=replace(QUICK, min_blocks=12))
    assert (result.status, result.verdict) == ("ok", "NOISY" if code == "WIDE" else "SUSPECT")
    assert code in codes(result)
    assert words in result.reason
    assert result.images_per_s is not None


def test_superlinear_steps_are_found_alone(made_up: None) -> None:
    """LIN and nothing else: block after block takes the same."""
    (result,) = measured(case(QUICKLY), clock=Simulated(lambda first, steps, lane: 0.01 * steps**2))
    assert codes(result) == {"LIN"}


def test_neighbours_are_noticed(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONT, from what was recorded while timing."""
    monkeypatch.setattr(forward.Recorder, "summary", lambda self: {"cores_of_others": 0.5})
    (result,) = measured(case(QUICKLY))
    assert result.verdict == "SUSPECT"
    assert result.load == {"cores_of_others": 0.5}
    assert "CONT: other processes used 0.50 cores" in result.reason


def test_compiling_again_in_the_timed_part_is_found(made_up: None) -> None:
    """COMP."""
    (result,) = measured(case("faulty:compiles_again"))
    torch._dynamo.reset()
    assert (result.status, result.verdict, codes(result)) == ("wrong", "INVALID", {"COMP"})
    assert result.reason.startswith("COMP: the step was recompiled during timing: ")
    assert_not_timed(result)


def test_compile_refuses_a_second_shape() -> None:
    """The compile backend itself, with a network of nothing, so that no code is generated."""
    from convbench.backends import compile

    with compile.backend.open(torch.nn.Identity(), case("compile"), ()) as step, torch.inference_mode():  # type: ignore[arg-type]
        assert step(torch.ones(2)).tolist() == [1, 1]  # type: ignore[call-arg]
        with pytest.raises(RuntimeError) as error:
            step(torch.ones(3))  # type: ignore[call-arg]
    assert type(error.value).__name__ == "RecompileError"  # the name that measure goes by


# Errors


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("cannot_open", "failed", "ValueError: no engine for this model"),
        ("cannot_step", "failed", "KeyError: 'output'"),
        ("breaks_while_timed", "failed", "LookupError: lost the session"),
    ],
)
def test_an_error_is_the_reason(name: str, status: str, reason: str, made_up: None) -> None:
    (result,) = measured(case(f"faulty:{name}"))
    assert (result.status, result.reason, result.verdict) == (status, reason, None)
    assert_not_timed(result)


def test_a_counterpart_that_breaks_while_timed_takes_only_its_own_row(made_up: None) -> None:
    good, broken = measured(case(), case("faulty:breaks_while_timed"))
    assert (good.status, good.reason) == ("ok", "") and good.images_per_s
    assert (broken.status, broken.reason) == ("failed", "LookupError: lost the session")
    assert_not_timed(broken)


@pytest.mark.parametrize("name", ["too_large", "too_large_while_timed"])
def test_memory_that_cannot_be_had_is_a_status(name: str, made_up: None) -> None:
    (result,) = measured(case(f"faulty:{name}"))
    assert (result.status, result.verdict) == ("out_of_memory", None)
    assert str(2**60) in result.reason and "\n" not in result.reason
    assert_not_timed(result)


def test_a_model_that_is_too_large_is_out_of_memory(made_up: None) -> None:
    """2**42 images of 64 pixels, before anything is proved."""
    (result,) = measured(case(batch=2**42))
    assert result.status == "out_of_memory"
    assert result.reason != ""


def test_a_fault_of_one_case_leaves_the_others(made_up: None) -> None:
    """The middle of three cannot run; the others are timed interleaved and compared."""
    a, b, c = measured(case(QUICKLY), case("faulty:cannot_open"), case(QUICKLY, repeat=2))
    assert [each.status for each in (a, b, c)] == ["ok", "failed", "ok"]
    assert c.compared_with == a.case
    assert c.ratio == pytest.approx(1.0)
    a, b = measured(case("faulty:ignores_y"), case(QUICKLY))
    assert [each.status for each in (a, b)] == ["wrong", "ok"]
    assert (b.compared_with, b.images_per_s) == (None, pytest.approx(200))


def test_a_result_that_stands_is_kept_when_a_later_one_breaks(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    conclude = forward._Bundle._conclude

    def break_the_second(bundle: Any, timed: Any, *rest: Any, **named: Any) -> Measurement:
        if timed.opened.case.repeat == 2:
            raise LookupError("lost the session")
        return conclude(bundle, timed, *rest, **named)

    monkeypatch.setattr(forward._Bundle, "_conclude", break_the_second)
    a, b = measured(case(QUICKLY), case(QUICKLY, repeat=2))
    assert (a.status, a.verdict, a.images_per_s) == ("ok", "VALID", pytest.approx(200))
    assert (b.status, b.reason, b.images_per_s) == ("failed", "LookupError: lost the session", None)


def test_a_usage_error_is_raised() -> None:
    with pytest.raises(UsageError, match=r"^no checkpoint at nowhere\.pt$"):
        measured(case(weights="nowhere.pt"))


def test_every_status_and_verdict_is_a_word_of_the_contract(made_up: None) -> None:
    results = measured(case(QUICKLY), case("faulty:cannot_open"), case("faulty:ignores_x"), case("faulty:too_large"))
    assert [result.status for result in results] == ["ok", "failed", "wrong", "out_of_memory"]
    assert {result.status for result in results} <= set(STATUSES)
    assert {result.verdict for result in results} - {None} <= set(VERDICTS)


def test_switches_that_do_not_fit_the_label_are_found(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """PREC, from what is read back after the step has run; nothing is timed."""
    monkeypatch.setattr(forward.precision, "effective_label", lambda flags, precision, device: "torch-default")
    (result,) = measured(case(QUICKLY))
    assert (result.status, result.verdict) == ("wrong", "INVALID")
    assert result.reason == "PREC: the precision switches read back as torch-default"
    assert result.images_per_s is None


@pytest.mark.parametrize(("slow", "found", "measured_again"), [(3, False, 3), (4, True, 4)])
def test_rates_are_measured_again_before_a_speed_is_called_impossible(
    made_up: None, monkeypatch: pytest.MonkeyPatch, slow: int, found: bool, measured_again: int
) -> None:
    """A neighbour may take the processor meanwhile. Measured before timing, after it, then twice more."""
    low = Rates(**{key: value / 1e6 for key, value in asdict(RATES).items()})
    seen: list[str] = []

    def calibrate(device: str, precision: str) -> Rates:
        seen.append(precision)
        return low if len(seen) <= slow else RATES

    monkeypatch.setattr(opening, "calibrate", calibrate)
    (row,) = measured(case(), clock=Simulated())
    assert ("FLOOR" in codes(row), len(seen)) == (found, measured_again + 1 - found)


def test_the_limit_is_that_of_the_products_that_were_executed(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time between both limits is impossible for a step that executes every product, not for one that saves.

    The machine is slow, so that a block has few steps: each of them really runs.
    """
    rates = Rates(**{key: value / 1000 for key, value in asdict(RATES).items()})
    monkeypatch.setattr(opening, "calibrate", lambda device, precision: rates)
    full = counted(MODEL).macs_full
    saved = 1_000_000
    between = 2 * 2 * (full - saved / 2) / rates.peak_flops_per_s
    clock = functools.partial(Simulated, lambda first, steps, lane: between * steps)
    (plain,) = measured(case(), clock=clock())
    (saving,) = measured(case("faulty:saves_products"), clock=clock())
    assert plain.executed_macs is None and saving.executed_macs == full - saved
    assert "FLOOR" in codes(plain) and "FLOOR" not in codes(saving)
    assert saving.limit_images_per_s == pytest.approx(rates.peak_flops_per_s / (2 * (full - saved)))
    assert saving.mfu == pytest.approx(saving.images_per_s * 2 * full / rates.peak_flops_per_s)
    below = 2 * 2 * (full - saved) / rates.peak_flops_per_s * 0.9
    (faster,) = measured(case("faulty:saves_products"), clock=Simulated(lambda first, steps, lane: below * steps))
    assert "FLOOR" in codes(faster)

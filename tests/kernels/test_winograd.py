"""The C++ kernel of 3x3 convolutions against float64, its faults, its compilation, and networks made of it."""

import copy
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conv3x3 import Conv, drawn
from formula import formula_model, golden
from simulated import QUICK, Simulated
from tolerances import RELATIVE_L2, assert_close, assert_close_to_scale
from torch import nn

from convbench import backends, catalogue
from convbench.checks.output import relative_error
from convbench.errors import UsageError
from convbench.kernels.cpu import choice, compiled, convolution, modules
from convbench.kernels.cpu.convolution import KINDS
from convbench.measure.forward import measure
from convbench.models.counts import count_variant
from convbench.models.dic import DiC
from convbench.models.fcdm import FCDM
from convbench.models.random_weights import fill
from convbench.schema import Case

BLOCK = Conv(2, 48, 40, 12, 20, groups=12, modulated=True, gelu=True, bias=True, gate=True, residual=True)
NARROWER = {"AVX512": ("AVX512", "AVX2"), "AVX2": ("AVX2",), "NEON": ("NEON",)}  # targets that a processor can run
TARGETS = NARROWER.get(compiled.target() or "", ())
needed = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))
pytestmark = [needed, pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Compute with a library that is compiled from a changed source, or for another target."""

    def used(name: str = TARGETS[0], old: str = "", new: str = "") -> None:
        source = compiled.SOURCE.read_text("utf-8")
        assert not old or source.count(old) == 1, old
        changed, out = tmp_path / "changed.cpp", tmp_path / "changed.so"
        changed.write_text(source.replace(old, new) if old else source, "utf-8")
        subprocess.run(compiled.command(out, name, ("-O0",), changed), check=True, capture_output=True)
        monkeypatch.setattr(compiled, "library", lambda: ctypes.CDLL(str(out)))
        convolution.functions.cache_clear()

    yield used
    convolution.functions.cache_clear()


def check(conv: Conv, kind: str) -> None:
    assert_close_to_scale(conv.found(kind), conv.expected(), "conv3x3 fp32")


# ---- results ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 60), marks=pytest.mark.slow)], ids=["few", "many"])
def test_results_are_those_of_float64_at_any_shape(kind: str, seeds: range) -> None:
    for seed in seeds:
        check(drawn(seed), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "conv", [Conv(64, 5, 6, 8, 8), Conv(1, 384, 384, 8, 8, bias=True), Conv(1, 3, 70, 1, 300)], ids=str
)
def test_results_are_those_of_float64_at_the_ends_of_the_range(kind: str, conv: Conv) -> None:
    check(conv, kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_that_this_processor_runs_gives_them_too(name: str, use: Callable[..., None]) -> None:
    use(name)
    for seed in range(12):
        for kind in KINDS:
            check(drawn(seed), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 6])
def test_the_number_of_threads_changes_no_bit(kind: str, batch: int, threads: Callable[[int], None]) -> None:
    conv = Conv(batch, 36, 72, 20, 24, groups=9, modulated=True, gelu=True, gate=True, residual=True)
    found = []
    for number in (1, 2, 3, 8):
        threads(number)
        found.append(conv.found(kind))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_memory_that_other_calls_left_behind_does_not_matter() -> None:
    """Borders and channels beyond the last are zero though the buffers held something else."""
    for kind in KINDS:
        expected = BLOCK.found(kind)
        for other in (Conv(3, 90, 70, 30, 9), Conv(1, 7, 100, 50, 50)):
            given = other.tensors()
            weights = convolution.packed(given["weight"], KINDS[kind])
            convolution.conv3x3(given["x"] * float("nan"), weights, KINDS[kind], other.outputs)
        assert torch.equal(BLOCK.found(kind), expected)


def test_the_operator_keeps_the_rules_of_pytorch() -> None:
    given = BLOCK.tensors()
    weights = convolution.packed(given.pop("weight"), KINDS["F(4x4,3x3)"])
    torch.library.opcheck(
        torch.ops.convbench.conv3x3.default,
        (given.pop("x"), weights, KINDS["F(4x4,3x3)"], BLOCK.outputs),
        given | {"groups": BLOCK.groups, "eps": 1e-5, "gelu": True},
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": torch.zeros(2, 47, 12, 20)}, "47 and 40 channels"),
        ({"x": torch.zeros(2, 48, 12, 20).double()}, "float32"),
        ({"scale": torch.zeros(3, 48)}, r"\(3, 48\), not \(2, 48\)"),
        ({"gate": torch.zeros(2, 48)}, r"\(2, 48\), not \(2, 40\)"),
        ({"residual": torch.zeros(2, 40, 12, 21)}, "residual of shape"),
        ({"groups": 7}, "7 groups of 48"),
        ({"gamma": None, "beta": None}, "modulation without a norm"),
        ({"beta": torch.zeros(47)}, "12 groups of 48"),
        ({"bias": torch.zeros(39)}, "bias of shape"),
        ({"kind": 3}, "no kind 3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = BLOCK.tensors()
    given["packed"] = convolution.packed(given.pop("weight"), 4)
    given |= {"kind": 4, "outputs": BLOCK.outputs, "groups": BLOCK.groups, "eps": 1e-5}
    with pytest.raises(ValueError, match=told):
        convolution.conv3x3(**given | change)


# ---- faults that the tests above must find ----

LAST_ROW = "r < M && y + r {}< c.H; r++) {{\n                Vector"
BIAS = "if (c.bias) value +="
FAULTS = {
    "a wrong constant of the input transform": ("- 2.5f * d[2]", "- 2.4f * d[2]", "F(4x4,3x3)"),
    "a wrong constant of the output transform": ("float(B * B * B)", "float(B * B)", "F(4x4,3x3)"),
    "a wrong sign in F(2x2)": ("v[2] = d[2] - d[1]", "v[2] = d[1] - d[2]", "F(2x2,3x3)"),
    "a tile shifted by one": ("y = k.y0 * M - 1 + row % high", "y = k.y0 * M + row % high", "F(4x4,3x3)"),
    "a border that is not cleared": ("if (y < 0 || y >= c.H ||", "if (y < 0 ||", "F(4x4,3x3)"),
    "a last row that is not written": (LAST_ROW.format(""), LAST_ROW.format("+ 1 "), "F(2x2,3x3)"),
    "a bias left out beside a gate": (BIAS, f"if (c.gate) value += Vector{{}}; else {BIAS}", "direct"),
    "a norm without its mean": ("mean * gain) * more", "0 * gain) * more", "direct"),
    "a GELU by tanh": ("1.f + z * p / q", "1.f + z * .79788456f / (1.f + .16f * s)", "direct"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_kernel_is_found(fault: str, use: Callable[..., None]) -> None:
    old, new, kind = FAULTS[fault]
    use(TARGETS[0], old, new)
    conv = Conv(1, 8, 8, 13, 13, groups=2, gelu=True, bias=True, gate=True, residual=True, mean=2.0)
    with pytest.raises(AssertionError):
        check(conv, kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_the_sanitizers_find_nothing(name: str, tmp_path: Path) -> None:
    """AddressSanitizer and UBSan over every kind, buffers of exactly their sizes, odd shapes, one to five threads."""
    out = tmp_path / "sanitized"
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")
    line = [*compiled.command(out, name, flags, Path(__file__).parents[1] / "support" / "winograd_sanitized.cpp")]
    line[line.index("-shared")] = f"-I{compiled.SOURCE.parent}"
    subprocess.run(line, check=True, capture_output=True, text=True)
    done = subprocess.run([out], capture_output=True, text=True, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("worst relative error") and float(done.stdout.split()[-1]) < 1e-5


# ---- networks ----

SMALL: dict[str, Callable[[], nn.Module]] = {
    "dic": lambda: DiC(16, (1, 1, 1, 1, 1)),
    "fcdm": lambda: FCDM(16, (2, 1, 2, 1, 2)),
}


def network(family: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    net = SMALL[family]().eval().requires_grad_(False)
    fill(net, 0)
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    return net, (x, torch.linspace(3, 990, 2), torch.arange(2) * 300)


def every(net: nn.Module, kind: str = "F(4x4,3x3)") -> dict[str, str]:
    return {name: kind for name, module in net.named_modules() if modules.suits(module)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", SMALL)
def test_a_packed_network_gives_what_the_plain_one_gives(family: str, kind: str) -> None:
    net, inputs = network(family)
    made = modules.packed_copy(net, every(net, kind))
    assert relative_error(made(*inputs), net(*inputs)) <= RELATIVE_L2["fp32"]
    assert made.state_dict().keys() == net.state_dict().keys()
    assert sum(isinstance(each, modules.PackedModulatedConvs) for each in made.modules()) == (family == "dic") * 5
    assert not any(isinstance(each, modules.PackedConv) for each in net.modules())


def test_the_official_output_is_met() -> None:
    net, stored = formula_model("dic_s"), golden("dic_s")
    made = modules.packed_copy(net, every(net))
    assert_close(made(stored["x"], stored["t"], stored["y"]), stored["out"], "fp32")


def test_loading_other_weights_packs_them_again() -> None:
    net, inputs = network("dic")
    made = modules.packed_copy(net, every(net))
    other = copy.deepcopy(net)
    fill(other, 7)
    made.load_state_dict(other.state_dict())
    assert relative_error(made(*inputs), other(*inputs)) <= RELATIVE_L2["fp32"]


def test_a_copy_of_weights_that_are_stale_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that the test above is for."""
    monkeypatch.setattr(modules.PackedConv, "repack", lambda self: None)
    with pytest.raises(AssertionError):
        test_loading_other_weights_packs_them_again()


def test_a_network_in_training_or_another_type_is_refused() -> None:
    net, _ = network("fcdm")
    for changed in (copy.deepcopy(net).train(), copy.deepcopy(net).double()):
        with pytest.raises(UsageError, match="float32"):
            modules.packed_copy(changed, {})
    with pytest.raises(UsageError, match="float32"):
        modules.packed_copy(net, every(net)).double()


@pytest.mark.slow
def test_one_compiled_graph_follows_the_weights() -> None:
    net, inputs = network("dic")
    made = modules.packed_copy(net, every(net))
    run = torch.compile(made, fullgraph=True)
    with torch.no_grad():
        assert relative_error(run(*inputs), net(*inputs)) <= RELATIVE_L2["fp32"]
        fill(net, 3)
        made.load_state_dict(copy.deepcopy(net).state_dict())
        assert relative_error(run(*inputs), net(*inputs)) <= RELATIVE_L2["fp32"]
    torch._dynamo.reset()


def test_what_was_executed_is_counted() -> None:
    """Of whole tiles: 6x6 points for 4x4 outputs, 4x4 for 2x2."""
    given = Conv(2, 3, 5, 9, 8).tensors()
    for kind, expected in {4: 36 * (3 * 2), 2: 16 * (5 * 4), 1: 9 * (9 * 8)}.items():
        before = replace(convolution.products)
        convolution.conv3x3(given["x"], convolution.packed(given["weight"], kind), kind, 5)
        assert convolution.products.counted - before.counted == 2 * 9 * 9 * 8 * 3 * 5
        assert convolution.products.executed - before.executed == 2 * expected * 3 * 5


@pytest.mark.slow
def test_the_backend_shows_what_it_executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choice, "fastest", lambda shapes: dict.fromkeys(shapes, "F(4x4,3x3)"))
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))  # no file of another choice
    (row,) = measure([Case("tiny:dic", 64, 2, "winograd", threads=1)], QUICK, clock=Simulated())
    assert row.status == "ok" and row.error_vs_fp32 <= RELATIVE_L2["fp32"], row.reason
    assert row.macs_full is not None and row.executed_macs is not None
    counted = count_variant(catalogue.find("tiny:dic"), 64)
    # At 2x2 pixels, of the middle stage, a tile of 4x4 is padded by three quarters.
    assert counted.macs_full - counted.dense_3x3_macs * 3 // 4 <= row.executed_macs < counted.macs_full


# ---- choosing ----


def test_the_fastest_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[choice.ConvShape] = []

    def measured(shape: choice.ConvShape) -> dict[str, float]:
        calls.append(shape)
        return {"F(4x4,3x3)": 3.0, "F(2x2,3x3)": 2.0 if shape.height == 8 else 4.0, "direct": 5.0}

    monkeypatch.setattr(choice, "measure", measured)
    monkeypatch.setattr(choice, "table", lambda: tmp_path / "table.json")
    small, large = choice.ConvShape(4, 4, 8, 8, 64, 1), choice.ConvShape(4, 4, 32, 32, 1, 1)
    for _ in range(2):
        assert choice.fastest([small, large, large]) == {small: "F(2x2,3x3)", large: "F(4x4,3x3)"}
    assert [(each.height, each.batch) for each in calls] == [(8, choice.MOST_BATCH), (32, 1)]
    (tmp_path / "table.json").write_text('{"4x4x8x8x8x1": {"direct": "1"}}')
    assert choice.fastest([small]) == {small: "F(2x2,3x3)"} and len(calls) == 3
    assert json.loads((tmp_path / "table.json").read_text())["4x4x8x8x8x1"]["direct"] == 5.0


def test_all_kinds_are_timed() -> None:
    seconds = choice.measure(choice.ConvShape(8, 8, 8, 8, 1, 1))
    assert list(seconds) == list(KINDS) and min(seconds.values()) > 0


# ---- compiling ----


def test_the_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-O1"))
    runs = []
    original = compiled._compile
    monkeypatch.setattr(compiled, "_compile", lambda *given: (runs.append(given), original(*given)))
    assert compiled.library.__wrapped__()._name == compiled.library.__wrapped__()._name
    assert len(runs) == 1 and [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".so"]


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    told = "the C++ kernels are compiled at first use and need GCC: install g++"
    assert compiled.missing() == told
    assert backends.find("winograd").unsupported(Case("dic_s", 256, 1, "winograd", threads=1)) == told
    with pytest.raises(UsageError, match="install g"):
        compiled.library.__wrapped__()


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONVBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "FLAGS", ("-fno-such-flag",))
    with pytest.raises(UsageError, match=r"cannot compile the C\+\+ kernels: .*no-such-flag") as refused:
        compiled.library.__wrapped__()
    assert "\n" not in str(refused.value) and not any((tmp_path / "kernels").iterdir())


def test_other_cases_are_refused_in_words() -> None:
    for case in (
        Case("dic_s", 256, 1, device="cuda"),
        Case("dic_s", 256, 1, precision="bf16"),
        Case("dic_s", 256, 1, mode="train"),
    ):
        assert "fp32 on a processor" in str(backends.find("winograd").unsupported(case))


def test_no_second_openmp_is_loaded() -> None:
    """Two pools of threads would wait for each other."""
    program = (
        "import torch; from convbench.kernels.cpu import compiled; compiled.library(); "
        "print({line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'libomp' in line})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert len(eval(done.stdout)) == 1, done.stdout

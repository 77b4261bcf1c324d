"""The compile gate: every shipped kernel configuration, compiled for GPUs that are not here, against stored budgets.

Needs no GPU and no driver, but two versions of Triton; fails with the command that installs a missing one.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convbench.errors import ConvbenchError, UsageError
from convbench.kernels import all_kernels
from convbench.kernels.aot import budgets, compiler, machine_code, targets, worker

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
REGENERATE = "python scripts/kernel_budgets.py regenerates them"


@ON_LINUX
@pytest.mark.slow
@pytest.mark.parametrize("triton", budgets.TRITONS)
def test_every_shipped_configuration_takes_what_is_budgeted(triton: str) -> None:
    try:
        rows = list(budgets.gate_rows(triton))
    except UsageError as error:
        pytest.fail(f"{error}; without it the budgets of the kernels are not checked (`make setup` installs both)")
    assert {row["triton"] for row in rows} == {triton}
    found = budgets.violations(rows, budgets.read_budgets()[triton])
    assert not found, "\n".join([*found, REGENERATE])


def test_the_budgets_cover_every_kernel_on_every_target_of_the_gate() -> None:
    every = budgets.read_budgets()
    assert sorted(every) == sorted(budgets.TRITONS)
    for triton, stored in every.items():
        for kernel in all_kernels():
            for target in budgets.GATE[triton]:
                shipped = [each for each in kernel.compilations("bf16") if targets.ships_for(each, target)]
                assert shipped and {f"{kernel.name} {each.label} bf16 {target}" for each in shipped} <= set(stored)


def test_no_budget_allows_spilling() -> None:
    """A few bytes are ptxas's own choice; more are values that did not fit."""
    for stored in budgets.read_budgets().values():
        assert budgets.spilling(stored) == []


def test_maps_are_loaded_sixteen_bytes_at_a_time() -> None:
    """In every precision, version and on every target. The affine of a group norm reads vectors of 12 channels, next
    to nothing; a thread of a depthwise convolution owns 2 or 4 channels of a strip, and reads each row once; Winograd's
    transform is for float32 and has 4 channels a thread."""
    narrow = [
        name for stored in budgets.read_budgets().values() for name, row in stored.items() if row["loads_128"] == 0
    ]
    expected = "group_norm_gelu affine 8x16 ", "depthwise_", "winograd_conv winograd_conv input bf16 "
    assert [
        name for name in narrow if not name.startswith((*expected, "winograd_conv winograd_conv input fp16 "))
    ] == []


def test_each_configuration_has_a_name_of_its_own() -> None:
    """Or one budget would stand for two."""
    names = [
        f"{k.name} {c.label} {p}" for k in all_kernels() for p in ("fp32", "fp16", "bf16") for c in k.compilations(p)
    ]
    assert len(names) == len(set(names))


ROW: dict[str, Any] = {
    "kernel": "k",
    "configuration": "4x8",
    "precision": "bf16",
    "target": "sm_90",
    "triton": "3.6.0",
    "error": None,
    "registers": 64,
    "stack": 0,
    "spills": 0,
    "shared": 1024,
    "loads_128": 8,
    "mma": 4,
}
NAME = "k 4x8 bf16 sm_90"
BUDGET = {key: ROW[key] for key in (*budgets.MORE_IS_WORSE, *budgets.LESS_IS_WORSE)}


def test_a_row_within_its_budget_is_not_a_violation() -> None:
    assert budgets.violations([ROW], {NAME: BUDGET}) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("registers", 65, "registers 65, worse than the budget of 64"),
        ("registers", 63, "registers 63, better than the budget of 64: the budget is stale"),
        ("stack", 8, "stack 8, worse"),
        ("spills", 2, "spills 2, worse"),
        ("shared", 2048, "shared 2048, worse"),
        ("loads_128", 7, "loads_128 7, worse"),
        ("loads_128", 9, "loads_128 9, better"),
        ("mma", 0, "mma 0, worse"),
        ("shared", 228 * 1024, "cannot be launched: needs 233472 bytes of shared memory of 232448"),
        ("error", "PTXASError: too many", "does not compile: PTXASError: too many"),
    ],
)
def test_a_row_off_its_budget_is_named(key: str, value: object, said: str) -> None:
    found = budgets.violations([{**ROW, key: value}], {NAME: BUDGET})
    assert any(said in line for line in found), found
    assert all(line.startswith(NAME) for line in found)


def test_a_configuration_without_a_budget_and_a_budget_without_one_are_stale() -> None:
    assert budgets.violations([ROW], {}) == [f"{NAME} has no budget"]
    assert budgets.violations([ROW], {NAME: BUDGET, "gone": BUDGET}) == ["gone has a budget and is not shipped: stale"]


def test_budgets_read_back_as_written(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "triton": "3.9.0", "registers": 70}]
    budgets.write_budgets(rows, tmp_path / "budgets.toml")
    stored = budgets.read_budgets(tmp_path / "budgets.toml")
    assert stored == {"3.6.0": {NAME: BUDGET}, "3.9.0": {NAME: {**BUDGET, "registers": 70}}}
    assert budgets.read_budgets(tmp_path / "none.toml") == {}


def test_the_stored_budgets_tell_the_bench_registers() -> None:
    oldest = budgets.TRITONS[0]
    stored = budgets.read_budgets()[oldest]
    most = max(
        row["registers"] for name, row in stored.items() if name.startswith("group_norm_gelu ") and "sm_90" in name
    )
    assert budgets.budgeted("group_norm_gelu", "bf16", "sm_90", oldest) == {"registers": most, "stack": 0}
    assert budgets.budgeted("group_norm_gelu", "bf16", "sm_90", "1.0.0") == {}


def test_usage_and_code_are_read() -> None:
    usage = "Function k:\n  REG:40 STACK:16 SHARED:0 LOCAL:8 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
    assert machine_code.read_usage(usage) == {"registers": 40, "stack": 16, "local": 8}
    with pytest.raises(ConvbenchError, match="cuobjdump does not report REG, STACK, LOCAL"):
        machine_code.read_usage("cuobjdump info : no such file")
    code = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E R8, desc[UR4][R2.64] ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64] ;
        /*0040*/             @UP0  UIADD3 UR4, UR4, 0x1, URZ ;
        /*0050*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0060*/                   STL.64 [R1], R4 ;
        /*0070*/                   LDL R4, [R1] ;
        /*0080*/                   EXIT ;
    """
    counts = {"instructions": 9, "spills": 2, "loads": 3, "loads_128": 2, "mma": 1}
    assert machine_code.read_code(code) == counts


def test_instructions_issued_are_those_of_each_trip() -> None:
    """Two loops, the second without trips of its own; what follows the last exit is padding."""
    code = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   FFMA R2, R2, R3, R4 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
.L_x_1:
        /*0040*/                   FADD R2, R2, R3 ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   BRA `(.L_x_2) ;
        /*0080*/                   NOP ;
    """
    assert machine_code.issued(code, ()) == 7
    assert machine_code.issued(code, (10,)) == 7 + 9 * 3
    assert machine_code.issued(code, (10, 0)) == 7 + 9 * 3 - 2
    assert machine_code.read_code(code)["instructions"] == 9


def test_targets_are_checked() -> None:
    targets.require_known(["sm_80", "sm_100"])
    assert [targets.capability(each) for each in ("sm_80", "sm_100")] == [80, 100]
    with pytest.raises(UsageError, match="unknown GPU target 'sm_70'; choose from sm_80, "):
        targets.require_known(["sm_70"])


def test_a_configuration_is_compiled_for_the_generations_that_it_ships_for() -> None:
    """Consumer parts take those of sm_80, and 10.3 those of 10.0."""
    known = next(kernel for kernel in all_kernels() if kernel.name == "pointwise_gelu").compilations("bf16")
    described = {each.label for each in known if any(kind.startswith("tensordesc") for kind in each.pointers.values())}
    ships = {
        target: {each.label for each in known if targets.ships_for(each, target)}
        for target in ("sm_80", "sm_86", "sm_90", "sm_100", "sm_103", "sm_120")
    }
    assert ships["sm_80"] == ships["sm_86"] == ships["sm_120"] and not ships["sm_80"] & described
    assert ships["sm_100"] == ships["sm_103"] and ships["sm_100"] & described
    assert described <= ships["sm_90"]
    (everywhere, *_) = next(kernel for kernel in all_kernels() if kernel.name == "gate_residual").compilations("bf16")
    assert all(targets.ships_for(everywhere, target) for target in ships)


def test_a_missing_triton_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(UsageError, match=r"Triton 0\.1 is not installed .* --target .*triton-0\.1 triton==0\.1"):
        compiler.folder_of("0.1")


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConvbenchError, match="compiling for sm_90 ended with code 1: no message"):
        list(compiler.compile_for("sm_90", ["bf16"]))


@pytest.mark.slow
@ON_LINUX
def test_a_compilation_is_kept_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled once, then read; a torn file is compiled again. TRITON_INTERPRET is kept out of the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    def compiled() -> dict[str, Any]:
        (row,) = compiler.compile_for("sm_90", ["bf16"], kernels=["gate_residual"])
        return row

    first, second = compiled(), compiled()
    assert (first.pop("cached"), second.pop("cached")) == (False, True)
    assert first == second
    (kept,) = worker.cache_folder().iterdir()
    kept.write_text(kept.read_text()[:10])
    third = compiled()
    assert third.pop("cached") is False
    assert {**third, "seconds": 0} == {**first, "seconds": 0}
    assert json.loads(kept.read_text())["registers"] == first["registers"] > 0
    assert first["error"] is None


@ON_LINUX
def test_a_configuration_that_does_not_compile_is_a_row(tmp_path: Path) -> None:
    """In a process whose shipped list has one configuration with an argument left out."""
    program = (
        "import dataclasses\n"
        "from convbench.kernels.aot import worker\n"
        "from convbench.kernels.ops import gate_residual\n"
        "(good,) = gate_residual.compilations('bf16')\n"
        "bad = dataclasses.replace(good, constants={'ROWS': 12, 'COLUMNS': 128, 'HAS_RESIDUAL_BIAS': False})\n"
        "kernel = dataclasses.replace(gate_residual.KERNELS[0], compilations=lambda precision: (bad,))\n"
        "worker.serve((kernel,), {'target': 'sm_90', 'precisions': ['bf16'], 'first_only': [], 'kernels': []})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    (row,) = map(json.loads, done.stdout.splitlines())
    assert "power of 2" in row["error"]
    assert budgets.violations([copy.copy(row)], {})[0].startswith(
        "gate_residual gate_residual 32x128 bf16 sm_90 does not"
    )

"""Where a number comes from: case, samples, conditions and formula."""

import json
from pathlib import Path

import pytest
from stored import measured, write_lines

from convbench.cli import main

ROWS = [
    measured("dit_xl_2", 2.0, measured_at="2026-11-21"),
    measured("dic_xl", 4.0, block_s=[0.2, 0.25, 0.3], steps_per_block=5, rates={"matmul_flops_per_s": 1e11}, macs=10),
]

TEXT = """\
images_per_s  4.0, shown as 4
formula       batch / median of block_s, the mean seconds per step of each block; of a world: processes * batch / \
median of the slowest process's
case          dic_xl/256px/b1/eager/fp32/cpu/1threads
file          {file}
verdict       VALID
block_s       0.2, 0.25, 0.3; 5 steps each
rates         matmul_flops_per_s 1e+11
environment   cpu test, cores 1, torch 2, convbench 0
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "run.jsonl", ROWS)


def called(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, args)])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_a_number_with_its_samples(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, run, "--explain", "dic_xl/images_per_s") == (0, TEXT.format(file=run), "")


def test_a_derived_number(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = "dic_xl/256px/b1/eager/fp32/cpu/1threads"
    _, out, _ = called(capsys, run, "--explain", f"{case}/baseline_ratio", "--format", "json")
    (found,) = json.loads(out)
    assert (found["value"], found["printed"], found["baseline"]) == (2.0, "2.000", "dit_xl_2")
    assert found["block_s"] == ROWS[1]["block_s"]
    _, out, _ = called(capsys, run, "--explain", "dic_xl/interval", "--format", "json")
    assert json.loads(out)[0]["value"] == pytest.approx(0.01)


def test_what_is_recorded_has_no_formula(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = called(capsys, run, "--explain", "dit_xl_2/measured_at")
    assert "formula      recorded as requested or measured; no formula" in out.splitlines()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("images_per_s", "--explain images_per_s: expected MODEL/KEY"),
        ("dic_x/images_per_s", "unknown model or case 'dic_x': did you mean dic_xl"),
        ("dic_xl/images_per", "unknown key 'images_per': did you mean images_per_s"),
    ],
)
def test_what_is_not_there(run: Path, capsys: pytest.CaptureFixture[str], asked: str, said: str) -> None:
    code, out, err = called(capsys, run, "--explain", asked)
    assert (code, out) == (2, "")
    assert err.startswith(f"convbench: {said}")

"""The command line as its users see it: exit codes, one-line errors, formats that parse back, files that survive.

Most of it runs in this process; a subprocess where the process itself is what is tested.
"""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
import torch
from contract import DONE, FAILED, FLOPS_KEYS, INTERRUPTED, NOT_VALID, NOTHING_MEASURED, THROUGHPUT_KEYS, USAGE
from shown_commands import parses
from waiting import until

from convbench import catalogue
from convbench.cli import COMMANDS, contents, main
from convbench.cli.options import CommaList
from convbench.errors import UsageError
from convbench.run import process
from convbench.schema import VERDICTS, Case, Measurement
from convbench.store import append

ROOT = Path(__file__).parents[2]
Shown = tuple[int, str, str]
Run = Callable[..., Shown]


@pytest.fixture
def convbench(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: its exit code, stdout and stderr."""

    def run(line: str, *more: object) -> Shown:
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line), *map(str, more)])
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, shown.out, shown.err

    return run


def in_a_process(*args: str, python: tuple[str, ...] = (), **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *python, "-m", "convbench", *args],
        cwd=ROOT,
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings),
    )


def json_rows(shown: Shown) -> list[dict[str, Any]]:
    code, out, err = shown
    assert code == DONE, err
    rows = json.loads(out)
    assert isinstance(rows, list)
    return rows


# Help


def commands(
    group: click.Command = contents, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its name, those of groups inside groups too."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, (*path, name))
    else:
        yield path, group


ALL = dict(commands())


@pytest.mark.parametrize("path", [(), *ALL], ids=lambda path: " ".join(path) or "convbench")
def test_help_ends_in_two_examples_that_parse(path: tuple[str, ...], convbench: Run) -> None:
    code, out, err = convbench(" ".join([*path, "--help"]))
    assert (code, err) == (DONE, "")
    body, _, examples = out.partition("  Examples:\n")
    lines = [line.strip() for line in examples.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"convbench {' '.join(path)}".strip())
        parses(line)
    assert body.startswith("Usage: convbench ")
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_help_in_a_sentence(path: tuple[str, ...]) -> None:
    texts = {p.name: p.help or "" for p in ALL[path].params if isinstance(p, click.Option)}
    assert {name for name, text in texts.items() if len(text) < 10 or not text.rstrip("].)").rstrip()} == set()
    assert ALL[path].help and ALL[path].get_short_help_str()


def test_the_table_of_contents_is_the_list_of_commands(convbench: Run) -> None:
    _, out, _ = convbench("--help")
    listed = [
        line.split()[0] for line in out.partition("Commands:\n")[2].splitlines() if line[:2] == "  " and line[2] != " "
    ]
    assert listed[: len(COMMANDS)] == list(COMMANDS)
    assert sorted({path[0] for path in ALL}) == sorted(COMMANDS)


def test_no_arguments_is_help(convbench: Run) -> None:
    assert convbench("") == convbench("--help")


def test_help_loads_no_heavy_package() -> None:
    """Read from Python's own list of what it imported."""
    process = in_a_process("--help", python=("-X", "importtime"))
    out, times = process.communicate()
    loaded = {line.rsplit("|", 1)[1].strip() for line in times.splitlines() if line.startswith("import time:")}
    assert (process.returncode, "convbench.cli" in loaded) == (DONE, True)
    assert "Commands:" in out
    heavy = {"torch", "numpy", "pandas", "rich", "matplotlib", "safetensors", "psutil"}
    assert {name.partition(".")[0] for name in loaded} & heavy == set()


def test_the_version_is_that_of_the_package(convbench: Run) -> None:
    import convbench as package

    assert convbench("--version") == (DONE, f"convbench, version {package.__version__}\n", "")


def test_a_comma_list_completes_its_last_place() -> None:
    option = CommaList(known=lambda: ["dic_s", "dico_s", "dit_s_2"])
    command = click.Command("x", params=[click.Option(["--model"], type=option)])
    context = click.Context(command)

    def completed(incomplete: str) -> list[str]:
        return [item.value for item in option.shell_complete(context, command.params[0], incomplete)]

    assert completed("di") == ["dic_s", "dico_s", "dit_s_2"]
    assert completed("dit_s_2,dic") == ["dit_s_2,dic_s", "dit_s_2,dico_s"]
    assert completed("x") == []


# Mistakes


MISTAKES = {
    "throughput --model dic_xll": "unknown model 'dic_xll': did you mean dic_xl",
    "flops --model dic_xll": "unknown model 'dic_xll': did you mean dic_xl",
    "throughput --model resnet": "unknown model 'resnet': `convbench models` lists all",
    "throughput --model dic_s --res 250": "--res 250 is invalid for dic_s: it must be a positive multiple of 32",
    "flops --model dit_s_2 --res 100": "--res 100 is invalid for dit_s_2: it must be a positive multiple of 16, such "
    "as",
    "throughput --model dic_s --res big": "Invalid value for '--res': 'big' is not a list of whole numbers",
    "throughput --model dic_s --batch 0": "--batch 0: must be at least 1",
    "throughput --model dic_s --batch 1.5": "Invalid value for '--batch': '1.5' is not a list of whole numbers, or max",
    "throughput --model dic_s --batch 1,,2": "Invalid value for '--batch': '1,,2' has an empty entry between commas",
    "throughput --model dic_s,": "Invalid value for '--model': 'dic_s,' has an empty entry between commas",
    "throughput --model ''": "Invalid value for '--model': '' has an empty entry between commas",
    "throughput --model dic_s --precision fp31": "unknown precision 'fp31'; choose from fp32, tf32, torch-default, "
    "bf16",
    "env --precision fp31": "unknown precision 'fp31'; choose from fp32, tf32, torch-default, bf16",
    "throughput --model dic_s --device tpu": "unknown device 'tpu'; choose from cpu, cuda",
    "throughput --model dic_s --backend eagre": "unknown backend 'eagre': did you mean eager?",
    "throughput --model dic_s --backend no.where:x": "no backend at 'no.where:x': No module named 'no'",
    "throughput --model dic_s --threads 0": "--threads 0: must be at least 1",
    "throughput --model dic_s --compare-with x": "--compare-with x: neither a model of `convbench models` nor",
    "throughput --model dic_s,dic_b --weights w.pt": "--weights is a checkpoint of one model, but --model names 2",
    "throughput --model dic_s --cap soon": "Invalid value for '--cap': 'soon' is not a time such as 90s, 30m or 2h",
    "throughput --model dic_s --budget 0": "Invalid value for '--budget': '0' must be greater than 0",
    "throughput --model dic_s --timeout nan": "Invalid value for '--timeout': 'nan' must be greater than 0",
    "throughput --model dic_s --sweep nowhere.toml": "cannot read nowhere.toml: No such file or directory",
    "throughput": "Missing option '--model'.",
    "throughput --model": "Option '--model' requires an argument.",
    "throughput --modle dic_s": "No such option '--modle'.",
    "flops --model dic_s --format xml": "Invalid value for '--format': 'xml' is not one of",
    "flops --model dic_s --by layer": "Invalid value for '--by': 'layer' is not one of",
    "models --family resnet": "unknown family 'resnet'; choose from adm, ddt, dic, dico",
    "compare a.jsonl": "Missing argument 'B'.",
    "compare a.jsonl b.jsonl": "cannot read a.jsonl: No such file or directory",
    "compare a.jsonl b.jsonl --fail-above lots": "Invalid value for '--fail-above': 'lots' is not a share such as 3%",
    "compare a.jsonl b.jsonl --fail-above 300%": "Invalid value for '--fail-above': '300%' is not between 0% and 100%",
    "throughputs": "unknown command 'throughputs'; choose from models, flops, throughput",
    "--models": "No such option '--models'.",
}


def assert_one_line(shown: Shown, words: str, code: int = USAGE) -> None:
    assert shown[0] == code
    assert shown[1] == ""
    assert shown[2].startswith(f"convbench: {words}"), shown[2]
    assert shown[2].count("\n") == 1
    assert shown[2].endswith("\n")


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, convbench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(convbench(line), MISTAKES[line])


@pytest.mark.parametrize("dry", ["", "--dry-run"])
def test_a_result_file_that_cannot_be_written_is_one_line(dry: str, convbench: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "text.jsonl").write_text("hello\n")
    (tmp_path / "other.json").write_text('{"hello": 1}')
    line = f"throughput --model dico_s --res 64 {dry} --out"
    for name, words in {
        "nowhere/run.jsonl": f"cannot write {tmp_path}/nowhere/run.jsonl: the folder {tmp_path}/nowhere does not exist",
        "file/run.jsonl": f"cannot write {tmp_path}/file/run.jsonl: the folder {tmp_path}/file does not exist",
        "text.jsonl": f"{tmp_path}/text.jsonl line 1 is not JSON: not a result file of convbench",
        "other.json": f"{tmp_path}/other.json ends in something else than a measurement",
        ".": "Invalid value for '--out': File ",
    }.items():
        assert_one_line(convbench(line, tmp_path / name), words)
    assert_one_line(convbench(line, "/dev/full"), "cannot write /dev/full: it is not an ordinary file")
    assert (tmp_path / "other.json").read_text() == '{"hello": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other.json", "text.jsonl"]


@pytest.mark.slow
def test_a_truncated_checkpoint_is_one_line_through_a_real_worker(convbench: Run, tmp_path: Path) -> None:
    torch.save({"ema": {"x_embedder.weight": torch.ones(1000)}}, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    code, out, err = convbench("throughput --model dico_s --res 64 --threads 1 --weights", tmp_path / "cut.pt")
    last = err.splitlines()[-1]
    assert (code, out, len(err.splitlines())) == (USAGE, "", 2)  # what is planned, and what is wrong
    assert last.startswith(f"convbench: {tmp_path}/cut.pt is not a readable PyTorch checkpoint: ")


@pytest.mark.slow
def test_a_program_that_does_not_want_the_rest_is_no_error() -> None:
    """As `| head -1`: the pipe is closed before the first byte, or after the first line."""
    for args in (["models", "--format", "json"], ["flops", "--model", "dic_s,dico_s"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        process = in_a_process(*args, stdout=writer)
        os.close(writer)
        _, err = process.communicate()
        assert (process.returncode, err) == (DONE, "")
    line = f"{shlex.quote(sys.executable)} -m convbench models --format json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (DONE, "[\n", "")


# Counting


def test_flops_of_dic_are_those_of_the_paper(convbench: Run) -> None:
    """The numbers of issue 2, from the official code by torchprofile; Winograd's as the paper prints them, in G."""
    rows = json_rows(convbench("flops --model dic_s,dic_b,dic_xl,dic_h --res 256 --format json"))
    assert [row["model"] for row in rows] == ["dic_s", "dic_b", "dic_xl", "dic_h"]
    assert [row["macs"] for row in rows] == [5873889024, 23458050816, 116136592128, 204397757184]
    assert [round(row["winograd_macs"] / 1e9, 3) for row in rows] == [2.948, 11.756, 57.249, 97.191]
    for row in rows:
        assert sorted(FLOPS_KEYS - set(row)) == []
        assert row["flops"] == 2 * row["macs"]
        assert row["weight_bytes"] == 4 * row["params"]
        assert row["winograd_macs_all"] < row["winograd_macs"] < row["macs"]


def test_every_place_of_every_list_gets_a_row(convbench: Run) -> None:
    rows = json_rows(convbench("flops --model fcdm_s,dico_s --res 128,64 --format json"))
    assert [(row["model"], row["res"]) for row in rows] == [
        ("fcdm_s", 128),
        ("fcdm_s", 64),
        ("dico_s", 128),
        ("dico_s", 64),
    ]


@pytest.mark.parametrize("by", ["kind", "module"])
@pytest.mark.parametrize("model", ["dic_s", "dico_s", "fcdm_s", "dit_s_2", "dig_s_2"])
def test_a_split_adds_up_exactly(by: str, model: str, convbench: Run) -> None:
    (whole,) = json_rows(convbench(f"flops --model {model} --format json"))
    parts = json_rows(convbench(f"flops --model {model} --by {by} --format json"))
    assert sum(part["macs"] for part in parts if part.get("kind") != "gla_core") == whole["macs"]
    assert sum(part["share"] for part in parts) == pytest.approx(1, abs=1e-12)
    assert len({part[by] for part in parts}) == len(parts) > 1
    assert all(part["macs"] == pytest.approx(part["share"] * sum(p["macs"] for p in parts)) for part in parts)


def test_torchprofile_counts_the_same(convbench: Run) -> None:
    pytest.importorskip("torchprofile")
    (row,) = json_rows(convbench("flops --model dic_s --res 64 --profiler torchprofile --format json"))
    assert row["macs_torchprofile"] == row["macs"] > 0


# Formats


def markdown_cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_csv_says_what_json_says(convbench: Run) -> None:
    line = "flops --model dic_s,dit_s_2 --res 64,128 --format"
    rows = json_rows(convbench(f"{line} json"))
    code, out, err = convbench(f"{line} csv")
    assert (code, err) == (DONE, "")
    read_back = list(csv.DictReader(io.StringIO(out)))
    assert read_back == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def test_markdown_has_the_values_in_the_units_of_its_head(convbench: Run) -> None:
    code, out, _ = convbench("flops --model dic_s,dic_xl --res 256 --format markdown")
    head, rule, *rows = markdown_cells(out)
    assert code == DONE
    assert {len(row) for row in (head, rule, *rows)} == {len(head)}
    assert set("".join(rule)) == {"-", ":"}
    found = [dict(zip(head, row, strict=True)) for row in rows]
    assert [(row["model"], row["MACs G"], row["Winograd MACs G"]) for row in found] == [
        ("dic_s", "5.87", "2.95"),
        ("dic_xl", "116.14", "57.25"),
    ]
    assert "px 256" in out.splitlines()[0]  # what all rows share stands above


def test_a_table_in_a_pipe_is_plain_text(convbench: Run) -> None:
    code, out, _ = convbench("flops --model dic_s,dic_xl --res 256")
    assert code == DONE
    assert "\x1b" not in out
    rows = [line.split() for line in out.splitlines() if line.startswith("dic_")]
    assert [(row[0], row[2]) for row in rows] == [("dic_s", "5.87"), ("dic_xl", "116.14")]


@pytest.mark.parametrize("form", ["json", "csv", "markdown", "table"])
def test_models_lists_every_id_in_every_format(form: str, convbench: Run) -> None:
    code, out, err = convbench(f"models --format {form}")
    assert (code, err) == (DONE, "")
    known = {*catalogue.variants(), *catalogue.printed_only()}
    ids = {
        "json": lambda: [row["model"] for row in json.loads(out)],
        "csv": lambda: [row["model"] for row in csv.DictReader(io.StringIO(out))],
        "markdown": lambda: [row[0] for row in markdown_cells(out)[2:]],
        "table": lambda: [line.split()[0] for line in out.splitlines() if {*line.split()[:1]} & known],
    }[form]()
    assert ids == [*catalogue.variants(), *catalogue.printed_only()]


def test_systems_that_are_only_printed_say_why_and_cannot_be_asked_for(convbench: Run) -> None:
    rows = {row["model"]: row for row in json_rows(convbench("models --format json"))}
    for id in ("uvit_xl", "diffussm_xl", "sd_dit_xl_2", "maskdit_xl_2", "simple_diffusion", "vdm_pp", "cdm"):
        row = rows[id]
        assert (row["runs"], row["params"], row["macs"]) == ("printed only", None, None)
        assert re.fullmatch(r"\d{4}\.\d{5}", row["paper"]) and row["remark"]
        for command in ("throughput", "flops"):
            code, out, err = convbench(f"{command} --model dic_s,{id}")
            assert (code, out) == (USAGE, "")
            reason = f"appears only in published tables; no implementation exists: {row['remark']}"
            assert err == f"convbench: {id} {reason}\n"
    assert rows["dit_xl_2"]["runs"] == "yes" and rows["dit_xl_2"]["remark"] == ""
    assert "has not been released" in rows["pixart_xl_2_class"]["remark"]


def test_models_of_one_family_know_their_source_and_size(convbench: Run) -> None:
    rows = json_rows(convbench("models --family dico --format json"))
    assert [row["model"] for row in rows] == [
        "dico_s",
        "dico_b",
        "dico_l",
        "dico_xl",
        "dico_h",
        "dico_digits",
        "dico_glyphs",
    ]
    assert [round(row["params"] / 1e6, 1) for row in rows] == [33.1, 130.0, 463.9, 701.2, 1037.4, 1.0, 1.0]
    for row in rows:
        assert {"name", "family", "source", "licence", "params", "macs", "runs"} <= set(row)
        assert (row["source"], row["runs"]) == ("shallowdream204/DiCo", "yes")


def test_env_describes_the_machine_and_its_measured_rates(convbench: Run) -> None:
    (facts,) = json_rows(convbench("env --precision fp32 --format json"))
    known = {"convbench", "torch", "python", "system", "cpu", "cores", "memory_bytes", "gpus", "cuda", "cudnn"}
    assert sorted(known - set(facts)) == []
    assert facts["torch"] == torch.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for rate in ("matmul_flops_per_s", "conv1x1_flops_per_s", "conv3x3_flops_per_s", "copy_bytes_per_s"):
        assert facts[f"{device} fp32 {rate}"] > 1e8
    assert facts[f"{device} fp32 launches_per_s"] > 1e3


def test_env_says_what_the_machine_cannot(convbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (facts,) = json_rows(convbench("env --precision tf32 --format json"))
    assert facts["cpu tf32"] == "a CPU has no TF32 units; use fp32"


# Measuring, with made-up workers


class Workers:
    """Stand in for worker processes, and count what is asked of them."""

    def __init__(self) -> None:
        self.orders: list[list[Case]] = []
        self.known: dict[str, Any] = {}
        self.after: Callable[[], None] = lambda: None

    def ask(self, order: dict[str, Any], hear: Callable[[dict[str, Any]], None], timeout_s: float) -> Any:
        cases = [Case(**each) for each in order["cases"]]
        self.orders.append(cases)
        for case in cases:
            speed = 100.0 * case.batch
            steady: dict[str, Any] = {
                "status": "ok",
                "verdict": "VALID",
                "images_per_s": speed,
                "images_per_s_low": 0.99 * speed,
                "images_per_s_high": 1.01 * speed,
                "block_s": [0.01] * 8,
                "params": 33_000_000,
                "macs": 266_000_000,
                "limit_images_per_s": 400.0,
                "limit_fraction": speed / 400,
            }
            hear({"row": Measurement.of(case, **(steady | self.known)).to_json()})
        self.after()
        return process.Ended(0, [])


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    made_up = Workers()
    monkeypatch.setattr(process, "ask", made_up.ask)
    return made_up


SMALL = "throughput --model dico_s --res 64 --threads 1 --device cpu"


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({}, DONE),
        ({"verdict": "NOISY", "reason": "WIDE: x"}, DONE),
        ({"verdict": "SUSPECT", "reason": "LIN: x"}, DONE),
        ({"verdict": "INVALID", "reason": "FLOOR: x"}, NOT_VALID),
        ({"status": "wrong", "verdict": "INVALID", "reason": "DEP: x", "images_per_s": None}, NOT_VALID),
        ({"status": "failed", "verdict": None, "reason": "ValueError: x", "images_per_s": None}, NOTHING_MEASURED),
        ({"status": "out_of_memory", "verdict": None, "images_per_s": None}, NOTHING_MEASURED),
    ],
)
def test_exit_codes_of_a_run(known: dict[str, Any], code: int, convbench: Run, workers: Workers) -> None:
    workers.known = known
    found, out, err = convbench(f"{SMALL} --format json")
    assert found == code
    (row,) = json.loads(out)
    assert row["status"] == known.get("status", "ok")
    assert "Traceback" not in err


def test_nothing_to_measure_is_exit_code_3_with_the_reason_in_words(convbench: Run, workers: Workers) -> None:
    code, out, _ = convbench(f"{SMALL} --batch 10000000 --format json")
    (row,) = json.loads(out)
    assert (code, row["status"], workers.orders) == (NOTHING_MEASURED, "skipped", [])
    assert row["reason"].startswith("needs about ") and row["reason"].endswith(" GiB are free")


def test_one_case_that_cannot_run_leaves_the_rest_of_the_sweep(convbench: Run, workers: Workers) -> None:
    code, out, err = convbench(f"{SMALL} --batch 1,10000000,2 --format json")
    assert code == DONE
    assert [(row["batch"], row["status"]) for row in json.loads(out)] == [
        (1, "ok"),
        (10_000_000, "skipped"),
        (2, "ok"),
    ]
    assert err.splitlines()[0].startswith("2 cases to measure, 1 to skip; about ")


def test_a_disk_that_fills_up_shows_what_was_measured(
    convbench: Run, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convbench.store import lines

    kept = lines.append

    def full(path: Path, row: Any) -> None:
        if row.batch == 2:
            raise UsageError(f"cannot write {path}: No space left on device")
        kept(path, row)

    monkeypatch.setattr(lines, "append", full)
    code, out, err = convbench(f"{SMALL} --batch 1,2,4 --format json --out", tmp_path / "run.jsonl")
    assert (code, [row["batch"] for row in json.loads(out)]) == (USAGE, [1])
    assert err.splitlines()[-1] == f"convbench: cannot write {tmp_path}/run.jsonl: No space left on device"


def test_throughput_in_every_format(convbench: Run, workers: Workers) -> None:
    line = f"{SMALL} --batch 1,2 --format"
    rows = json_rows(convbench(f"{line} json"))
    assert [sorted(THROUGHPUT_KEYS - set(row)) for row in rows] == [[], []]
    assert [(row["batch"], row["images_per_s"]) for row in rows] == [(1, 100.0), (2, 200.0)]

    _, out, _ = convbench(f"{line} csv")
    read_back = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["images_per_s"]) for row in read_back] == [100.0, 200.0]
    assert sorted(THROUGHPUT_KEYS - set(read_back[0])) == []

    _, out, _ = convbench(f"{line} markdown")
    head, _, *cells = markdown_cells(out)
    found = [dict(zip(head, row, strict=True)) for row in cells]
    assert [(row["batch"], row["images/s"], row["95 %"], row["of limit"]) for row in found] == [
        ("1", "100", "±1.0 %", "25 %"),
        ("2", "200", "±1.0 %", "50 %"),
    ]

    _, out, _ = convbench(f"{line} table")
    assert out.splitlines()[0].startswith("px 64, backend eager")
    assert [line.split()[0] for line in out.splitlines()].count("dico_s") == 2
    assert "±1.0 %" in out


def test_progress_in_a_pipe_is_a_line_a_case_on_stderr(convbench: Run, workers: Workers) -> None:
    _, _, err = convbench(f"{SMALL} --batch 1,2 --format json")
    assert err.splitlines()[1:3] == [
        "[1 of 2] dico_s/64px/b1/eager/fp32/cpu/1threads: 100 images/s VALID",
        "[2 of 2] dico_s/64px/b2/eager/fp32/cpu/1threads: 200 images/s VALID",
    ]


def test_a_dry_run_measures_and_writes_nothing(convbench: Run, workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    rows = json_rows(
        convbench(f"{SMALL} --batch 1,4 --precision fp32,tf32 --price 3.6 --dry-run --format json --out", out)
    )
    assert workers.orders == []
    assert list(tmp_path.iterdir()) == []
    assert [(row["batch"], row["precision"]) for row in rows] == [(1, "fp32"), (1, "tf32"), (4, "fp32"), (4, "tf32")]
    for row in rows:
        if row["precision"] == "tf32":
            assert row["skipped"] == "a CPU has no TF32 units; use fp32"
        else:
            assert row["skipped"] is None
            assert row["needed_bytes"] > 4 * 33e6
            assert row["cost"] == pytest.approx(row["total_s"] * 3.6 / 3600)
    assert rows[2]["needed_bytes"] > rows[0]["needed_bytes"]


def test_a_plan_in_csv_keeps_its_columns_when_the_first_case_is_skipped(convbench: Run, workers: Workers) -> None:
    code, out, _ = convbench(f"{SMALL} --batch 10000000,1 --dry-run --format csv")
    first, second = csv.DictReader(io.StringIO(out))
    assert code == DONE
    assert (bool(first["skipped"]), first["needed_bytes"]) == (True, "")
    assert (second["skipped"], float(second["needed_bytes"]) > 4 * 33e6) == ("", True)


def test_the_plan_knows_what_the_file_holds(convbench: Run, workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    assert convbench(f"{SMALL} --batch 1 --out", out)[0] == DONE
    workers.orders = []
    code, shown, err = convbench(f"{SMALL} --batch 1,2 --format json --out", out)
    assert err.splitlines()[0].startswith("1 case to measure, 1 already in the file; about ")
    assert [case.batch for order in workers.orders for case in order if case.repeat == 1] == [2]
    assert (code, [row["batch"] for row in json.loads(shown)]) == (DONE, [1, 2])


def test_two_names_of_one_case_are_an_aa_comparison(convbench: Run, workers: Workers) -> None:
    rows = json_rows(convbench(f"{SMALL} --batch 2,2 --format json"))
    assert [row["repeat"] for row in rows] == [1, 2]
    assert [[(case.batch, case.repeat) for case in order] for order in workers.orders] == [[(2, 1), (2, 2)]]


def test_a_full_disk_in_the_middle_is_one_line(
    convbench: Run, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "run.jsonl"
    code, _, err = convbench(f"{SMALL} --out", out)
    assert (code, err.splitlines()[-1]) == (USAGE, f"convbench: cannot write {out}: No space left on device")
    assert out.read_bytes() == b""


def test_an_interrupt_keeps_what_is_measured(convbench: Run, workers: Workers, tmp_path: Path) -> None:
    def interrupt() -> None:
        if len(workers.orders) == 2:
            raise KeyboardInterrupt

    workers.after = interrupt
    out = tmp_path / "run.jsonl"
    code, shown, _ = convbench(f"{SMALL} --batch 1,2,4 --format json --out", out)
    assert code == INTERRUPTED
    assert [row["batch"] for row in json.loads(shown)] == [1]
    assert [json.loads(line)["batch"] for line in out.read_bytes().splitlines()] == [1]


HEARS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
def test_sigint_ends_a_real_run_with_130_and_keeps_the_first_row(tmp_path: Path) -> None:
    """Sent while the second case runs. The parent ignores the signal, as a shell's background job does."""
    out = tmp_path / "run.jsonl"
    args = shlex.split(f"{SMALL} --batch 1,2 --cap 0.05s --format json --out")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = in_a_process(*args, str(out), python=("-c", HEARS_CTRL_C))
    finally:
        signal.signal(signal.SIGINT, before)

    def the_second_case_has_a_worker() -> bool:
        return out.exists() and out.read_bytes().endswith(b"\n") and psutil.Process(process.pid).children() != []

    until(lambda: process.poll() is not None or the_second_case_has_a_worker())
    process.send_signal(signal.SIGINT)
    shown, err = process.communicate()
    assert process.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    (row,) = json.loads(shown)
    assert (row["batch"], row["status"]) == (1, "ok")
    assert [json.loads(line)["batch"] for line in out.read_bytes().splitlines()] == [1]
    assert sorted(THROUGHPUT_KEYS - set(row)) == []
    assert row["verdict"] in VERDICTS
    assert row["images_per_s_low"] <= row["images_per_s"] <= row["images_per_s_high"]


# Sweep files


def planned(shown: Shown) -> list[tuple[Any, ...]]:
    return [(row["model"], row["res"], row["batch"], row["precision"]) for row in json_rows(shown)]


def test_a_sweep_file_may_be_written_by_hand(convbench: Run, workers: Workers, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        'model = ["dico_s", "fcdm_s"]\nres = 64\nbatch = [1, 2]\nthreads = 1\ncap = "1s"\ndevice = "cpu"\n'
    )
    assert planned(convbench("throughput --dry-run --format json --sweep", sweep)) == [
        (model, 64, batch, "fp32") for model in ("dico_s", "fcdm_s") for batch in (1, 2)
    ]
    assert planned(convbench("throughput --dry-run --format json --batch 8 --model dico_s --sweep", sweep)) == [
        ("dico_s", 64, 8, "fp32")  # command-line options take precedence over the file
    ]


def test_the_sweep_that_a_run_writes_repeats_it(convbench: Run, workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    line = f"{SMALL} --batch 2,1 --precision fp32,bf16 --cap 2s --budget 10m --price 1.5"
    before = planned(convbench(f"{line} --dry-run --format json"))
    assert convbench(f"{line} --out", out)[0] == DONE
    (written,) = tmp_path.glob("*.toml")
    assert planned(convbench("throughput --dry-run --format json --sweep", written)) == before
    rules = workers.orders[:]
    assert convbench("throughput --format json --sweep", written)[0] == DONE
    assert workers.orders[len(rules) :] == rules


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('modle = "dico_s"', "says 'modle', which is not a sweep option; options: backend, batch, "),
        ('out = "x.jsonl"', "says 'out', which is not a sweep option; options: backend, batch, "),
        ("model = ", "is not TOML: "),
        ("\x00\xff", "is not TOML: "),
    ],
)
def test_a_sweep_file_that_says_nonsense_is_one_line(content: str, words: str, convbench: Run, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_bytes(content.encode("latin-1"))
    assert_one_line(convbench("throughput --sweep", sweep), f"{sweep} {words}")


def test_a_value_of_a_sweep_file_is_checked_like_an_option(convbench: Run, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text("model = true\n")
    assert_one_line(convbench("throughput --sweep", sweep), "unknown model 'True'")
    sweep.write_text('model = "dico_s"\nbatch = [1, "many"]\n')
    assert_one_line(convbench("throughput --sweep", sweep), "Invalid value for '--batch': '1,many' is not a list")


# Comparing stored runs


def stored(file: Path, *speeds: float | None, half: float = 0.01, **known: Any) -> Path:
    """A run of one case a speed, batches 1, 2, …; None for a case that failed."""
    for batch, speed in enumerate(speeds, start=1):
        row: dict[str, Any] = {"status": "failed", "reason": "x"}
        if speed is not None:
            ends = {"images_per_s_low": speed * (1 - half), "images_per_s_high": speed * (1 + half)}
            row = {"status": "ok", "verdict": "VALID", "images_per_s": speed, "smallest_difference": 0.03} | ends
        append(file, Measurement.of(Case("dico_s", 64, batch, threads=1), **(row | known)))
    return file


def test_compare_gives_ratios_and_words(convbench: Run, tmp_path: Path) -> None:
    a = stored(tmp_path / "a.jsonl", 100.0, 100.0, 100.0, 100.0)
    b = stored(tmp_path / "b.jsonl", 120.0, 90.0, 101.0, 104.0)
    rows = json_rows(convbench("compare --format json", a, b))
    assert [row["ratio"] for row in rows] == pytest.approx([1.2, 0.9, 1.01, 1.04])
    assert [row["difference"] for row in rows] == ["faster", "slower", "same", "unclear"]
    for row in rows:  # both intervals of 1 %, in quadrature: 1.4 %
        assert row["ratio_high"] / row["ratio"] == pytest.approx(1.01424, abs=1e-4)
        assert row["ratio_low"] / row["ratio"] == pytest.approx(1 / 1.01424, abs=1e-4)


@pytest.mark.parametrize(("above", "code"), [("3%", FAILED), ("0.03", FAILED), ("9.9%", DONE), ("20%", DONE)])
def test_compare_fails_a_job_on_a_regression_alone(above: str, code: int, convbench: Run, tmp_path: Path) -> None:
    a, b = stored(tmp_path / "a.jsonl", 100.0, 100.0), stored(tmp_path / "b.jsonl", 90.0, 150.0)
    assert convbench(f"compare --fail-above {above} --format json", a, b)[0] == code
    assert convbench(f"compare --fail-above {above} --format json", a, a)[0] == DONE


def test_compare_says_what_is_missing_and_what_differs(convbench: Run, tmp_path: Path) -> None:
    a = stored(tmp_path / "a.jsonl", 100.0, None, 100.0, environment={"torch": "2.11.0", "cpu": "x"})
    b = stored(tmp_path / "b.jsonl", 100.0, 100.0, environment={"torch": "2.13.0", "cpu": "x"})
    code, out, err = convbench("compare --format json", a, b)
    assert (code, len(json.loads(out))) == (DONE, 1)
    assert f"only in {a}: dico_s/64px/b3/eager/fp32/cpu/1threads" in err
    assert "not measured in both: dico_s/64px/b2/eager/fp32/cpu/1threads" in err
    assert "torch: 2.11.0 and 2.13.0" in err
    assert "cpu: x" not in err


def test_compare_of_nothing_in_common_is_exit_code_3(convbench: Run, tmp_path: Path) -> None:
    a, empty = stored(tmp_path / "a.jsonl", 100.0), tmp_path / "empty.jsonl"
    empty.touch()
    code, _, err = convbench("compare --format json", a, empty)
    assert (code, err.splitlines()[-1]) == (
        NOTHING_MEASURED,
        f"convbench: {a} and {empty} have no measured case in common",
    )


def test_compare_refuses_a_file_of_others(convbench: Run, tmp_path: Path) -> None:
    a, other = stored(tmp_path / "a.jsonl", 100.0), tmp_path / "other.json"
    other.write_text("{}\n")
    assert_one_line(convbench("compare", a, other), f"{other} line 1 is not a measurement")

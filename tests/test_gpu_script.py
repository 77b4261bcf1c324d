"""scripts/gpu here: with the packages of the machine with a GPU alone, and on a stand-in for CUDA, whose numbers mean
nothing.

What this does not prove: torch 2.11 with CUDA on Python 3.12 (no build of torch for that Python is at hand), the
versions of that machine's packages, and everything that only a GPU shows.
"""

import json
import re
import runpy
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import other_machine
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "gpu"
PLAN = tomllib.loads(SCRIPT.with_suffix(".toml").read_text("utf-8"))
ORDER = ["tf32", "fused", "headline", "winograd", "kernels", "products", "tests", "rest"]
MOST_FILES = 8  # that come back from that machine


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="script")


def ran(words: Sequence[str], variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=1500
    )


def test_the_parts_stand_in_the_order_of_their_value_and_fit_the_time() -> None:
    assert [part["name"] for part in PLAN["part"]] == ORDER
    assert sum(part["seconds"] for part in PLAN["part"]) <= PLAN["seconds"] <= 27 * 60
    assert all(part["seconds"] <= 9 * 60 for part in PLAN["part"])  # of a call, which ends after ten minutes


def test_every_backend_that_is_compared_is_known(script: dict[str, Any]) -> None:
    from convbench import backends

    steps = [step for part in PLAN["part"] for step in script["steps_of"](part) if step["run"] == "throughput"]
    names = {
        name for step in steps for key in ("backend", "compare-with") for name in step.get(key, "eager").split(",")
    }
    assert names >= {
        "compile",
        "triton_graphs",
        "triton_graphs:ours",
        "triton_graphs:library",
        "triton_graphs:winograd",
    }
    assert [name for name in sorted(names) if backends.find(name).name != name] == []
    assert [name for name in names if backends.find(name).launched_singly] == []  # only graphs are held to the targets


@pytest.mark.slow
def test_the_dry_run_fits_every_bound_with_that_machines_packages(tmp_path: Path) -> None:
    done = ran([str(SCRIPT), "--dry-run"], other_machine.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    parts = re.findall(r"^(\w+): about (\d+) s of at most (\d+) s$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in parts] == ORDER
    assert all(0 < int(seconds) <= int(most) for _, seconds, most in parts)
    rows = re.findall(r"^ +([\d.]+)  = ([\d. +]+?)  +(\S.*)$", done.stdout, re.MULTILINE)
    assert len(rows) > 90
    for total, times, name in rows:
        assert float(total) == pytest.approx(sum(map(float, times.split("+"))), abs=0.25), name
    total, most = map(int, re.findall(r"^All: about (\d+) s of at most (\d+) s", done.stdout, re.MULTILINE)[0])
    assert total <= most == PLAN["seconds"]
    assert len([row for row in rows if row[2].startswith("tf32/")]) == 16


@pytest.mark.slow
def test_all_gpu_tests_are_collected_with_that_machines_packages(tmp_path: Path) -> None:
    words = ["-m", "pytest", "-m", "gpu", "--collect-only", "-q", "-W", "default", "-p", "no:cacheprovider"]
    done = ran(words, other_machine.environment(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:]
    collected = Counter(line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line)
    assert set(collected) == {f"tests/gpu/{path.name}" for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert sum(collected.values()) > 200


def test_that_machine_lacks_what_it_lacks(tmp_path: Path) -> None:
    """Or the two tests above would prove nothing."""
    gone = other_machine.absent()
    assert gone >= {"torchprofile", "openvino", "onnx", "onnxruntime", "onnxscript", "starlette", "tritonclient"}
    assert not gone & {"torch", "triton", "numpy", "click", "rich", "pandas", "psutil", "pytest", "xdist", "pynvml"}
    code = "import importlib.util as u; print(u.find_spec('torchprofile')); import torchprofile"
    done = ran(["-c", code], other_machine.environment(tmp_path))
    assert done.stdout == "None\n"
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'torchprofile' on the other machine"


def test_python_3_12_compiles_the_program_and_runs_what_needs_no_torch() -> None:
    """On the packages of this Python that hold no machine code."""
    found = sorted(Path.home().glob(".pyenv/versions/3.12*/bin/python"))
    if not found:
        pytest.skip("no Python 3.12 on this machine")
    site = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    code = (
        "import ast, pathlib, sys\n"
        "for path in [*pathlib.Path('convbench').rglob('*.py'), *pathlib.Path('tests').rglob('*.py')]:\n"
        "    compile(path.read_text('utf-8'), str(path), 'exec')\n"
        f"sys.path.append({str(site)!r})\n"
        "sys.argv = ['convbench', 'models', '--format', 'csv']\n"
        "from convbench.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [str(found[-1]), "-W", "error", "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dico_xl" in done.stdout


def test_a_part_that_is_unknown_is_named(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert script["main"](["tf23"]) == 2
    assert capsys.readouterr().err == f"scripts/gpu: unknown part 'tf23'; choose from {', '.join(ORDER)}\n"


def test_rows_that_failed_are_measured_again(script: dict[str, Any], tmp_path: Path) -> None:
    """The first run on a GPU may break something: once that is fixed, its file must not hold the failure."""
    file = tmp_path / "gpu-x-headline.jsonl"
    lines = [json.dumps({"case": status, "status": status}) + "\n" for status in ("ok", "failed", "skipped", "timeout")]
    file.write_text("".join(lines) + '{"torn')
    assert script["failed_rows"](file) == [lines[1], lines[3]]
    script["keep_good_rows"](file)
    assert file.read_text() == lines[0] + lines[2] + '{"torn'
    assert script["failed_rows"](file) == script["failed_rows"](tmp_path / "none.jsonl") == []
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("deaf", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_command_is_ended_at_its_bound(deaf: bool, script: dict[str, Any], tmp_path: Path) -> None:
    """Interrupted, it may say what it has; one that does not listen is killed."""
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if deaf else ""
    file = tmp_path / "test_sleeps.py"
    file.write_text(f"{ignore}import time\n\ndef test_sleeps():\n    time.sleep(600)\n")
    step = {"run": "pytest", "args": [str(file), "-m", ""], "processes": 0}
    script["run_command"].__globals__["END_S"] = 1.0 if deaf else 60.0
    began, before = time.monotonic(), signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        code, printed = script["run_command"](step, tmp_path / "gpu", 8.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code is None and time.monotonic() - began < 300
    assert deaf or "KeyboardInterrupt" in printed


@pytest.fixture
def small_plan(tmp_path: Path) -> Path:
    """The plan with tiny networks, one step of each kind in each part, one kernel and one test, for a CPU.

    The case of ``rest`` is one that the headline has measured: it finds the row in their file.
    """
    small: dict[str, Callable[[str], str]] = {
        "model": lambda text: re.sub(r"(\w+?)_xl(_2)?", r"tiny:\1", text),
        "batch": lambda text: "2",
        "cap": lambda text: "50ms",
    }
    lines = []
    for part in PLAN["part"]:
        lines += ["[[part]]", f'name = "{part["name"]}"', "seconds = 1000"]
        steps = [part.get("defaults", {}) | step for step in part["steps"]]
        if part["name"] == "tf32":
            steps = [step | {"model": "dit_xl_2,dico_xl"} for step in steps]
        if part["name"] == "headline":
            steps = [step for step in steps if step["model"] == "dico_xl"][1:]
        if part["name"] == "rest":
            steps = [step | {"model": "dico_xl", "backend": "triton_graphs:ours"} for step in steps]
        for step in steps[:1]:
            found = {key: small.get(key, lambda text: text)(value) for key, value in step.items()}
            if step["run"] == "pytest":
                found |= {"args": ["tests/gpu/test_gpu.py", "-k", "strict and dico_s"], "processes": 0}
                found |= {"args": ["--version"]} if part["name"] == "tests" else {}
            elif step["run"] == "kernels bench":
                found |= {"kernel": "gate_residual"}
            elif step["run"] != "kernels products":
                found |= {"res": "64"} | ({"timeout": "1000s"} if "timeout" in step else {})
            lines += ["[[part.steps]]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in found.items())]
    path = tmp_path / "small.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_every_part_runs_on_a_stand_in_for_cuda_and_resumes_without_duplicates(
    tmp_path: Path, small_plan: Path
) -> None:
    """No Python error, and no process that starts workers uses the GPU itself. No number of it is kept."""
    out = tmp_path / "out"
    variables = other_machine.environment(tmp_path, cuda=True) | {"OUT": str(out), "PLAN": str(small_plan)}
    variables |= {"MINUTES": "60", "OMP_NUM_THREADS": "1"}
    done = ran([str(SCRIPT)], variables)
    (status,) = out.glob("*-parts.json")
    (log,) = out.glob("*.log")
    said = log.read_text()
    assert done.returncode == 0, said[-6000:]
    assert json.loads(status.read_text()) == dict.fromkeys(ORDER, "finished")
    assert "Traceback" not in said
    assert len([path for path in out.iterdir() if path.is_file()]) <= MOST_FILES

    rows = {path: path.read_text().splitlines() for path in out.glob("*.jsonl")}
    cases = {path.name.rpartition("-")[2]: [json.loads(line) for line in lines] for path, lines in rows.items()}
    assert {name: len(found) for name, found in cases.items()} == {
        "tf32.jsonl": 8,
        "headline.jsonl": 4,
        "kernels.jsonl": 3,
    }
    for name, found in cases.items():
        assert {row["status"] for row in found} == {"ok"}, [row["reason"] for row in found]
        assert len({(row["case"], row.get("compared_with")) for row in found}) == len(found), name
    headline = {(row["backend"], row["compared_with"]) for row in cases["headline.jsonl"]}
    assert ("triton_graphs:library", "tiny:dico/64px/b2/triton_graphs:ours/bf16/cuda") in headline
    assert ("triton_graphs:winograd", "tiny:dic/64px/b2/triton_graphs/tf32/cuda") in headline
    (table,) = out.glob("*dispatch.toml")
    written = [row for entry in tomllib.loads(table.read_text())["products"] for row in entry["rows"]]
    measured = [row for row in written if row["basis"] == "measured"]
    assert [(row["gpu"], row["ours"] == (row["ratio"] > 1)) for row in measured] == [("sm_90", True)] * 2
    assert all(other_machine.NAME in row["where"] for row in measured)

    using = Counter(line.split("\t")[1] for line in (tmp_path / "calls").read_text().splitlines())
    assert any("convbench.run.worker" in words for words in using)
    parents = [words for words in using if re.search(r"-m convbench (throughput|replay)|scripts/gpu", words)]
    assert parents == []

    assert ran([str(SCRIPT)], variables).returncode == 0  # all finished: nothing starts
    again = ran([str(SCRIPT), "tf32", "headline"], variables)  # asked for by name: reads its files
    assert again.returncode == 0, log.read_text()[-3000:]
    assert {path: path.read_text().splitlines() for path in out.glob("*.jsonl")} == rows

"""The end of a server in which something fails: soon, with a message and an exit code other than 0."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import exported
import pytest
import served

pytest.importorskip("uvicorn")

from convbench import cli

# A server whose artefact does what a test needs, in a process of its own: what ends it ends no test.
SERVER = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from convbench import cli
from convbench.export import runtimes
from convbench.serving import batching, listen

calls = 0

@contextmanager
def opened(artefact, threads, trust_native=False):
    def step(x, t, y):
        global calls
        calls += 1
        if calls > 1:  # the first is the trial at the start
            {step}
        return x
    yield step

runtimes.opened = opened
{more}
cli.main(["serve", sys.argv[1], "--port", "0", "--grace", "500ms"])
"""


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@contextmanager
def server(artefact: Path, step: str = "pass", more: str = "") -> Iterator[tuple["subprocess.Popen[str]", str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(step=step, more=more), str(artefact)],
        env={**os.environ, "PYTHONPATH": str(served.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        line = process.stderr.readline()
        yield process, line.partition(" at ")[2].partition(";")[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    assert process.stderr
    code = process.wait(20)
    return code, process.stderr.read()


ENDLESS = """
listen.ServerSettings = lambda *given: given_settings(*given[:3], 1e10, *given[4:])
"""  # what --max-delay 10000000000s did, which the command line refuses now


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (f"given_settings = listen.ServerSettings{ENDLESS}", "OverflowError: "),
        ("batching.Batcher._answer = lambda self, batch: sys.exit(5)", "SystemExit: 5"),
        ("batching.Batcher._fitting = lambda self: 1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["an endless wait", "an exit", "an error"],
)
def test_a_failed_inference_thread_ends_the_server(more: str, said: str, artefact: Path) -> None:
    with server(artefact, more=more) as (process, address):
        assert served.right(address) == 503
        code, err = ended(process)
    assert code == 1 and err.count("\n") == 1
    assert err.startswith(f"convbench: the inference thread failed, and the server with it: {said}")


def test_a_batch_that_does_not_end_is_left_behind(artefact: Path) -> None:
    with server(artefact, step="print('running', file=sys.stderr, flush=True); time.sleep(1000)") as (process, address):
        asking = threading.Thread(target=gone, args=[address])
        asking.start()
        assert process.stderr and process.stderr.readline() == "running\n"
        process.terminate()
        code, err = ended(process)
        asking.join()
    assert code == 1
    assert err == "convbench: a batch was still running 0.5 s after the signal: stopping without it\n"


def gone(address: str) -> None:
    with pytest.raises((ConnectionError, OSError)):
        served.right(address)


def test_other_requests_are_answered_while_a_batch_runs(artefact: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while not Path({str(gate)!r}).exists(): time.sleep(0.01)"
    step = f"print('running', file=sys.stderr, flush=True)\n            {wait}"
    with server(artefact, step) as (process, address):
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(served.right, address)
            assert process.stderr and process.stderr.readline() == "running\n"
            assert served.alive(address) and not asking.done()
            gate.touch()
            assert asking.result() == 200
        process.terminate()
        assert ended(process) == (0, "")


@pytest.mark.parametrize(
    "line",
    [
        "serve {} --max-delay 10000000000s",
        "serve {} --max-delay 61s",
        "serve {} --grace 2h",
        "serve {} --grace 0s",
        "serve {} --client-timeout 1e300h",
        "deploy {} --to triton-server --out x --max-delay inf",
        "deploy {} --to triton-server --out x --max-delay 2m",
        "load {} --duration 25h",
        "load {} --slo nan",
        "throughput --model dic_s --cap 721h",
    ],
)
def test_a_duration_that_is_too_long_is_refused_with_its_range(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.format(tmp_path).split())
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    assert "must be greater than 0 and at most " in err


def test_too_few_files_to_serve_are_named(artefact: Path) -> None:
    said = r"only 100 files may be open, too few to serve: at least \d+ are needed"
    with pytest.raises(AssertionError, match=said), served.process(str(artefact), files=100):
        pass

"""``convbench load``: latencies from the intended times, failures counted, and the rate within a bound."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import exported
import pytest
import served
from served import Array

pytest.importorskip("uvicorn")

from convbench import cli
from convbench.errors import NothingMeasured, UsageError
from convbench.export import folder
from convbench.serving import app, connection, listen, load
from convbench.serving.served import Served
from convbench.serving.server import Server


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.artefact(tmp_path_factory.getbasetemp(), "dico", "onnx")


@contextmanager
def server(artefact: Path, run: Callable[[int], None], max_queue: int = 1000) -> Iterator[str]:
    """One that returns its input, after ``run(number of the call)``."""
    calls = iter(range(10**9))

    def step(x: Array, t: Array, y: Array) -> Array:
        run(next(calls))
        return x

    service = app.Service(Served(folder.read(artefact), 8), step, 0.0005, max_queue)
    with listen._listening("127.0.0.1", 0) as listener:
        serving = Server(service)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            serving.should_exit = True
            thread.join(30)


def stall(call: int) -> None:
    """Hold everything up once, after the requests that warm up."""
    if call == load.WARM_UP:
        time.sleep(0.4)


def test_an_open_loop_shows_a_stall_to_all_whom_it_held_up(artefact: Path) -> None:
    with server(artefact, stall) as address:
        (opened,) = load.run(address, None, 1, None, 0.8, rate=100)
    with server(artefact, stall) as address:
        (closed,) = load.run(address, None, 1, None, 0.8, clients=1)
    assert opened["failed"] == closed["failed"] == 0
    assert 45 < opened["requests"] < 125  # a Poisson process: 80, five standard deviations either way
    assert opened["latency_s_p90"] > 0.1  # half of all were held up
    assert closed["latency_s_p90"] < 0.1 and closed["requests"] > 20  # one was
    assert opened["images_per_s"] == pytest.approx(opened["requests"] / opened["duration_s"])


def test_answers_are_not_held_back_for_an_acknowledgement(artefact: Path) -> None:
    """Nagle's algorithm and delayed acknowledgements would make every one on a kept connection 40 ms."""
    with server(artefact, lambda call: None) as address:
        (row,) = load.run(address, None, 1, None, 0.5, clients=1)
    assert row["latency_s_p50"] < 0.03


def test_failures_are_counted_by_what_was_said(artefact: Path) -> None:
    def fails(call: int) -> None:
        if call >= load.WARM_UP:
            raise RuntimeError("broken")

    with server(artefact, fails) as address, pytest.raises(NothingMeasured, match="the artefact failed: broken"):
        load.run(address, None, 2, 12, 0.1, clients=2)


def test_a_server_that_goes_away_is_a_failure_not_a_crash(artefact: Path) -> None:
    with served.process(str(artefact)) as (process, address):
        threading.Timer(0.5, process.kill).start()
        (row,) = load.run(address, "tiny_dico", 2, 16, 1.0, rate=50)
    assert 0 < row["failed"] < row["requests"]
    assert sum(row["failures"].values()) == row["failed"]


def test_bisection_finds_the_rate_that_a_server_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = load.Asked("", "", b"", 4)

    async def open_loop(to: Any, asked: Any, rate: float, duration: float, seed: int) -> load.Seen:
        latency = 0.01 if rate <= 37 else 0.2
        return load.Seen([latency] * 100, [0.0], Counter(), 100 / rate)

    async def closed_loop(to: Any, asked: Any, clients: int, duration: float) -> load.Seen:
        return load.Seen([0.1] * 1000, [0.0], Counter(), 10.0)

    async def prepare(*_: Any) -> load.Asked:
        return asked

    for name, double in {"open_loop": open_loop, "closed_loop": closed_loop, "prepare": prepare}.items():
        monkeypatch.setattr(load, name, double)
    rows = load.run("http://a", None, 4, None, 1, slo_s=0.05)
    assert rows[-1]["within"] == "yes" and 35 < rows[-1]["rate"] <= 37
    assert rows[-1]["images_per_s"] == pytest.approx(4 * rows[-1]["rate"])
    assert len(rows) == 1 + load.STEPS
    assert {row["within"] for row in load.run("http://a", None, 4, None, 1, slo_s=0.001)} == {None, "no"}


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.9, 9), (0.99, 10), (0.01, 1), (1.0, 10)])
def test_percentiles_are_values_that_were_seen(share: float, value: float) -> None:
    assert load.percentile([float(n) for n in range(10, 0, -1)], share) == value
    assert load.percentile([], share) is None


@pytest.mark.parametrize("address", ["ftp://a", "http://", "http://a:port", "http://a/v2"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not an address such as"):
        connection.to(address)


def test_on_the_command_line(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(line: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["load", *line.split()])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    with server(artefact, lambda call: None) as address:
        code, out, err = run(f"{address} --concurrency 2 --duration 200ms --batch 8 --format json")
        (row,) = json.loads(out)
        assert code == 0 and row["failed"] == 0 and row["images_per_s"] > 0 and row["concurrency"] == 2
        code, out, err = run(f"{address} --slo 10s --duration 100ms")
        assert code == 0 and "within 10000 ms: " in out
        assert "1 to 8 fit into a request" in run(f"{address} --batch 9")[2]
        assert "there is tiny_dico" in run(f"{address} --model other")[2]
        assert "has the height 9" in run(f"{address} --side 9")[2]
    for line, message in {
        "http://127.0.0.1:9": "no answer from http://127.0.0.1:9",
        "http://127.0.0.1:9 --rate 1 --slo 1s": "exclude each other: give one",
    }.items():
        code, out, err = run(line)
        assert (code, out) == (2, "") and message in err

"""Worker processes: what one case does to its worker takes that case alone, and a run goes on where it was ended.

The first half has real workers on small models. The second half has the answers of workers made up, for what follows
from them.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
import torch
from contract import DONE, THROUGHPUT_KEYS

from convbench.errors import UsageError
from convbench.measure import estimate, feasible
from convbench.measure import largest_batch as batches
from convbench.measure.largest_batch import bisect
from convbench.run import cases as front
from convbench.run import process, survey
from convbench.run.cases import Planned, Settings, largest_batch, measured, planned
from convbench.run.jobs import Limits, Report, open_results
from convbench.run.plan import Request
from convbench.schema import Case, Measurement
from convbench.store import append, read

ROOT = Path(__file__).parents[2]
TINY = {"block_s": 0.005, "warmup_s": 0.01, "min_s": 0.02, "cap_s": 0.1, "min_blocks": 6}
Bundle = tuple[Case, ...]


def case(backend: str = "eager", **other: Any) -> Case:
    known: dict[str, Any] = {"model": "dico_s", "res": 64, "batch": 1, "threads": 1} | other
    return Case(backend=backend, **known)


def alone(*cases: Case) -> list[Bundle]:
    return [(each,) for each in cases]


def run(
    bundles: Sequence[Bundle],
    out: Path | None = None,
    report: Report = lambda *_: None,
    settings: Settings | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of bundles that were planned by hand."""
    for row in measured(Planned(list(bundles), open_results(out)), settings, report):
        yield row.to_json()


# Real workers


@pytest.fixture
def workers_find_the_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))


@pytest.mark.slow
def test_a_worker_that_dies_takes_its_case_and_not_the_run(workers_find_the_faults: None, tmp_path: Path) -> None:
    """An A/A comparison, three deaths, and a library that talks on stdout."""
    out = tmp_path / "run.jsonl"
    bundles = [
        (case(), case(repeat=2)),
        *alone(*(case(f"faulty:{name}") for name in ("exits", "is_killed", "crashes_and_leaves_a_child"))),
    ]
    bundles += alone(case("faulty:prints"))
    rows = list(run(bundles, out, settings=Settings(rules=TINY)))

    first, again, exited, killed, crashed, last = rows
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "out_of_memory", "failed", "ok"]
    assert exited["reason"] == "the measuring process ended with exit code 3: faulty library: giving up"
    assert killed["reason"] == "the process was killed, as the system does when memory runs out"
    assert crashed["reason"].startswith("the measuring process ended with signal 11")
    for dead in (exited, killed, crashed):
        assert (dead["verdict"], dead["images_per_s"], dead["block_s"]) == (None, None, [])
    assert last["error_vs_fp32"] == 0.0

    for row in (first, again):  # A/A: their intervals overlap
        assert row["images_per_s_low"] <= row["images_per_s"] <= row["images_per_s_high"]
        assert row["images_per_s"] == pytest.approx(1 / median(row["block_s"]), rel=1e-12)
    assert first["images_per_s_low"] <= again["images_per_s_high"]
    assert again["images_per_s_low"] <= first["images_per_s_high"]
    assert again["compared_with"] == first["case"]
    assert len(first["block_s"]) == len(again["block_s"])
    assert first["smallest_difference"] == max(0.03, again["ratio_high"] - 1, 1 - again["ratio_low"])
    assert {row["smallest_difference"] for row in rows} == {first["smallest_difference"]}

    assert [sorted(THROUGHPUT_KEYS - set(row)) for row in rows] == [[]] * 6
    assert [{key: row[key] for key in row if key != "schema"} for row in read(out)] == rows


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(workers_find_the_faults: None, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    said: list[str] = []
    (row,) = run(
        alone(case("faulty:hangs")),
        out,
        lambda case, what, done: said.append(what),
        Settings(Limits(timeout_s=8), rules=TINY),
    )
    assert (row["status"], row["reason"]) == ("timeout", "not finished after 8 s (--timeout)")
    assert set(said) <= {"loading", "reference", "proving"}
    assert [each["status"] for each in read(out)] == ["timeout"]
    assert workers_alive() == []


def workers_alive() -> list[str]:
    return [
        " ".join(child.cmdline()) for child in psutil.Process().children() if "convbench.run.worker" in child.cmdline()
    ]


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_while_a_worker_starts_leaves_nothing(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the start of the process and its order: the run once waited for the worker, and it for the run."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if begun:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(run(alone(case())))
    assert workers_alive() == []


def command(out: Path, *more: str) -> list[str]:
    line = "-m convbench throughput --model dico_s --res 64 --batch 1,2 --threads 1 --cap 0.05s --device cpu"
    return [sys.executable, *line.split(), "--out", str(out), *more]


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL while the second case runs: one whole line, no orphan; then the same command measures the other case."""
    out = tmp_path / "run.jsonl"
    parent = subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watched, workers = psutil.Process(parent.pid), []
    while parent.poll() is None and not (lines_of(out) and (workers := watched.children(recursive=True))):
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    _, said = parent.communicate()
    assert parent.returncode == -signal.SIGKILL, said
    gone, alive = psutil.wait_procs(workers, timeout=120)
    assert (len(gone) > 0, alive) == (True, [])

    first = out.read_bytes()
    assert first.endswith(b"\n")
    assert [row["batch"] for row in lines_of(out)] == [1]

    done = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == DONE, done.stderr
    assert "1 case to measure, 1 already in the file" in done.stderr
    assert out.read_bytes().startswith(first)
    assert [(row["batch"], row["status"]) for row in lines_of(out)] == [(1, "ok"), (2, "ok")]


# Made-up workers


Answer = Callable[[Case], Measurement]


def answer(case: Case, step_s: float = 0.01, **known: Any) -> Measurement:
    """A steady measurement: every block the same."""
    speed = case.batch / step_s
    steady: dict[str, Any] = {
        "status": "ok",
        "verdict": "VALID",
        "images_per_s": speed,
        "images_per_s_low": speed,
        "images_per_s_high": speed,
        "block_s": [step_s] * 8,
        "blocks": 8,
        "flops_per_s": 1e6 * speed,
        "mfu": speed / 1e6,
        "limit_images_per_s": 1e4,
        "limit_fraction": speed / 1e4,
    }
    if case.repeat > 1:
        steady |= {"ratio": 1.0, "ratio_low": 0.96, "ratio_high": 1.02, "difference": "same"}
    return Measurement.of(case, **(steady | known))


class Workers:
    """Stand in for processes: each order is answered at once and kept."""

    def __init__(self) -> None:
        self.orders: list[list[tuple[int, int]]] = []  # batch and repeat of the cases of each
        self.rules: list[dict[str, float]] = []
        self.answer: Answer = answer
        self.ends = process.Ended(0, [])

    def ask(self, order: dict[str, Any], hear: Callable[[dict[str, Any]], None], timeout_s: float) -> process.Ended:
        cases = [Case(**each) for each in order["cases"]]
        self.orders.append([(case.batch, case.repeat) for case in cases])
        self.rules.append(order["rules"])
        for each in cases:
            hear({"what": "timing", "done": 1.0})
            hear({"row": json.loads(json.dumps(self.answer(each).to_json()))})
        return self.ends


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    made_up = Workers()
    monkeypatch.setattr(process, "ask", made_up.ask)
    return made_up


def test_the_first_case_is_measured_against_itself(workers: Workers) -> None:
    rows = list(run(alone(case(batch=1), case(batch=2), case(batch=4))))
    assert workers.orders == [[(1, 1), (1, 2)], [(2, 1)], [(4, 1)]]
    assert [row["batch"] for row in rows] == [1, 2, 4]
    assert [row["repeat"] for row in rows] == [1, 1, 1]
    assert [row["smallest_difference"] for row in rows] == [pytest.approx(0.04)] * 3  # 1 - 0.96
    assert [rules["noise"] for rules in workers.rules] == [0.0, pytest.approx(0.04), pytest.approx(0.04)]


def test_what_a_file_holds_is_not_measured_again(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    bundles = alone(case(batch=1), case(batch=2), case(batch=4))
    rows = list(run(bundles, out))
    content, workers.orders = out.read_bytes(), []
    again = list(run(bundles, out))
    assert workers.orders == []
    assert out.read_bytes() == content
    assert [{key: row[key] for key in row if key != "schema"} for row in again] == rows


def test_only_what_is_missing_is_measured_and_rows_keep_the_order_of_the_plan(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    list(run(alone(case(batch=1), case(batch=4)), out))
    workers.orders = []
    rows = list(run(alone(case(batch=1), case(batch=2), case(batch=4)), out))
    assert workers.orders == [[(2, 1), (2, 2)]]
    assert [row["batch"] for row in rows] == [1, 2, 4]
    assert [row["batch"] for row in lines_of(out)] == [1, 4, 2]


def test_a_bundle_of_which_a_part_is_missing_is_timed_again_but_stored_once(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    append(out, answer(case(), 0.5))
    rows = list(run([(case(), case(repeat=2))], out))
    assert len(workers.orders) == 1
    assert [row["images_per_s"] for row in rows] == [2, 100]  # the stored one stands
    assert [(row["repeat"], row["images_per_s"]) for row in lines_of(out)] == [(1, 2), (2, 100)]


def test_a_file_of_another_machine_is_not_added_to(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    append(out, answer(case(), environment={"torch": "1.0", "cpu": "Z80"}))
    with pytest.raises(UsageError, match="was measured under different conditions"):
        list(run(alone(case(batch=2)), out))
    assert len(lines_of(out)) == 1


def test_every_row_is_stored_before_the_next_case_starts(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    seen = []
    workers.answer = lambda each: (seen.append(len(lines_of(out))), answer(each))[1]
    rows = run(alone(case(batch=1), case(batch=2), case(batch=4)), out)
    for number, _ in enumerate(rows, start=1):
        assert len(lines_of(out)) == number
    assert seen == [0, 0, 1, 2]


def test_a_worker_that_dies_between_two_rows_keeps_the_first(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(order: dict[str, Any], hear: Any, timeout_s: float) -> process.Ended:
        hear({"row": answer(Case(**order["cases"][0])).to_json()})
        return process.Ended(-11, ["warning: x", "Fatal Python error: Segmentation fault"])

    monkeypatch.setattr(process, "ask", half)
    rows = list(run([(case(), case("compile"))]))
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert rows[1]["reason"] == ("the measuring process ended with signal 11: Fatal Python error: Segmentation fault")


def test_a_batch_that_takes_less_time_than_a_smaller_one_is_suspect(workers: Workers, tmp_path: Path) -> None:
    """MONO, also against what the file holds."""
    workers.answer = lambda each: answer(each, {1: 0.010, 2: 0.012, 4: 0.005}[each.batch])
    out = tmp_path / "run.jsonl"
    rows = list(run(alone(case(batch=1), case(batch=2)), out))
    rows += list(run(alone(case(batch=4)), out))
    assert [row["verdict"] for row in rows] == ["VALID", "VALID", "SUSPECT"]
    assert rows[2]["reason"] == "MONO: took less time than the smaller batch 1: 0.005 s against 0.01 s"


def test_a_slow_case_is_compared_with_itself_block_by_block(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a second measurement would take too long: every other block stands for it."""
    monkeypatch.setattr(front, "SLOW_STEP_S", 0.0)
    workers.answer = lambda each: answer(each, block_s=[1.0, 1.1, 1.0, 1.1, 1.0, 1.1, 1.0, 1.1])
    (row,) = run(alone(case()))
    assert workers.orders == [[(1, 1)]]
    assert row["smallest_difference"] == pytest.approx(1 - 1.0 / 1.1)


def test_three_processes_make_one_row(workers: Workers) -> None:
    """The median of all blocks; the range of the processes' medians where that is wider than the interval of blocks."""
    speeds = iter([0.010, 0.010, 0.011, 0.011, 0.012, 0.012])  # each process has the twin of the A/A comparison too
    workers.answer = lambda each: answer(each, next(speeds), reason="LIN: x" if each.repeat == 1 else "")
    (row,) = run(alone(case(batch=2)), settings=Settings(processes=3))
    assert len(workers.orders) == 3
    assert (row["processes"], row["blocks"], len(row["block_s"])) == (3, 24, 24)
    assert row["process_s"] == [0.010, 0.011, 0.012]
    assert row["images_per_s"] == pytest.approx(2 / 0.011)
    assert (row["images_per_s_low"], row["images_per_s_high"]) == pytest.approx((2 / 0.012, 2 / 0.010))
    assert row["flops_per_s"] == pytest.approx(1e6 * row["images_per_s"])
    assert row["limit_fraction"] == pytest.approx(row["images_per_s"] / row["limit_images_per_s"])
    assert row["reason"] == "LIN: x"


def test_one_process_of_three_that_fails_is_the_result(workers: Workers) -> None:
    count = 0

    def fail_once(each: Case) -> Measurement:
        nonlocal count
        count += 1
        return answer(each) if count != 3 else Measurement.of(each, status="wrong", verdict="INVALID", reason="DEP: x")

    workers.answer = fail_once
    (row,) = run(alone(case()), settings=Settings(processes=3))
    assert (row["status"], row["reason"], row["images_per_s"]) == ("wrong", "DEP: x", None)


def test_a_budget_is_shared_and_what_it_does_not_reach_is_left_for_the_next_run(
    workers: Workers, tmp_path: Path
) -> None:
    out = tmp_path / "run.jsonl"
    list(run(alone(case(batch=1), case(batch=2)), settings=Settings(Limits(budget_s=1000))))
    assert [rules["cap_s"] for rules in workers.rules] == pytest.approx([250, 500], rel=0.1)  # half goes elsewhere

    workers.orders = []
    rows = list(run(alone(case(batch=1), case(batch=2)), out, settings=Settings(Limits(budget_s=1e-9))))
    assert workers.orders == []
    assert [(row["status"], row["reason"]) for row in rows] == [("skipped", "the budget was used up (--budget)")] * 2
    assert not out.exists()


def test_what_cannot_run_is_skipped_in_words_and_the_rest_goes_on(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "run.jsonl"
    cases = alone(
        case(precision="tf32"),
        case(device="cuda", threads=None),
        case(batch=10_000_000),
        case("faulty:needs_a_licence"),
    )
    rows = list(run([*cases, (case(batch=2), case("faulty:needs_a_licence", batch=2)), (case(),)], out))
    assert [row["status"] for row in rows] == ["skipped"] * 6 + ["ok"]
    assert rows[0]["reason"] == "a CPU has no TF32 units; use fp32"
    assert rows[1]["reason"].startswith("torch found no NVIDIA GPU")
    assert re.fullmatch(r"needs about \d{4,6}\.\d GiB, but only \d+\.\d GiB are free", rows[2]["reason"])
    assert rows[3]["reason"] == "needs a licence"
    assert rows[4]["reason"] == "its counterpart cannot run: needs a licence"
    assert rows[5]["reason"] == "needs a licence"
    assert all(row["images_per_s"] is None and row["verdict"] is None for row in rows[:6])
    assert workers.orders == [[(1, 1), (1, 2)]]
    assert [row["case"] for row in lines_of(out)] == [row["case"] for row in rows]


def test_memory_in_words_is_the_estimate(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feasible, "free_bytes", lambda device: 3 * 2**30)
    big = case(batch=4096)
    (row,) = run(alone(big))
    needed = estimate.estimate(big, estimate.quick_rates("cpu")).needed_bytes
    assert needed > 3 * 2**30
    assert row["reason"] == f"needs about {needed / 2**30:.1f} GiB, but only 3.0 GiB are free"


def test_what_the_worker_refuses_is_a_usage_error(workers: Workers, tmp_path: Path) -> None:
    """A real worker's message, through the real channel, is tested with the command line."""
    with pytest.raises(UsageError, match=r"^no backend at 'faulty:nothing'"):
        list(run(alone(case("faulty:nothing"))))
    with pytest.raises(UsageError, match=r"^'faulty:not_a_backend' is a str, not a convbench Backend$"):
        list(run(alone(case("faulty:not_a_backend"))))


def test_progress_names_the_case(workers: Workers) -> None:
    seen: list[tuple[str, str, float]] = []
    list(run(alone(case(batch=1), case(batch=2)), report=lambda id, what, done: seen.append((id, what, done))))
    assert seen == [(case(batch=1).id, "timing", 1.0)] * 2 + [(case(batch=2).id, "timing", 1.0)]


@pytest.mark.parametrize("largest", [*range(1, 70), 1000, 4095, 4096, 4097, 2**16 - 1, 2**16])
def test_bisection_finds_the_largest_that_fits(largest: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= largest

    assert bisect(fits) == largest
    assert len(tried) == len(set(tried)) <= 34
    assert max(tried) <= 2**16


def test_bisection_ends_at_its_limit_and_never_below_one() -> None:
    assert bisect(lambda batch: True, most=1000) == 1000
    assert bisect(lambda batch: True) == 2**16
    assert bisect(lambda batch: False) == 1


def test_the_largest_batch_of_a_cpu_fits_by_the_estimate_and_one_more_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * 2**30
    monkeypatch.setattr(batches, "free_bytes", lambda device: free)
    found = largest_batch(case(batch=0))
    rates = estimate.quick_rates("cpu")
    assert estimate.estimate(case(batch=found), rates).needed_bytes <= free
    assert estimate.estimate(case(batch=found + 1), rates).needed_bytes > free


def test_threads_are_fixed_for_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "cores", lambda: 7)
    cases = [case(threads=None), case(threads=3), case(threads=None, device="cuda")]
    assert [each.threads for each in front._with_threads(cases)] == [7, 3, None]


def test_a_ratio_stands_on_the_row_of_the_case_and_is_measured_once(workers: Workers, tmp_path: Path) -> None:
    """A file that holds both cases alone lacks their ratio; one that holds it is not measured again."""
    out = tmp_path / "run.jsonl"
    both = [(case(), case("compile"))]
    list(run(alone(*both[0]), out))

    def compared(each: Case) -> Measurement:
        known = {"compared_with": both[0][1].id, "ratio": 1.2, "ratio_low": 1.1, "ratio_high": 1.3}
        return answer(each, **(known | {"difference": "faster"} if each.backend == "eager" else {}))

    workers.answer, workers.orders = compared, []
    for _ in range(2):
        first, second = run(both, out)
        assert (first["compared_with"], first["ratio"], first["difference"]) == (second["case"], 1.2, "faster")
        assert second["ratio"] is None
    assert len(workers.orders) == 1
    assert [(row["backend"], row["ratio"]) for row in lines_of(out)] == [
        ("eager", None),
        ("compile", None),
        ("eager", 1.2),
    ]


def test_no_comparison_of_a_run_claims_less_than_its_own_noise(workers: Workers) -> None:
    """The A/A comparison of the run cannot exclude 30 %: a ratio of 1.2 is then within the noise."""
    aa = {"ratio": 1.0, "ratio_low": 0.7, "ratio_high": 1.1}

    def noisy(each: Case) -> Measurement:
        known = {"compared_with": "x", "ratio": 1.2, "ratio_low": 1.15, "ratio_high": 1.25, "difference": "faster"}
        return answer(each, **(aa if each.repeat > 1 else known if each.batch == 2 else {}))

    rows = list(run([(case(),), (case(batch=2), case("compile", batch=2))]))
    assert rows[1]["difference"] is None
    workers.answer = noisy
    first, second, _ = run([(case(),), (case(batch=2), case("compile", batch=2))])
    assert first["smallest_difference"] == pytest.approx(0.3)
    assert (second["ratio"], second["difference"]) == (1.2, "unclear")


def test_a_cap_is_the_smaller_of_its_own_and_the_share_of_the_budget(workers: Workers) -> None:
    list(run(alone(case()), settings=Settings(Limits(cap_s=2.0, budget_s=1000))))
    list(run(alone(case()), settings=Settings(Limits(cap_s=2000.0, budget_s=1000))))
    assert [rules["cap_s"] for rules in workers.rules] == [2.0, pytest.approx(500, rel=0.1)]


@pytest.mark.parametrize(("timeout_s", "stored"), [(5.0, ["timeout"]), (50.0, [])])
def test_a_case_that_the_budget_ends_is_left_for_the_next_run(
    timeout_s: float, stored: list[str], workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own time limit is a result, which is stored; a case never has more than what is left of the budget."""
    given: list[float] = []

    def hangs(order: Any, hear: Any, timeout_s: float) -> process.Ended:
        given.append(timeout_s)
        raise TimeoutError

    monkeypatch.setattr(process, "ask", hangs)
    out = tmp_path / "run.jsonl"
    (row,) = run(alone(case()), out, settings=Settings(Limits(timeout_s=timeout_s, budget_s=10.0)))
    assert given == [pytest.approx(min(timeout_s, 10.0), abs=1.0)]
    assert [each["status"] for each in lines_of(out)] == stored if stored else not out.exists()
    assert row["reason"] == ("not finished after 5 s (--timeout)" if stored else "the budget was used up (--budget)")


def test_the_search_for_the_largest_batch_is_paid_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with half of the budget at the latest, and keeps the largest batch that fitted by then."""
    given: list[float] = []

    def searches(order: Any, hear: Any, timeout_s: float) -> process.Ended:
        given.append(timeout_s)
        for batch in (2, 4, 8):
            hear({"batch": batch})
        raise TimeoutError

    monkeypatch.setattr(process, "ask", searches)
    request = Request(["dico_s"], [64], batch=["max"], device=["cuda"])
    found = planned(request, limits=Limits(budget_s=100.0))
    assert [each.batch for each in found.cases] == [8]
    assert given == [pytest.approx(50.0, abs=1.0)]
    assert 0 < found.took_s < 50
    assert planned(request, limits=Limits(timeout_s=7.0)).cases == found.cases
    assert given[1] == pytest.approx(7.0, abs=1.0)


def test_auto_measures_every_backend_that_can_run_where_the_file_holds_none(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"eager": 0.02, "compile": 0.01}
    monkeypatch.setattr(survey, "unsupported", lambda case: None if case.backend in speeds else "not here")
    workers.answer = lambda each: answer(each, speeds[each.backend])
    request = Request(["dico_s"], [64], backend=["auto"], threads=1)
    rows = [row.to_json() for row in front.cases(request, tmp_path / "run.jsonl")]
    assert {row["backend"] for row in rows} == set(speeds)
    found = planned(request, tmp_path / "run.jsonl")
    assert ([each.backend for each in found.cases], found.missing) == (["compile"], [])

"""The simulated server: by hand, against queueing theory, and against the batcher that ``serve`` runs."""

import math
from itertools import pairwise
from statistics import fmean

import pytest

from convbench.reports.capacity.queueing import ARRIVALS, BatchServer, arrival_times, simulate


def latencies(server: BatchServer, *arrivals: float) -> list[float]:
    return [round(each, 9) for each in simulate(server, arrivals).latencies_s]


def test_a_lone_request_waits_for_others_and_a_full_batch_does_not() -> None:
    server = BatchServer((1.0, 1.5), delay_s=0.25)
    assert latencies(server, 0.0) == [1.25]
    assert latencies(server, 0.0, 0.125) == [1.625, 1.5]  # full after 0.125 s
    assert latencies(server, 0.0, 0.5) == [1.25, 1.75]  # too late for the first batch, and old enough when it ends
    assert latencies(BatchServer((1.0,), delay_s=0.25), 0.0) == [1.0]  # a batch of one is full at once
    assert server.alone_s == 1.25


def test_requests_run_in_the_order_they_came() -> None:
    assert latencies(BatchServer((1.0, 1.0)), 0.0, 0.1, 0.2, 0.3) == [1.0, 1.9, 1.8, 2.7]


def test_an_image_of_several_rounds_joins_those_that_run() -> None:
    """The second comes while the first round of the first runs, and they alternate: neither waits for the other."""
    assert latencies(BatchServer((1.0, 1.0), rounds=3), 0.0) == [3.0]
    assert latencies(BatchServer((1.0, 1.0), rounds=3), 0.0, 0.5) == [3.0, 3.5]
    assert latencies(BatchServer((1.0,), rounds=2), 0.0, 0.5) == [3.0, 3.5]  # one at a time, in turn
    assert latencies(BatchServer((1.0, 1.0), rounds=2, delay_s=0.5), 0.0) == [3.0]  # each round waits for a full batch


@pytest.mark.parametrize("think_s", [0.0, 0.001])
def test_many_rounds_at_once_are_those_one_by_one(think_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a batch that has the server for itself are jumped over."""
    server = BatchServer((0.5, 0.75, 0.9), rounds=40, delay_s=0.01, think_s=think_s)
    arrivals = [0.0, 3.3, 4.0, 90.0, 90.0, 90.0, 140.0]
    jumped = latencies(server, *arrivals)
    monkeypatch.setattr("convbench.reports.capacity.queueing._repeat", lambda *given: given[3])
    assert jumped == pytest.approx(latencies(server, *arrivals), abs=1e-6)
    assert latencies(server, 0.0) == [pytest.approx(40 * (0.51 + think_s) - think_s)]


def test_steps_of_clients_that_take_a_moment_alternate() -> None:
    """While the first client thinks, the second's request is old enough to start alone: they never share a batch."""
    server = BatchServer((1.0, 1.0), rounds=3, delay_s=0.01, think_s=0.001)
    together, apart = latencies(server, 0.0, 0.0), latencies(server, 0.0, 0.5)
    assert together == [3.002, 3.002]
    assert apart[0] > 5 and apart[1] > 5


def test_full_queues_refuse() -> None:
    found = simulate(BatchServer((1.0,), queue=1), [0.0, 0.1, 0.2, 0.3])
    assert (found.refused, [round(each, 9) for each in found.latencies_s]) == (2, [1.0, 1.9])


def test_the_mean_wait_is_that_of_theory() -> None:
    """M/D/1 (Pollaczek and Khinchine): the mean wait is load * service / (2 * (1 - load))."""
    load, count = 0.6, 20_000
    found = simulate(BatchServer((1.0,)), arrival_times(load, count, "poisson")).latencies_s
    assert fmean(found) - 1.0 == pytest.approx(load / (2 * (1 - load)), rel=0.1)


def test_an_overloaded_server_finishes_what_it_can() -> None:
    server = BatchServer((0.4, 0.6, 0.8, 1.0), rounds=2)
    assert server.images_per_s == 2.0
    found = simulate(server, arrival_times(2 * server.images_per_s, 2000, "poisson"))
    assert 2000 / found.ended_s == pytest.approx(server.images_per_s, rel=0.02)


@pytest.mark.parametrize(("kind", "spread"), [("poisson", 1.0), ("bursty", 2.0)])
def test_arrivals_have_their_rate_and_spread(kind: str, spread: float) -> None:
    times = arrival_times(5.0, 20_000, kind)
    gaps = [after - before for before, after in pairwise(times)]
    mean = fmean(gaps)
    assert mean == pytest.approx(0.2, rel=0.05)
    assert math.sqrt(fmean((gap - mean) ** 2 for gap in gaps)) / mean == pytest.approx(spread, rel=0.08)


def test_bursts_make_the_tail_longer() -> None:
    server = BatchServer((0.1, 0.15, 0.2), delay_s=0.005)
    tails = [
        sorted(simulate(server, arrival_times(0.7 * server.images_per_s, 4000, kind)).latencies_s)[3960]
        for kind in ARRIVALS
    ]
    assert tails[1] > 1.3 * tails[0]

"""Simulate one server with dynamic batching, as ``convbench serve`` and Triton batch requests.

Requests wait in the order they came. A batch starts when it is full, or when its oldest request has waited ``delay_s``.
An image takes ``rounds`` requests, one after the other: a step of a sampler each, or one for the whole image.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from convbench.schema import Second

BURST_SHAPE = 0.25  # of the gamma distribution of bursty gaps: their deviation is 1 / sqrt(shape) = 2 times their mean
ARRIVALS = ("poisson", "bursty")


@dataclass(frozen=True)
class BatchServer:
    """One device with its batcher."""

    service_s: Sequence[Second]  # of a batch of 1, 2, … images; as many as fit into one
    rounds: int = 1  # requests of one image
    delay_s: Second = 0.0
    think_s: Second = 0.0  # from an answer to the image's next request
    queue: int | None = None  # requests that may wait; more are refused

    @property
    def images_per_s(self) -> float:
        """Images/s with full batches."""
        return len(self.service_s) / (self.rounds * self.service_s[-1])

    @property
    def alone_s(self) -> Second:
        """Seconds of an image that has the server for itself."""
        waits = self.delay_s if len(self.service_s) > 1 else 0.0
        return self.rounds * (self.service_s[0] + waits + self.think_s)


@dataclass(frozen=True)
class Simulated:
    """Finished images of a simulation, in the order of their arrivals."""

    latencies_s: list[Second]
    refused: int
    ended_s: Second  # when the last one was finished


def arrival_times(rate: float, count: int, kind: str, seed: int = 0) -> list[Second]:
    """Draw the times of ``count`` arrivals: of a Poisson process, or with gamma-distributed gaps, in bursts."""
    draw = random.Random(f"{kind} {seed}")
    at, found = 0.0, []
    for _ in range(count):
        at += draw.expovariate(rate) if kind == "poisson" else draw.gammavariate(BURST_SHAPE, 1 / BURST_SHAPE / rate)
        found.append(at)
    return found


def simulate(server: BatchServer, arrivals: Sequence[Second]) -> Simulated:
    """Simulate every request of images that arrive at these times."""
    most, delay = len(server.service_s), server.delay_s
    left = [server.rounds] * len(arrivals)
    finished: list[Second | None] = [None] * len(arrivals)
    again: deque[tuple[Second, int]] = deque()  # requests to come of images in progress, in the order of time
    waiting: deque[tuple[Second, int]] = deque()
    coming, refused, now = 0, 0, 0.0

    def next_request() -> Second:
        new = arrivals[coming] if coming < len(arrivals) else float("inf")
        return min(new, again[0][0]) if again else new

    def take() -> None:
        """Move the next request into the queue."""
        nonlocal coming, refused
        if again and (coming == len(arrivals) or again[0][0] <= arrivals[coming]):
            waiting.append(again.popleft())
            return
        if server.queue is not None and len(waiting) >= server.queue:
            refused += 1
        else:
            waiting.append((arrivals[coming], coming))
        coming += 1

    while True:
        while next_request() <= now:
            take()
        if not waiting:
            if (upcoming := next_request()) == float("inf"):
                break
            now = upcoming
            continue
        until = waiting[0][0] + delay
        while len(waiting) < most and next_request() <= until:
            now = max(now, next_request())
            take()
        if len(waiting) < most:
            now = max(now, until)
        batch = [waiting.popleft()[1] for _ in range(min(most, len(waiting)))]
        now += server.service_s[len(batch) - 1]
        for image in batch:
            left[image] -= 1
        ongoing = [image for image in batch if left[image]]
        for image in batch:
            if not left[image]:
                finished[image] = now
        if len(ongoing) == len(batch) and not waiting and not again:
            now = _repeat(server, ongoing, left, now, arrivals[coming] if coming < len(arrivals) else float("inf"))
        again.extend((now + server.think_s, image) for image in ongoing)
    done = [(end, at) for end, at in zip(finished, arrivals, strict=True) if end is not None]
    return Simulated([end - at for end, at in done], refused, max((end for end, _ in done), default=0.0))


def _repeat(server: BatchServer, batch: list[int], left: list[int], now: Second, arrival: Second) -> Second:
    """Let a batch that has the server for itself run on, round by round, as long as nothing else comes or ends."""
    size = len(batch)
    waits = server.delay_s if size < len(server.service_s) else 0.0
    cycle = server.think_s + waits + server.service_s[size - 1]
    alone = 10**9 if arrival == float("inf") else int((arrival - now) / cycle)
    rounds = min(alone, min(left[image] for image in batch) - 1)
    if rounds <= 0:
        return now
    for image in batch:
        left[image] -= rounds
    return now + rounds * cycle

"""Requests wait in a bounded queue; one thread joins those of one size into batches and runs them."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Array, Array, Array], Array]


class QueueFull(Exception):
    """There is no room for the images of a request now."""


class Stopped(Exception):
    """The server is stopping."""


@dataclass(eq=False)
class Waiting:
    """A request in the queue."""

    x: Array
    t: Array
    y: Array
    result: "Future[Array]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    @property
    def images(self) -> int:
        return len(self.x)


class Batcher:
    """Runs requests in the order they came, except that those that fit into a batch overtake those of another size.

    Args:
        run: called in one thread alone, with at most ``max_batch`` images of one size.
        min_batch: fewer images are filled up with copies of the last.
        max_delay_s: how long a batch that is not full waits for more.
        max_queue: how many images may wait.
        seen: told the images and seconds of each run.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int,
        max_delay_s: float,
        max_queue: int,
        min_batch: int = 1,
        seen: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self.run, self.max_batch, self.min_batch = run, max_batch, min_batch
        self.max_delay_s, self.max_queue, self.seen = max_delay_s, max_queue, seen
        self.waiting: deque[Waiting] = deque()
        self.images = 0  # waiting
        self.changed = threading.Condition()
        self.stopping = False
        self.failure: BaseException | None = None  # that ended the thread
        self.thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self.thread.start()

    def submit(self, x: Array, t: Array, y: Array) -> "Future[Array]":
        """The output, once it is there. Raises QueueFull or Stopped at once."""
        request = Waiting(x, t, y)
        with self.changed:
            if self.stopping:
                raise Stopped
            if self.images + request.images > self.max_queue:
                raise QueueFull
            self.waiting.append(request)
            self.images += request.images
            self.changed.notify()
        request.result.add_done_callback(partial(self._forget, request))
        return request.result

    def _forget(self, request: Waiting, result: "Future[Array]") -> None:
        """Remove a cancelled request from the queue at once."""
        if result.cancelled():
            with self.changed:
                if request in self.waiting:
                    self.waiting.remove(request)
                    self.images -= request.images
                    self.changed.notify()

    def hurry(self) -> None:
        """Stop waiting for further requests before a batch runs."""
        with self.changed:
            self.max_delay_s = 0.0
            self.changed.notify()

    def stop(self, within_s: float | None = None) -> None:
        """Accept no more requests, finish the queue and end the thread, or leave it running after ``within_s``."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        self.thread.join(within_s)

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and not self.stopping

    def _work(self) -> None:
        batch: list[Waiting] = []
        try:
            while batch := self._next():
                # Without those that their clients have given up.
                batch = [request for request in batch if request.result.set_running_or_notify_cancel()]
                self._answer(batch)
        except BaseException as failure:  # reported by the server, which stops
            self.failure = failure
            self._abandon(batch)

    def _abandon(self, batch: list[Waiting]) -> None:
        """Fail every unanswered request after the thread has failed."""
        with self.changed:
            self.stopping = True
            left, self.waiting, self.images = self.waiting, deque(), 0
        running = [request for request in batch if not request.result.done()]
        for request in running + [request for request in left if request.result.set_running_or_notify_cancel()]:
            request.result.set_exception(Stopped())

    def _next(self) -> list[Waiting]:
        """The next batch; empty at the end."""
        with self.changed:
            while True:
                if self.waiting:
                    chosen, full = self._fitting()
                    left = self.waiting[0].since + self.max_delay_s - time.monotonic()
                    if full or self.stopping or left <= 0:
                        break
                    self.changed.wait(left)  # the queue may be empty afterwards, if all requests were cancelled
                elif self.stopping:
                    return []
                else:
                    self.changed.wait()
            taken = {id(request) for request in chosen}
            self.waiting = deque(request for request in self.waiting if id(request) not in taken)
            self.images -= sum(request.images for request in chosen)
            return chosen

    def _fitting(self) -> tuple[list[Waiting], bool]:
        """Requests of the size of the oldest that fit into one batch, and whether no more would."""
        size = self.waiting[0].x.shape[1:]
        chosen: list[Waiting] = []
        images = 0
        for request in self.waiting:
            if request.x.shape[1:] != size:
                continue
            if images + request.images > self.max_batch:
                return chosen, True
            chosen.append(request)
            images += request.images
        return chosen, images == self.max_batch

    def _answer(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        try:
            out = self._run(batch)
        except Exception as error:  # whatever a runtime raises belongs to the request that caused it
            if len(batch) > 1:
                for request in batch:
                    self._answer([request])
            else:
                batch[0].result.set_exception(error)
            return
        at = 0
        for request in batch:
            # A copy: some runtimes overwrite their output at the next call.
            request.result.set_result(out[at : at + request.images].copy())
            at += request.images

    def _run(self, batch: list[Waiting]) -> Array:
        x, t, y = (
            np.concatenate([getattr(request, name) for request in batch]) if len(batch) > 1 else getattr(batch[0], name)
            for name in ("x", "t", "y")
        )
        images = len(x)
        if images < self.min_batch:
            fill = [images - 1] * (self.min_batch - images)
            x, t, y = (np.concatenate([value, value[fill]]) for value in (x, t, y))
        started = time.perf_counter()
        out = self.run(x, t, y)
        self.seen(images, time.perf_counter() - started)
        return out[:images]

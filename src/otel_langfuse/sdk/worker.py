"""What the engine's thread does with the entries of the queue, until rows are handed over.

It takes a few entries at a time, each step for all of them. While little is queued it naps between slices of work, so that
no other thread waits long for the interpreter. It owns the pipeline; what an error costs is one span, and is counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_langfuse.sdk.queue import Entry, Kind, Queue, Views

if TYPE_CHECKING:
    from otel_langfuse.pipeline import Pipeline, Row

__all__ = ["Worker"]

_HANDFUL = 64  # entries, a start or an end each, that take each step together at the most
_FIRST = 4  # likewise, until it is known how long they take
_STEP = 0.004  # seconds that a handful should take at the most
_ENCODED = 3  # part of a handful whose rows are encoded together at the least: until then all they are made of is held
_RESTS = 8  # entries between two looks at the clock
# Seconds of mapping after which the worker naps, so that other threads run. A nap costs about as much as mapping a span, so
# they become fewer while nobody brings anything; the interpreter would let others wait for 5 ms.
_SLICE, _LONGEST_SLICE = 0.001, 0.004
_NAP = 0.00005


class Worker:
    """Works the queue off. Not thread-safe, but for `discard` and for what others set and read.

    Args:
        queue: Where entries come from.
        pipeline_to: Makes the pipeline, whose rows go to the function that it is given.
        hand_over: Takes the rows of a handful or more, and is called without any where there are none.
        failed: Told of an error that cost a span.
        interval: Seconds of work after which upkeep is due.
        calm_bytes: With more in the queue the worker does not nap.

    Attributes:
        stop: Set when nothing more is to be taken.
        awaited: Events that somebody waits for; the worker does not nap meanwhile.
    """

    def __init__(
        self,
        queue: Queue,
        pipeline_to: Callable[[Callable[[Row], None]], Pipeline],
        hand_over: Callable[[list[Row]], None],
        failed: Callable[[BaseException], None],
        *,
        interval: float,
        calm_bytes: int,
    ) -> None:
        self.stop = False
        self.awaited: set[threading.Event] = set()
        self._queue = queue
        self._rows: list[Row] = []
        self._pipeline = pipeline_to(self._rows.append)
        self._pass_on = hand_over
        self._failed = failed
        self._interval = interval
        self._calm_bytes = calm_bytes
        self._ended: Views = {}
        self._steps: deque[tuple[Kind, Any]] = deque()
        self._inside = False  # the pipeline, from where somebody may flush
        self._handful = min(_FIRST, _HANDFUL)
        self._slice = _SLICE
        self._nap_at = 0.0

    def work_off(self) -> None:
        """Takes what is queued, until nothing is, or `stop`; hands its rows over."""
        begun = time.monotonic()
        due, self._nap_at = begun + self._interval, begun + self._slice
        self._handle()  # what is left when somebody flushes from within the worker
        while not self.stop and (entries := self._queue.take(self._handful, self._failed)):
            begun, taken = time.monotonic(), len(entries)
            self._prepare(entries)
            self._handle()
            if len(self._rows) >= max(1, self._handful // _ENCODED):
                self.hand_over()
            now = time.monotonic()
            # Large spans take long, and hold much: fewer of them at a time.
            self._handful = max(1, min(_HANDFUL, int(_STEP * taken / max(now - begun, 1e-9))))
            self._rest()
            if now >= due:
                # Spans may come faster than they are mapped for long; waits and memory are bounded all the same.
                self.tick()
                due = now + self._interval
        self.hand_over()

    def tick(self) -> None:
        """Upkeep of the pipeline; its rows are handed over."""
        outside, self._inside = not self._inside, True
        try:
            self._pipeline.tick()
        except BaseException as error:  # noqa: BLE001  # upkeep must not end the worker
            self._failed(error)
        self._inside = not outside
        self.hand_over()

    def hand_over(self) -> None:
        """Passes the rows on that have come out of the pipeline."""
        rows = self._rows.copy()
        self._rows.clear()
        self._pass_on(rows)

    def discard(self) -> int:
        """Empties the queue and what is in hand, on any thread; how many spans were in them."""
        lost = 0
        while self._steps:
            with suppress(IndexError):  # the worker was faster
                lost += self._steps.popleft()[0].spans
        return lost + self._queue.discard()

    def _prepare(self, entries: Sequence[Entry]) -> None:
        """Takes each step for all entries before the next: what a step needs is in the processor's caches then."""
        ended = self._ended
        for entry in entries:
            try:
                prepared = entry[0].prepare(entry, ended)
            except BaseException as error:  # noqa: BLE001  # one bad span must not stop the others
                self._failed(error)
            else:
                if prepared is not None:
                    self._steps.append((entry[0], prepared))
        self._rest()
        self._pipeline.read_ahead(ended.values())

    def _handle(self) -> None:
        """The last step, one by one and in order, up to what shutdown has taken away."""
        steps = self._steps
        outside, self._inside = not self._inside, True
        number = 0
        while steps:
            if not number % _RESTS:
                self._rest()
            number += 1
            try:
                kind, prepared = steps.popleft()
            except IndexError:
                break
            try:
                kind.handle(prepared, self._pipeline)
            except BaseException as error:  # noqa: BLE001  # likewise
                self._failed(error)
        self._ended.clear()
        if outside:
            try:
                self._pipeline.pause()
            except BaseException as error:  # noqa: BLE001  # as upkeep
                self._failed(error)
            self._inside = False

    def _rest(self) -> None:
        """Lets other threads run if the worker has worked for a slice of time."""
        now = time.monotonic()
        if now >= self._nap_at and not self.awaited:
            if self._queue.bytes < self._calm_bytes:
                waiting = len(self._queue)
                time.sleep(_NAP)
                now = time.monotonic()
                busy = len(self._queue) > waiting
                self._slice = _SLICE if busy else min(2 * self._slice, _LONGEST_SLICE)
            self._nap_at = now + self._slice

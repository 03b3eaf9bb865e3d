"""The queue in front of Langfuse and the thread that empties it.

Rules:

- ``offer`` does no I/O, waits for nothing but a short lock, and never raises. It seals a full batch in its own thread,
  so that mapping, compressing and sending overlap (compressing releases the interpreter's lock).
- The queue is bounded in bytes: the open batch counts as it is, a sealed one as the compressed bytes it holds, in
  flight or waiting. When it is full the newest span is dropped.
- A span leaves by being delivered or by ``Counters.drop``; every batch holds a ticket until all of it has left.
- One daemon thread sends, started by the first ``offer``. Requests that wait for another attempt let others pass.
- A fork leaves the child an empty queue: the parent's spans are the parent's to deliver.
"""

from __future__ import annotations

import logging
import os
import random as random_module
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.langfuse.answers import Endpoint, Judge, LangfuseJudge
from otel_langfuse.langfuse.backlog import NEVER, Backlog, Batch
from otel_langfuse.langfuse.custody import NOBODY, Custodian
from otel_langfuse.langfuse.dispatch import Dispatcher, Outcome
from otel_langfuse.langfuse.request import Request, seal
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.langfuse.wire import EncodedSpan

__all__ = ["Delivery"]

logger = logging.getLogger(__name__)

_LEAST_TIMEOUT = 0.05
_JOIN_TIMEOUT = 1.0
_FULL_REMEDY = "The queue is full: {} takes spans more slowly than they come, or not at all; see the last error."
_LATE_REMEDY = "They ended after shutdown."
_SHUTDOWN_REMEDY = "They were not taken by {} before the deadline of shutdown; see the last error."
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log lines around this one."


class Delivery:
    """Delivers encoded spans to one destination, each once.

    Args:
        transport: Sends the bytes.
        counters: Takes ``sent``, ``requests``, ``retries``, ``bytes_sent``, ``split_requests``, ``cut_spans``,
            ``ambiguous_resend`` and every drop.
        endpoint: What log lines say about the destination.
        flush_at: Spans that make a batch full.
        flush_interval: Seconds after its first span when a batch is sent even if it is not full.
        request_bytes: Uncompressed bytes that make a batch full; a larger span goes alone.
        queue_bytes: Bound of the queue.
        timeout: Seconds for one request.
        compress: Whether bodies are compressed with gzip.
        max_age: Seconds after its first failure in which a request is retried.
        custodian: Keeps sealed requests beyond this process. With a durable one, what is left at shutdown is no loss.
        name: Names the thread and the log lines.
        judge: Says what an answer means; Langfuse's own at ``endpoint`` if not given.
        clock: Monotonic seconds; decides all that depends on time.
        wall_clock: Seconds since the epoch, for dates in answers and in ``status``.
        wait: Waits on a condition, as ``threading.Condition.wait`` does; a fake clock brings its own.
        random: Uniform in [0, 1), for jitter.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        counters: Counters,
        endpoint: Endpoint | None = None,
        flush_at: int = 512,
        flush_interval: float = 1.0,
        request_bytes: int = 4 * 1024 * 1024,
        queue_bytes: int = 64 * 1024 * 1024,
        timeout: float = 5.0,
        compress: bool = True,
        max_age: float = 600.0,
        custodian: Custodian = NOBODY,
        name: str = "langfuse",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Condition, float | None], bool] = threading.Condition.wait,
        random: Callable[[], float] = random_module.random,
        judge: Judge | None = None,
    ) -> None:
        self._counters = counters
        self._flush_interval = flush_interval
        self._timeout = timeout
        self._compress = compress
        self._custodian = custodian
        self._name = name
        self._clock = clock
        self._wall_clock = wall_clock
        self._wait = wait
        self._new_backlog = partial(Backlog, limit=queue_bytes, batch_spans=max(flush_at, 1), batch_bytes=request_bytes)
        judge = judge or LangfuseJudge(endpoint or Endpoint())
        self._destination = judge.destination
        self._new_dispatcher = partial(
            Dispatcher,
            transport,
            endpoint=endpoint or Endpoint(),
            judge=judge,
            counters=counters,
            max_age=max_age,
            clock=clock,
            wall_clock=wall_clock,
            random=random,
        )
        self._closed = False
        self._ending = False
        self._start_empty()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forked(weakref.WeakMethod(self.after_fork_in_child)))

    def offer(self, spans: Sequence[EncodedSpan]) -> None:
        """Takes ``spans`` for delivery; drops what the queue has no room for."""
        if os.getpid() != self._pid:
            self.after_fork_in_child()
        position = 0
        while position < len(spans):
            position, batch = self._collect(spans, position)
            if batch is not None:
                self._seal(batch)

    def restore(self, requests: Sequence[Request]) -> None:
        """Takes requests that an earlier process sealed and did not settle, oldest first; sends the same bytes."""
        with self._changed:
            for request in requests:
                self._backlog.restore(request)
            self._start_thread()
            self._changed.notify_all()

    def force_flush(self, timeout: float) -> bool:
        """Whether everything offered before has been delivered or dropped within ``timeout`` seconds.

        What ``shutdown`` gave up was neither: it is ``False`` then.
        """
        if os.getpid() != self._pid:
            self.after_fork_in_child()
        deadline = self._clock() + timeout
        last = self.hasten()
        with self._changed:
            while not self._backlog.settled(last):
                left = deadline - self._clock()
                if left <= 0:
                    return False
                self._wait(self._changed, left)
            return not self._lost

    def hasten(self) -> int:
        """Sends what was offered before without waiting for more, and returns at once; the last ticket of it."""
        with self._changed:
            batch = self._backlog.take()
            last = self._backlog.last_ticket
            self._start_thread()
        if batch is not None:
            self._seal(batch)
        return last

    def close(self, timeout: float) -> None:
        """Begins what ``shutdown`` ends, and returns at once, so that several deliveries can end side by side.

        Args:
            timeout: Seconds from now that all of it may take. A second call changes nothing.
        """
        with self._changed:
            if not self._closed:
                self._closed = True
                self._deadline = self._clock() + timeout
                self._resume_at = 0.0
                self._backlog.hurry()
                self._changed.notify_all()

    def shutdown(self, timeout: float) -> bool:
        """Takes no more spans, delivers the rest within ``timeout`` seconds and drops what is left then.

        It gives up earlier if no further attempt can fall into that time. A second call waits for the first and returns
        what it returned.

        Returns:
            Whether no span was dropped for lack of time.
        """
        if os.getpid() != self._pid:
            self.after_fork_in_child()
        self.close(timeout)
        with self._changed:
            first, self._ending = not self._ending, True
            thread = self._thread
        if thread is None and first:
            self._run()  # Spans without a thread: none could be started, the interpreter is going down.
        lost = self._drain()
        if self._custodian.durable:
            self._counters.count("left_in_journal", lost)
        else:
            self._counters.drop("shutdown", lost, _SHUTDOWN_REMEDY.format(self._destination))
        if thread is not None and not self._lost and thread is not threading.current_thread():
            thread.join(_JOIN_TIMEOUT)
        return not self._lost

    def after_fork_in_child(self) -> None:
        """Forgets the parent's queue, thread and counts; runs in the child of a fork."""
        self._counters.reset_after_fork()
        self._start_empty()

    def status(self) -> dict[str, Any]:
        """Queue size, and how the last requests went. Holds no content and no keys."""
        with self._changed:
            return {
                "queue_bytes": self._backlog.bytes,
                "queued_spans": self._backlog.spans,
                "last_error": dict(self._last_error) if self._last_error else None,
                "last_success_at": self._last_success_at,
            }

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._backlog = self._new_backlog()
        self._dispatcher = self._new_dispatcher()
        self._may_log = OncePerInterval(60.0, self._clock)
        self._in_flight: Request | None = None
        self._thread: threading.Thread | None = None
        self._deadline = NEVER
        self._abandoned = False
        self._lost = 0
        self._resume_at = 0.0
        self._asked_until = 0.0
        self._last_error: dict[str, Any] | None = None
        self._last_success_at: float | None = None

    # The side of ``offer``: collect, seal, queue.

    def _collect(self, spans: Sequence[EncodedSpan], position: int) -> tuple[int, Batch | None]:
        """Adds spans from ``position`` on until a batch is full; returns how far it came."""
        refused: list[EncodedSpan] = []
        batch = None
        with self._changed:
            closed, backlog, now = self._closed, self._backlog, self._clock()
            was_open = backlog.open_since
            while position < len(spans) and batch is None:
                span = spans[position]
                if closed or not backlog.has_room(span):
                    refused.append(span)
                else:
                    batch = backlog.add(span, now)
                position += 1
            if backlog.open_since != was_open:
                self._changed.notify_all()  # The thread has to end its wait earlier.
            self._start_thread()
        if refused and closed and self._custodian.durable:
            self._counters.count("left_in_journal", len(refused))
        elif refused:
            remedy = _LATE_REMEDY if closed else _FULL_REMEDY.format(self._destination)
            self._counters.drop("shutdown" if closed else "queue_full", len(refused), remedy)
            self._custodian.lost(refused)
        return position, batch

    def _seal(self, batch: Batch) -> None:
        request = None
        try:
            request = seal(batch.spans, compressed=self._compress, ticket=batch.ticket)
            self._custodian.sealed(request, batch.spans)
        except Exception:
            logger.exception("otel-langfuse (%s) could not encode %d spans", self._name, len(batch.spans))
        with self._changed:
            if self._abandoned:
                return
            if request is None:
                self._backlog.lose(batch)
            else:
                self._backlog.put(batch, request)
            self._changed.notify_all()
        if request is None:
            self._counters.drop("internal_error", len(batch.spans), _BUG_REMEDY)
            self._custodian.lost(batch.spans)

    # The sender thread.

    def _start_thread(self) -> None:
        if self._thread is not None or self._closed or self._backlog.empty:
            return
        thread = threading.Thread(target=self._run, name=f"otel-langfuse-{self._name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # The interpreter is going down; ``shutdown`` sends in its own thread then.
        self._thread = thread

    def _run(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, Batch):
                self._seal(work)
            else:
                self._send(work)

    def _next(self) -> Batch | Request | None:
        """The next thing to do, waited for; ``None`` when the thread has to end."""
        with self._changed:
            while not self._abandoned:
                now = self._clock()
                seal_at = 0.0 if self._closed else self._backlog.open_since + self._flush_interval
                if seal_at <= now and (batch := self._backlog.take()) is not None:
                    return batch
                due, request = self._backlog.first(self._gate, now)
                if request is not None and due <= now < self._deadline:
                    self._backlog.pop(request)
                    self._in_flight = request
                    return request
                if self._closed and (self._backlog.empty or self._hopeless(due, now)):
                    return None
                wake_at = due if self._closed else min(due, seal_at)
                self._wait(self._changed, None if wake_at == NEVER else wake_at - now)
            return None

    @property
    def _gate(self) -> float:
        return max(self._resume_at, self._asked_until)

    def _hopeless(self, due: float, now: float) -> bool:
        """Whether no attempt falls before the deadline. A batch that another thread is sealing may still come."""
        return now >= self._deadline or self._deadline <= due < NEVER

    def _send(self, request: Request) -> None:
        timeout = max(min(self._timeout, self._deadline - self._clock()), _LEAST_TIMEOUT)
        try:
            if not request.attempts:
                self._custodian.sending(request)
            outcome = self._dispatcher.attempt(request, timeout)
        except Exception:
            logger.exception("otel-langfuse (%s) could not send %d spans", self._name, request.spans)
            outcome = Outcome(dropped=request.spans, reason="internal_error", message=_BUG_REMEDY)
        if not outcome.requests:
            self._custodian.settled(request)
        elif not outcome.resend:
            self._custodian.split(request, outcome.requests)
        with self._changed:
            if self._in_flight is not request:
                return  # Shutdown gave it up, and counted it.
            self._in_flight = None
            self._backlog.spans -= outcome.delivered + outcome.dropped
        # Counted before the ticket is settled: who waits for a flush sees the counts.
        self._counters.count("sent", outcome.delivered)
        self._counters.drop(outcome.reason, outcome.dropped, outcome.message)
        if outcome.resend and self._may_log("retry"):
            logger.warning("otel-langfuse (%s) keeps spans for another attempt: %s", self._name, outcome.message)
        with self._changed:
            self._note(outcome)
            if not self._abandoned:
                self._backlog.replace(request, outcome.requests, last=outcome.resend)
            self._changed.notify_all()

    def _note(self, outcome: Outcome) -> None:
        now = self._clock()
        self._resume_at = now + outcome.pause
        if outcome.asked:
            self._asked_until = now + outcome.pause
        if outcome.message:
            self._last_error = {"message": outcome.message, "at": self._wall_clock(), "status": outcome.status}
        if outcome.delivered:
            self._last_success_at = self._wall_clock()

    def _drain(self) -> int:
        """Waits until all has left or no attempt can be made any more; forgets the rest and returns its span count."""
        with self._changed:
            while not self._abandoned and not self._backlog.empty:
                now = self._clock()
                due, _ = self._backlog.first(self._gate, now)
                if now >= self._deadline or (self._in_flight is None and self._hopeless(due, now)):
                    break
                self._wait(self._changed, self._deadline - now)
            if self._abandoned:
                return 0
            self._abandoned = True
            self._in_flight = None
            self._lost = self._backlog.clear()
            self._changed.notify_all()
            return self._lost


def _forked(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Calls ``method`` if its object is still there."""

    def call() -> None:
        target = method()
        if target is not None:
            target()

    return call

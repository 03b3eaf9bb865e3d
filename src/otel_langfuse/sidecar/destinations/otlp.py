"""The queue in front of an OTLP backend and the threads that empty it.

Rules:

- ``offer`` only queues. Payloads are fetched when they are sent, so that with a journal on disk the backlog is there and
  not in memory. The bound is in bytes of entries; receivers that ask for room at the same moment may together exceed it
  by one request each.
- What came in goes out byte for byte if the policy changes nothing, and equal bytes each time. Entries that wait together go
  in one request, see ``merging.py``. If it is refused, or nobody knows what became of it, each of them goes again alone, and
  alone it is judged. What the backend calls too large even so goes in halves.
- Each consumer has one request in flight. A request that waits for another attempt lets others pass. After a failure all
  wait, longer with each in a row, and until one request has passed again only one is in flight: a backend that is down
  is asked, not hammered.
- An entry leaves by being delivered, by ``Counters.drop``, by sampling (``not_sampled``), or stays in the journal; the
  journal learns of it in each case but the last.
- Where the outcome of an earlier send is unknown the same bytes go again, and ``ambiguous_resend`` counts the items. After
  a crash that is every entry whose first send had been begun.
"""

from __future__ import annotations

import logging
import random as random_module
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.sidecar.config.schema import Queue, Retry
from otel_langfuse.sidecar.destinations.attempts import Attempts, Result, given_up
from otel_langfuse.sidecar.destinations.following import Following
from otel_langfuse.sidecar.destinations.merging import GATHER, MOST, Merging
from otel_langfuse.sidecar.destinations.pending import Owed, Pending, Piece
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.destinations.remains import keep_rest
from otel_langfuse.sidecar.destinations.retrying import Pacing
from otel_langfuse.sidecar.destinations.sender import Sender
from otel_langfuse.sidecar.entry import Entry, Journal, Signal

__all__ = ["OtlpDestination"]

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT = 1.0
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log lines around this one."
_LATE_REMEDY = "They came after shutdown."
_SHUTDOWN_REMEDY = "The backend did not take them before the deadline of shutdown; a journal directory would keep them."


class OtlpDestination:
    """Hands entries to one backend; a ``Destination``.

    Args:
        name: The exporter's id.
        signals: What it takes.
        sender: Makes attempts.
        journal: Holds the entries.
        queue: Bound and number of consumers.
        retry: What follows a failure that may pass.
        policy: What becomes of the payload first.
        merge_bytes: Entries that may go in one request; 0: each goes alone.
        timeout: Seconds for one request.
        notes_attempts: Whether a durable journal is told before an entry's first send.
        counters: Takes ``sent``, ``requests``, ``retries``, ``bytes_sent`` (before compression), ``split_requests``,
            ``ambiguous_resend``, ``not_sampled``, ``left_in_journal`` and every drop.
        clock: Monotonic seconds; decides all that depends on time.
        wall_clock: Seconds since the epoch, for ages and dates.
        wait: Waits on a condition, as ``threading.Condition.wait`` does; a fake clock brings its own.
        random: Uniform in [0, 1), for jitter.
    """

    def __init__(
        self,
        name: str,
        signals: frozenset[Signal],
        sender: Sender,
        journal: Journal,
        *,
        queue: Queue | None = None,
        retry: Retry | None = None,
        policy: Policy | None = None,
        merge_bytes: int = MOST,
        timeout: float = 5.0,
        notes_attempts: bool = True,
        counters: Counters | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Condition, float | None], bool] = threading.Condition.wait,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        queue = queue or Queue()
        self._name = name
        self._signals = signals
        self._sender = sender
        self._journal = journal
        self._policy = policy or Policy()
        self._counters = counters or Counters(clock)
        self._clock = clock
        self._wall_clock = wall_clock
        self._wait = wait
        self._attempts = Attempts(
            name,
            sender,
            journal,
            self._policy,
            timeout=timeout,
            notes=notes_attempts and journal.durable,
            counters=self._counters,
            clock=clock,
        )
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # consumers wait here
        self._settled = threading.Condition(lock)  # flush and shutdown do
        self._pending = Pending(queue.queue_size)
        self._pacing = Pacing(retry or Retry(), random)
        self._merging = Merging(merge_bytes)
        self._following = Following(self._pending, self._pacing, self._merging, self._counters)
        self._in_flight: set[Piece] = set()
        self._calls = 0  # requests that are being made
        self._began = -GATHER  # when the last of them began
        self._gathering = False  # whether a consumer wakes soon, to take what has gathered
        self._may_log = OncePerInterval(60.0, clock)
        self._consumers = queue.num_consumers
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._abandoned = False
        self._deadline = float("inf")
        self._left = 0
        self._last_error: dict[str, Any] | None = None
        self._last_success_at: float | None = None

    @property
    def name(self) -> str:
        """See ``Destination``."""
        return self._name

    @property
    def signals(self) -> frozenset[Signal]:
        """See ``Destination``."""
        return self._signals

    def has_room(self, size: int) -> bool:
        """See ``Destination``."""
        with self._work:
            return not self._closed and self._pending.has_room(size)

    def offer(self, entry: Entry, *, attempted: bool = False) -> None:
        """See ``Destination``."""
        with self._work:
            if not self._closed:
                self._pending.add(entry, attempted=attempted)
                if not (self._gathering and self._pending.mergeable < self._merging.limit):
                    self._work.notify()  # Else the consumer that gathers takes it along, or the first one that is free.
                return
        self._leave(entry, entry.items, _LATE_REMEDY)

    def refuse(self, entry: Entry, reason: str, remedy: str) -> None:
        """See ``Destination``."""
        self._counters.drop(reason, entry.items, f"{self._name}: {remedy}")

    def start(self) -> None:
        """See ``Destination``."""
        with self._work:
            if self._threads or self._closed:
                return
            self._threads = [
                threading.Thread(target=self._run, name=f"otel-langfuse-{self._name}-{number}", daemon=True)
                for number in range(self._consumers)
            ]
        for thread in self._threads:
            thread.start()

    def flush(self, timeout: float) -> bool:
        """See ``Destination``."""
        with self._settled:
            deadline = self._clock() + timeout
            last = self._pending.last_ticket
            while not self._pending.settled(last):
                left = deadline - self._clock()
                if left <= 0:
                    return False
                self._wait(self._settled, left)
            return not self._left

    def shutdown(self, timeout: float) -> bool:
        """See ``Destination``. Gives up earlier if no further attempt can fall into that time."""
        with self._work:
            first = not self._closed
            if first:
                self._closed = True
                self._deadline = self._clock() + timeout
                self._pacing.hurry()
                self._pending.hurry()
                self._work.notify_all()
            rest = self._drain()
            unfinished = {piece.owed for piece in self._in_flight} if rest else set()
            self._in_flight.clear()
        for owed in rest:
            if self._journal.durable and keep_rest(owed, self._name, self._journal, self._policy, owed in unfinished):
                self._journal.done(owed.entry, self._name)
            self._leave(owed.entry, owed.left, _SHUTDOWN_REMEDY)
        for thread in self._threads:
            if thread is not threading.current_thread() and not unfinished:
                thread.join(_JOIN_TIMEOUT)
        if first:
            self._sender.close()
        return not self._left

    def status(self) -> dict[str, Any]:
        """See ``Destination``; also requests ``in_flight``, ``failures`` in a row and ``last_success_at``."""
        counts, drops = dict(self._counters.counts), dict(self._counters.drops)
        with self._work:
            oldest = self._pending.oldest
            return {
                "queue_bytes": self._pending.bytes,
                "queue_items": len(self._pending),
                "oldest_seconds": max(self._wall_clock() - oldest.received_at, 0.0) if oldest else 0.0,
                "sent": counts.get("sent", 0),
                "dropped": drops,
                "counters": counts,
                "last_error": dict(self._last_error) if self._last_error else None,
                "last_success_at": self._last_success_at,
                "in_flight": self._calls if self._in_flight else 0,
                "failures": self._pacing.failures,
            }

    # The consumers.

    def _run(self) -> None:
        while pieces := self._next():
            try:
                results = self._attempts.make(pieces, self._deadline)
            except Exception:
                logger.exception("otel-langfuse (%s) could not send a request", self._name)
                results = [given_up(piece, "internal_error", _BUG_REMEDY) for piece in pieces]
                if len(pieces) > 1:  # Which of them it was shows when each goes alone.
                    results = [replace(result, asked=True) for result in results]
                    for piece in pieces:
                        piece.outcome_unknown = True
            try:
                self._conclude(results)
            except Exception:
                logger.exception("otel-langfuse (%s) could not settle a request", self._name)

    def _next(self) -> list[Piece]:
        """The next pieces to send in one request, waited for; empty when the thread has to end."""
        with self._work:
            while not self._abandoned:
                now = self._clock()
                due, piece = self._pending.first(now)
                due = max(due, self._pacing.gate)
                held = self._held_until(piece)
                alone = bool(self._pacing.failures and self._in_flight)
                if piece is not None and max(due, held) <= now < self._deadline and not alone:
                    return self._take(piece, now)
                if self._closed and (not len(self._pending) or now >= self._deadline):
                    return []
                self._gathering |= due <= now < held and not alone
                self._wait(self._work, None if piece is None or alone else max(due, held) - now)
                self._gathering = False
            return []

    def _held_until(self, piece: Piece | None) -> float:
        """How long a piece that is ready waits for others to go with it. The caller holds the lock."""
        if piece is None or piece.alone or self._closed or self._pending.mergeable >= self._merging.limit:
            return 0.0
        return self._began + GATHER

    def _take(self, piece: Piece, now: float) -> list[Piece]:
        """Takes out what is next. The caller holds the lock."""
        taken = self._pending.pop(piece, self._merging.limit)
        self._in_flight.update(taken)
        self._calls += 1
        # What could not go along has waited long enough: nothing is gained by gathering behind it.
        self._began = now - GATHER if self._pending.has_ready else now
        if self._pending.has_ready and not self._pacing.failures:
            self._work.notify()  # Each offer woke one; whoever slept through its turn is woken by the next.
        return taken

    def _conclude(self, results: Sequence[Result]) -> None:
        """Follows what became of a request: counts, waits, splits, settles."""
        with self._work:
            self._calls -= 1
            late = [result for result in results if result.piece not in self._in_flight]
            results = [result for result in results if result.piece in self._in_flight]
            in_trouble = self._pacing.failures
            again = self._following.follow(results, self._clock())
            self._in_flight -= again
            if again or in_trouble or self._closed:
                self._work.notify_all()
            self._settled.notify_all()  # Shutdown sees whether a further attempt can still be made.
            for result in results:
                self._note(result)
        self._settle_late(late)
        for result in results:
            verdict = result.verdict
            if verdict.message and (result.piece in again or verdict.action == "delivered") and self._may_log(verdict.action):
                logger.warning("otel-langfuse: %s", verdict.message)
        self._settle([result for result in results if result.piece not in again])

    def _note(self, result: Result) -> None:
        verdict = result.verdict
        if verdict.message:
            self._last_error = {"message": verdict.message, "at": self._wall_clock(), "status": verdict.status or None}
        if verdict.action == "delivered":
            self._last_success_at = self._wall_clock()

    def _settle(self, results: Sequence[Result]) -> None:
        """Counts what pieces came to and, with an entry's last one, tells the journal. Who waits sees the counts."""
        with self._work:
            late = [result for result in results if result.piece not in self._in_flight]
            results = [result for result in results if result.piece in self._in_flight]
            over = []
            for result in results:
                self._in_flight.discard(result.piece)
                if self._pending.settle(result.piece, result.items):
                    over.append(result.piece.owed)
        self._settle_late(late)
        sent = 0
        for result in results:
            verdict = result.verdict
            if verdict.action == "delivered":
                sent += result.items - verdict.rejected
                self._counters.drop("rejected_by_destination", verdict.rejected, verdict.message)
            elif verdict.reason:
                reason = "not_retried" if verdict.action == "retry" and not self._pacing.enabled else verdict.reason
                self._counters.drop(reason, result.items, verdict.message)
        self._counters.count("sent", sent)
        for owed in over:
            self._journal.done(owed.entry, self._name)
        with self._work:
            for owed in over:
                self._pending.close(owed)
            if self._closed or self._pacing.failures:
                self._work.notify_all()
            self._settled.notify_all()

    def _settle_late(self, late: Sequence[Result]) -> None:
        """What shutdown gave up, and counted, before the answer was there: a success must not be repeated all the same."""
        for result in late:
            if result.verdict.action == "delivered" and result.piece.stop is None:
                self._journal.done(result.piece.owed.entry, self._name)

    # The end.

    def _drain(self) -> list[Owed]:
        """Waits until all has left or no attempt can be made any more; returns what is left. The caller holds the lock."""
        while not self._abandoned and len(self._pending):
            now = self._clock()
            due, _ = self._pending.first(now)
            hopeless = not self._in_flight and max(due, self._pacing.gate) >= self._deadline
            if now >= self._deadline or hopeless or not self._threads:
                break
            self._wait(self._settled, self._deadline - now)
        if self._abandoned:
            return []
        self._abandoned = True
        self._work.notify_all()
        return self._pending.clear()

    def _leave(self, entry: Entry, items: int, remedy: str) -> None:
        """Counts what does not go out any more in this process."""
        with self._work:
            self._left += items
        if self._journal.durable:
            self._counters.count("left_in_journal", items)
        else:
            self._counters.drop("shutdown", items, f"{self._name}: {remedy}")
            self._journal.done(entry, self._name)

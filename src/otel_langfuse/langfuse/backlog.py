"""What waits for delivery: the open batch, batches being sealed, and sealed requests. Data only: no lock, no clock.

Bytes are held from ``add`` until a request is settled: uncompressed in the open batch and while sealing, then as the
bytes that will be sent. A batch holds a ticket until every request that came from it has left, so that "all that came
before" can be asked for although requests overtake each other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.wire import EncodedSpan

__all__ = ["NEVER", "Backlog", "Batch"]

NEVER = float("inf")


@dataclass(slots=True)
class Batch:
    """Spans on their way from the open batch to a sealed request."""

    ticket: int
    spans: list[EncodedSpan]
    size: int


class Backlog:
    """A queue bounded in bytes. The caller holds a lock.

    Args:
        limit: Bytes that are held at most; only the parts of a split request may exceed it, by their headers.
        batch_spans: Spans that make a batch full.
        batch_bytes: Bytes that make a batch full.

    Attributes:
        bytes: Bytes held.
        spans: Spans held.
        open_since: When the open batch got its first span, ``NEVER`` if it has none.
    """

    def __init__(self, *, limit: int, batch_spans: int, batch_bytes: int) -> None:
        self._limit = limit
        self._batch_spans = batch_spans
        self._batch_bytes = batch_bytes
        self.bytes = 0
        self.spans = 0
        self.open_since = NEVER
        self._open: list[EncodedSpan] = []
        self._open_bytes = 0
        self._queue: deque[Request] = deque()
        self._tickets: dict[int, int] = {}  # ticket -> requests that still stand for it, oldest ticket first
        self._next_ticket = 0

    def has_room(self, span: EncodedSpan) -> bool:
        """Whether ``span`` may be added."""
        return self.bytes + span.size <= self._limit

    def add(self, span: EncodedSpan, now: float) -> Batch | None:
        """Adds ``span`` to the open batch. Returns the batch that became full by that: without it, or with it."""
        batch = None
        size = span.size
        if self._open and self._open_bytes + size > self._batch_bytes:
            batch = self.take()
        if not self._open:
            self.open_since = now
        self._open.append(span)
        self._open_bytes += size
        self.bytes += size
        self.spans += 1
        if batch is None and (len(self._open) >= self._batch_spans or self._open_bytes >= self._batch_bytes):
            batch = self.take()
        return batch

    def take(self) -> Batch | None:
        """Closes the open batch; the caller seals it and gives it back by ``put`` or ``lose``."""
        if not self._open:
            return None
        batch = Batch(self._next_ticket, self._open, self._open_bytes)
        self._tickets[batch.ticket] = 1
        self._next_ticket += 1
        self._open, self._open_bytes, self.open_since = [], 0, NEVER
        return batch

    def put(self, batch: Batch, request: Request) -> None:
        """Queues the request that ``batch`` was sealed to."""
        self.bytes += len(request.body) - batch.size
        self._queue.append(request)

    def restore(self, request: Request) -> None:
        """Queues a request that an earlier process sealed."""
        request.ticket = self._next_ticket
        self._tickets[request.ticket] = 1
        self._next_ticket += 1
        self.bytes += len(request.body)
        self.spans += request.spans
        self._queue.append(request)

    def lose(self, batch: Batch) -> None:
        """Forgets a batch that could not be sealed."""
        self.bytes -= batch.size
        self.spans -= len(batch.spans)
        self._settle(batch.ticket, -1)

    def first(self, gate: float, now: float) -> tuple[float, Request | None]:
        """The request whose turn is next and when that is, nothing before ``gate``."""
        earliest = max(gate, now)
        best: Request | None = None
        for request in self._queue:
            if request.not_before <= earliest:
                return gate, request
            if best is None or request.not_before < best.not_before:
                best = request
        return (NEVER, None) if best is None else (best.not_before, best)

    def pop(self, request: Request) -> None:
        """Takes ``request`` out of the queue for an attempt; its bytes stay held."""
        self._queue.remove(request)

    def replace(self, request: Request, requests: tuple[Request, ...], *, last: bool) -> None:
        """Puts ``requests`` in the place of one that was popped: at the end if ``last``, else at the front."""
        self.bytes += sum(len(part.body) for part in requests) - len(request.body)
        self._settle(request.ticket, len(requests) - 1)
        if last:
            self._queue.extend(requests)
        else:
            self._queue.extendleft(reversed(requests))

    def hurry(self) -> None:
        """Lets every request be tried now."""
        for request in self._queue:
            request.not_before = 0.0

    @property
    def last_ticket(self) -> int:
        """The ticket of the batch that was closed last, -1 if none was."""
        return self._next_ticket - 1

    def settled(self, ticket: int) -> bool:
        """Whether nothing is left of the batches up to ``ticket``."""
        return next(iter(self._tickets), ticket + 1) > ticket

    @property
    def empty(self) -> bool:
        """Whether nothing is held: open, being sealed, waiting or in flight."""
        return not self._tickets and not self._open

    def clear(self) -> int:
        """Forgets everything and returns the number of spans that were held."""
        lost, self.spans, self.bytes = self.spans, 0, 0
        self._open, self._open_bytes, self.open_since = [], 0, NEVER
        self._queue.clear()
        self._tickets.clear()
        return lost

    def _settle(self, ticket: int, change: int) -> None:
        self._tickets[ticket] += change
        if not self._tickets[ticket]:
            del self._tickets[ticket]

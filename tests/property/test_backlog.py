"""The backlog keeps its books whatever comes: bytes, spans and tickets, against a plain list."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from otel_langfuse.langfuse.backlog import NEVER, Backlog, Batch
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.wire import EncodedSpan

LIMIT, BATCH_SPANS, BATCH_BYTES = 2000, 4, 500


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(limit=LIMIT, batch_spans=BATCH_SPANS, batch_bytes=BATCH_BYTES)
        self.open: list[int] = []
        self.sealing: list[Batch] = []
        self.waiting: list[Request] = []
        self.flying: list[Request] = []

    @rule(size=st.integers(0, 700))
    def add(self, size: int) -> None:
        span = EncodedSpan(b"", b"", b"", b"", bytes(size))
        if not self.backlog.has_room(span):
            assert self.held() + span.size > LIMIT
            return
        batch = self.backlog.add(span, 1.0)
        self.open.append(span.size)
        if batch is not None:
            assert len(batch.spans) in (len(self.open), len(self.open) - 1)
            assert len(batch.spans) <= BATCH_SPANS
            assert batch.size <= BATCH_BYTES or len(batch.spans) == 1 or batch.size - batch.spans[-1].size < BATCH_BYTES
            self.open = self.open[len(batch.spans) :]
            self.sealing.append(batch)

    @rule()
    def take(self) -> None:
        batch = self.backlog.take()
        assert (batch is None) == (not self.open)
        if batch is not None:
            assert [span.size for span in batch.spans] == self.open
            self.sealing.append(batch)
            self.open = []

    @precondition(lambda self: self.sealing)
    @rule(data=st.data(), compressed=st.integers(1, 100))
    def seal(self, data: st.DataObject, compressed: int) -> None:
        batch = self.sealing.pop(data.draw(st.integers(0, len(self.sealing) - 1)))
        request = Request(bytes(compressed), True, len(batch.spans), batch.ticket)
        self.backlog.put(batch, request)
        self.waiting.append(request)

    @precondition(lambda self: self.sealing)
    @rule()
    def lose(self) -> None:
        self.backlog.lose(self.sealing.pop())

    @rule(gate=st.floats(0, 20), now=st.floats(0, 20))
    def attempt(self, gate: float, now: float) -> None:
        due, request = self.backlog.first(gate, now)
        if request is None:
            assert (due, self.waiting) == (NEVER, [])
            return
        assert due == max(gate, request.not_before) or request.not_before <= now
        ready = [other for other in self.waiting if other.not_before <= max(gate, now)]
        assert request is (ready[0] if ready else min(self.waiting, key=lambda other: other.not_before))
        self.backlog.pop(request)
        self.waiting.remove(request)
        self.flying.append(request)

    @precondition(lambda self: self.flying)
    @rule(not_before=st.floats(0, 20), end=st.sampled_from(["gone", "retry", "split"]))
    def settle(self, not_before: float, end: str) -> None:
        request = self.flying.pop()
        if end == "gone":
            self.backlog.spans -= request.spans
            self.backlog.replace(request, (), last=False)
        elif end == "retry":
            request.not_before = not_before
            self.backlog.replace(request, (request,), last=True)
            self.waiting.append(request)
        else:
            parts = (request.part(b"a", 1), request.part(b"b", request.spans - 1))
            self.backlog.replace(request, parts, last=False)
            self.waiting[:0] = parts

    @rule()
    def hurry(self) -> None:
        self.backlog.hurry()

    def held(self) -> int:
        requests = self.waiting + self.flying
        return sum(self.open) + sum(b.size for b in self.sealing) + sum(len(r.body) for r in requests)

    @invariant()
    def books_agree(self) -> None:
        requests = self.waiting + self.flying
        assert self.backlog.bytes == self.held()
        spans = len(self.open) + sum(len(b.spans) for b in self.sealing) + sum(r.spans for r in requests)
        assert self.backlog.spans == spans
        tickets = {batch.ticket for batch in self.sealing} | {request.ticket for request in requests}
        assert self.backlog.empty == (not tickets and not self.open)
        last = self.backlog.last_ticket
        for ticket in (last, last - 1, last // 2):
            assert self.backlog.settled(ticket) == (not any(held <= ticket for held in tickets))
        assert (self.backlog.open_since == NEVER) == (not self.open)


Books.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase

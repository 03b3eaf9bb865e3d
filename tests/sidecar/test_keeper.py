"""Requests that a journal could not take: nothing behind them is settled before they are."""

from __future__ import annotations

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.sidecar.destinations.claims import Claims
from otel_langfuse.sidecar.destinations.keeper import Keeper
from otel_langfuse.sidecar.entry import Entry, RefusedError, Signal
from otel_langfuse.sidecar.journal import MemoryJournal


class Full(MemoryJournal):
    """A durable journal on a disk that is full, as long as ``full`` says."""

    durable = True  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.full = True
        self.done_entries: list[int] = []
        self.done_requests: list[int] = []

    def put_request(self, *args: object, **keywords: object) -> int:
        if self.full:
            raise RefusedError("no space", reason="disk_full")
        return 7

    def replace_request(self, request_id: int, parts: object) -> list[int]:
        raise RefusedError("no space", reason="disk_full")

    def done(self, entry: Entry, destination: str) -> None:
        self.done_entries.append(entry.id)

    def request_done(self, request_id: int) -> None:
        self.done_requests.append(request_id)


def made(full: bool) -> tuple[Full, Keeper, Request]:
    journal = Full()
    journal.full = full
    claims = Claims(journal, "langfuse", 60.0)
    keeper = Keeper(journal, "langfuse", claims, Counters())
    span = EncodedSpan(b"t" * 16, b"s" * 8, b"", b"", b"span")
    claims.open(Entry(1, Signal.TRACES, 1, 10, 0.0), [(span.trace_id, span.span_id)])
    request = Request(b"body", False, 2)
    keeper.sealed(request, [span])
    return journal, keeper, request


def test_what_could_not_be_journaled_is_settled_when_it_was_delivered() -> None:
    journal, keeper, request = made(full=True)
    assert journal.done_entries == []
    keeper.settled(request)
    assert journal.done_entries == [1]


def test_the_parts_of_a_request_that_was_not_journaled_settle_it_together() -> None:
    journal, keeper, request = made(full=True)
    parts = [request.part(b"one", 1), request.part(b"two", 1)]
    keeper.split(request, parts)
    keeper.settled(parts[0])
    assert journal.done_entries == []
    keeper.settled(parts[1])
    assert journal.done_entries == [1]


def test_parts_that_could_not_be_journaled_leave_the_whole_until_both_are_settled() -> None:
    journal, keeper, request = made(full=False)
    assert journal.done_entries == [1]
    parts = [request.part(b"one", 1), request.part(b"two", 1)]
    keeper.split(request, parts)
    keeper.settled(parts[1])
    assert journal.done_requests == []
    keeper.settled(parts[0])
    assert journal.done_requests == [7]

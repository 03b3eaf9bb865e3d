"""When an entry is settled: never before its last span, and no later than it has to be."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from otel_langfuse.sidecar.destinations.claims import Claims
from otel_langfuse.sidecar.entry import Entry, Signal
from otel_langfuse.sidecar.journal import MemoryJournal


class Settled(MemoryJournal):
    """A journal that remembers what was settled."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.ids: list[int] = []

    def done(self, entry: Entry, destination: str) -> None:
        self.ids.append(entry.id)


def entry(number: int, signal: Signal = Signal.TRACES) -> Entry:
    return Entry(number, signal, 1, 10, 0.0)


def key(number: int) -> tuple[bytes, bytes]:
    return b"t" * 16, number.to_bytes(8, "big")


def made() -> tuple[Settled, Claims]:
    journal = Settled()
    return journal, Claims(journal, "langfuse", 60.0)


def test_an_entry_is_settled_with_its_last_span() -> None:
    journal, claims = made()
    claims.open(entry(1), [key(1), key(2)])
    claims.settle([key(1)])
    assert journal.ids == []
    claims.settle([key(2)])
    assert journal.ids == [1]
    assert claims.spans == 0


def test_an_entry_without_spans_for_this_destination_is_settled_at_once() -> None:
    journal, claims = made()
    claims.open(entry(1), [])
    assert journal.ids == [1]


def test_a_span_that_came_in_two_entries_settles_one_at_a_time() -> None:
    journal, claims = made()
    claims.open(entry(1), [key(1)])
    claims.open(entry(2), [key(1)])
    claims.settle([key(1)])
    assert journal.ids == [1]
    claims.settle([key(1)])
    assert journal.ids == [1, 2]


def test_records_wait_for_spans_on_their_way() -> None:
    journal, claims = made()
    claims.open(entry(1), [key(1)])
    claims.open_records(entry(2, Signal.LOGS), now=0.0)
    claims.settle_records(100.0)
    assert journal.ids == []
    claims.settle([key(1)])
    claims.settle_records(59.0)
    assert journal.ids == [1]
    claims.settle_records(60.0)
    assert journal.ids == [1, 2]


def test_records_do_not_wait_for_ever() -> None:
    journal, claims = made()
    claims.open(entry(1), [key(1)])
    claims.open_records(entry(2, Signal.LOGS), now=0.0)
    claims.settle_records(599.0)
    assert journal.ids == []
    claims.settle_records(600.0)
    assert journal.ids == [2]


@given(entries=st.lists(st.lists(st.integers(0, 8), max_size=6), max_size=8), order=st.randoms(use_true_random=False))
def test_everything_is_settled_once_when_every_span_is(entries: list[list[int]], order: Random) -> None:
    journal, claims = made()
    for number, spans in enumerate(entries, 1):
        claims.open(entry(number), [key(span) for span in spans])
    due = [key(span) for spans in entries for span in spans]
    order.shuffle(due)
    for one in due:
        claims.settle([one])
    assert sorted(journal.ids) == list(range(1, len(entries) + 1))
    assert claims.spans == 0

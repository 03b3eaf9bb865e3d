"""Which spans of which entries are still on their way through a Langfuse destination.

An entry is settled with the journal when each of its spans has become part of a journaled request, was left out, or was
dropped and counted. Two kinds are kept longer:

- Log records have no row of their own: an entry of them is kept until the spans that could need them have been settled.
- A span whose row names a parent that has not come is *tied* to it: after a crash it is read again, gets no second row, and
  reminds the next process of what was promised. One span for each such parent is enough.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from otel_langfuse.sidecar.entry import Entry, Journal, SpanKey

__all__ = ["Claims"]


@dataclass(slots=True, eq=False)
class _Open:
    """An entry of which something is left: spans on their way, and spans that are done but tied."""

    entry: Entry
    moving: int
    tied: int = 0


class Claims:
    """Counts what is left of each entry. Thread-safe.

    Args:
        journal: Told when nothing is left.
        destination: In whose name.
        patience: Seconds that an entry of log records is kept at least.
    """

    def __init__(self, journal: Journal, destination: str, patience: float) -> None:
        self._journal = journal
        self._destination = destination
        self._patience = patience
        self._lock = threading.Lock()
        self._moving: dict[int, _Open] = {}  # by entry id, oldest first
        self._by_span: dict[SpanKey, list[_Open]] = {}
        self._ties: dict[SpanKey, SpanKey] = {}  # tied span -> the parent that it waits for
        self._waiting: dict[SpanKey, _Open | None] = {}  # that parent -> the entry of the tied span, once it is done
        self._records: deque[tuple[Entry, float]] = deque()
        self._last = 0

    def open(self, entry: Entry, spans: Sequence[SpanKey]) -> None:
        """Takes an entry of spans; one without any is settled at once."""
        with self._lock:
            self._last = max(self._last, entry.id)
            if spans:
                opened = self._moving[entry.id] = _Open(entry, len(spans))
            for key in spans:
                self._by_span.setdefault(key, []).append(opened)
        if not spans:
            self._journal.done(entry, self._destination)

    def open_records(self, entry: Entry, now: float) -> None:
        """Takes an entry of log records."""
        with self._lock:
            self._records.append((entry, now))

    def tie(self, span: SpanKey, parent: SpanKey) -> None:
        """Keeps the entry of ``span`` until ``parent`` is settled."""
        with self._lock:
            if span in self._by_span and parent not in self._waiting:
                self._ties[span] = parent
                self._waiting[parent] = None

    def settle(self, keys: Iterable[SpanKey]) -> None:
        """One span each is no longer on its way; the same key as often as it came."""
        finished: list[Entry] = []
        with self._lock:
            for key in keys:
                opened = self._pop(key)
                if opened is not None:
                    opened.moving -= 1
                    parent = self._ties.pop(key, None)
                    if parent in self._waiting:
                        self._waiting[parent] = opened
                        opened.tied += 1
                    self._close(opened, finished)
                tied = self._waiting.pop(key, None)
                if tied is not None:
                    tied.tied -= 1
                    self._close(tied, finished)
        for entry in finished:
            self._journal.done(entry, self._destination)

    def by_entry(self, keys: Iterable[SpanKey]) -> Mapping[int, Sequence[SpanKey]]:
        """The entries that spans came in."""
        found: dict[int, list[SpanKey]] = {}
        with self._lock:
            for key in keys:
                opened = self._by_span.get(key)
                if opened:
                    found.setdefault(opened[0].entry.id, []).append(key)
        return found

    def settle_records(self, now: float | None = None) -> None:
        """Settles entries of log records that no span on its way can need; ``now`` of ``None``: no span is to come."""
        finished = []
        with self._lock:
            oldest = next(iter(self._moving), None)
            while self._records:
                entry, since = self._records[0]
                if oldest is not None and oldest <= (entry.id if now is not None else self._last):
                    break
                if now is not None and now - since < self._patience:
                    break
                finished.append(self._records.popleft()[0])
        for entry in finished:
            self._journal.done(entry, self._destination)

    @property
    def spans(self) -> int:
        """Spans on their way."""
        return len(self._by_span)

    @property
    def records(self) -> int:
        """Entries of log records that are kept."""
        return len(self._records)

    def _pop(self, key: SpanKey) -> _Open | None:
        opened = self._by_span.get(key)
        if not opened:
            return None
        first = opened.pop(0)
        if not opened:
            del self._by_span[key]
        return first

    def _close(self, opened: _Open, finished: list[Entry]) -> None:
        if opened.moving:
            return
        # A tied entry does not count as on its way: records need not wait for it.
        self._moving.pop(opened.entry.id, None)
        if not opened.tied:
            finished.append(opened.entry)

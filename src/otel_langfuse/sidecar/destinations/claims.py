"""Which spans of which entries are still on their way through a Langfuse destination.

An entry is settled with the journal when each of its spans has become part of a journaled request, was left out, or was
dropped and counted. Log records have no row of their own: an entry of them is kept until the spans that could need them
have been settled, as far as that happens within reason.
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
    """An entry of which so many spans are on their way."""

    entry: Entry
    moving: int


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
        self._records: deque[tuple[Entry, float]] = deque()

    def open(self, entry: Entry, spans: Sequence[SpanKey]) -> None:
        """Takes an entry of spans; one without any is settled at once."""
        with self._lock:
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

    def settle(self, keys: Iterable[SpanKey]) -> None:
        """One span each is no longer on its way; the same key as often as it came."""
        finished: list[Entry] = []
        with self._lock:
            for key in keys:
                opened = self._pop(key)
                if opened is not None:
                    opened.moving -= 1
                    if not opened.moving:
                        del self._moving[opened.entry.id]
                        finished.append(opened.entry)
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

    def settle_records(self, now: float) -> None:
        """Settles entries of log records that are old enough, and that no span on its way is likely to need."""
        finished = []
        with self._lock:
            oldest = next(iter(self._moving), None)
            while self._records:
                entry, since = self._records[0]
                # A span may be on its way for long, a root for instance that may yet be needed; records do not wait for ever.
                waits = oldest is not None and oldest <= entry.id and now - since < 10 * self._patience
                if waits or now - since < self._patience:
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

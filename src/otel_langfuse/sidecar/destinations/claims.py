"""Which spans of which entries are still on their way through a Langfuse destination.

An entry is settled with the journal when each of its spans has become part of a journaled request, was left out, or was
dropped and counted. Log records have no row of their own: an entry of them is kept until the spans that could need them
have been settled.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from otel_langfuse.sidecar.entry import Entry, Journal, SpanKey

__all__ = ["Claims"]


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
        self._left: dict[int, tuple[Entry, list[int]]] = {}  # entry id -> how many spans are on their way; oldest first
        self._by_span: dict[SpanKey, list[int]] = {}
        self._records: deque[tuple[Entry, float]] = deque()
        self._last = 0

    def open(self, entry: Entry, spans: Sequence[SpanKey]) -> None:
        """Takes an entry of spans; one without any is settled at once."""
        with self._lock:
            self._last = max(self._last, entry.id)
            if spans:
                self._left[entry.id] = (entry, [len(spans)])
            for key in spans:
                self._by_span.setdefault(key, []).append(entry.id)
        if not spans:
            self._journal.done(entry, self._destination)

    def open_records(self, entry: Entry, now: float) -> None:
        """Takes an entry of log records."""
        with self._lock:
            self._records.append((entry, now))

    def settle(self, keys: Iterable[SpanKey]) -> None:
        """One span each is no longer on its way."""
        finished = []
        with self._lock:
            for key in keys:
                entry_id = self._pop(key)
                if entry_id is None:
                    continue
                entry, left = self._left[entry_id]
                left[0] -= 1
                if not left[0]:
                    del self._left[entry_id]
                    finished.append(entry)
        for entry in finished:
            self._journal.done(entry, self._destination)

    def by_entry(self, keys: Iterable[SpanKey]) -> Mapping[int, Sequence[SpanKey]]:
        """The entries that spans came in."""
        found: dict[int, list[SpanKey]] = {}
        with self._lock:
            for key in keys:
                entry_ids = self._by_span.get(key)
                if entry_ids:
                    found.setdefault(entry_ids[0], []).append(key)
        return found

    def settle_records(self, now: float | None = None) -> None:
        """Settles entries of log records that no span on its way can need; ``now`` of ``None``: no span is to come."""
        finished = []
        with self._lock:
            oldest = next(iter(self._left), None)
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

    def _pop(self, key: SpanKey) -> int | None:
        entry_ids = self._by_span.get(key)
        if not entry_ids:
            return None
        entry_id = entry_ids.pop(0)
        if not entry_ids:
            del self._by_span[key]
        return entry_id

"""Holds the newest payloads in memory, so that destinations that keep up never read from the disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from otel_langfuse.sidecar.entry import Entry

__all__ = ["PayloadCache"]


class PayloadCache:
    """Keeps ``Entry.payload`` set for the newest entries; clears the oldest beyond ``limit`` bytes.

    The cache owns that attribute: nobody else sets it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._bytes = 0

    def put(self, entry: Entry) -> None:
        """Takes an entry that carries its payload, which is let go of when newer ones need the room."""
        with self._lock:
            self._entries[entry.id] = entry
            self._bytes += entry.size
            while self._bytes > self._limit:
                _, oldest = self._entries.popitem(last=False)
                self._let_go(oldest)

    def drop(self, ids: Iterable[int]) -> None:
        """Lets go of entries that have left the journal."""
        with self._lock:
            for entry_id in ids:
                entry = self._entries.pop(entry_id, None)
                if entry is not None:
                    self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        self._bytes -= entry.size
        entry.payload = None

"""The journal that holds everything in memory.

Rules:

- An entry carries its payload until its last claim is settled; nothing survives the end of the process.
- Payloads and encoded requests count against one bound; only new entries are refused, since what was accepted must be
  able to leave. Bodies of requests are held by their destination, here stands their size.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from otel_langfuse.sidecar.entry import Entry, Recovered, RefusedError, Signal, SpanKey

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """Holds entries in memory, up to a number of bytes.

    Args:
        max_bytes: Bytes of payloads and requests at which new entries are refused.
        clock: Seconds since the epoch.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._request_ids = itertools.count(1)
        self._entries: dict[int, tuple[Entry, set[str]]] = {}
        self._requests: dict[int, int] = {}
        self._bytes = 0
        self._closed = False

    @property
    def durable(self) -> bool:
        """Never."""
        return False

    def append(self, signal: Signal, payload: bytes, items: int, owed: Sequence[str]) -> Entry:
        """Holds a request that is owed to the destinations named.

        Raises:
            RefusedError: The bound is reached (``memory_full``) or the journal is closed (``shutdown``).
        """
        size = len(payload)
        with self._lock:
            if self._closed:
                raise RefusedError("the sidecar is shutting down; send to the next one", reason="shutdown")
            if self._bytes + size > self._max_bytes:
                raise RefusedError(
                    f"{size} bytes do not fit into memory: {self._bytes} of {self._max_bytes} are taken by data that "
                    "destinations have not taken yet; come again, mend them, or configure a journal directory",
                    reason="memory_full",
                )
            entry = Entry(next(self._ids), signal, items, size, self._clock(), payload)
            if owed:
                self._entries[entry.id] = (entry, set(owed))
                self._bytes += size
        return entry

    def payload(self, entry: Entry) -> bytes | None:
        """The entry's bytes; ``None`` once it is settled."""
        return entry.payload

    def attempt(self, entries: Sequence[Entry], destination: str) -> None:
        """Does nothing: nobody will ask after a crash."""

    def done(self, entry: Entry, destination: str) -> None:
        """Settles a destination's claim; the payload goes with the last one."""
        with self._lock:
            held = self._entries.get(entry.id)
            if held is None:
                return
            held[1].discard(destination)
            if not held[1]:
                del self._entries[entry.id]
                self._bytes -= held[0].size
                held[0].payload = None

    def put_request(
        self, destination: str, body: bytes, *, compressed: bool, spans: int, keys: Mapping[int, Sequence[SpanKey]]
    ) -> int:
        """Counts an encoded request; returns its id."""
        with self._lock:
            return self._put(len(body))

    def replace_request(self, request_id: int, parts: Sequence[tuple[bytes, bool, int]]) -> Sequence[int]:
        """Counts the parts in the place of the request; returns their ids."""
        with self._lock:
            self._bytes -= self._requests.pop(request_id, 0)
            return [self._put(len(body)) for body, _, _ in parts]

    def attempt_request(self, request_id: int) -> None:
        """Does nothing: nobody will ask after a crash."""

    def request_done(self, request_id: int) -> None:
        """Forgets a request."""
        with self._lock:
            self._bytes -= self._requests.pop(request_id, 0)

    def promise(self, destination: str, key: SpanKey, start_ns: int) -> None:
        """Does nothing: nobody will ask after a crash."""

    def fulfil(self, destination: str, keys: Iterable[SpanKey]) -> None:
        """Does nothing."""

    def recover(self) -> Recovered:
        """Nothing."""
        return Recovered()

    def status(self) -> dict[str, Any]:
        """``directory`` (None), ``entries``, ``requests``, ``bytes``, ``oldest_seconds``, ``durable``."""
        with self._lock:
            oldest = next(iter(self._entries.values()), None)
            age = max(self._clock() - oldest[0].received_at, 0.0) if oldest else 0.0
            return {
                "directory": None,
                "entries": len(self._entries),
                "requests": len(self._requests),
                "bytes": self._bytes,
                "oldest_seconds": age,
                "durable": False,
            }

    def close(self) -> None:
        """Refuses entries from now on."""
        with self._lock:
            self._closed = True

    def _put(self, size: int) -> int:
        request_id = next(self._request_ids)
        self._requests[request_id] = size
        self._bytes += size
        return request_id

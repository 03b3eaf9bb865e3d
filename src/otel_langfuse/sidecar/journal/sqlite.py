"""The journal that survives: an SQLite file in a directory of its own.

Rules:

- What is durable is committed when the call returns. While the file cannot be written, new entries are refused; what
  concerns accepted data is held in memory and written later, so that they go on to their destinations.
- Live payloads and requests count against ``max_bytes``; it refuses new entries alone, since what was accepted must be
  able to leave. Encoded requests are bounded by the queues of their destinations.
- The newest payloads are held in memory as well; only a destination that lags reads from the disk.
- What a damaged file costs is counted as ``journal_damaged``; the rest goes on. A file that cannot be read now (no
  descriptor left, an error of the disk) costs nothing: who asks is refused and asks again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.entry import Entry, Recovered, RefusedError, Signal, SpanKey
from otel_langfuse.sidecar.journal import operations
from otel_langfuse.sidecar.journal.cache import PayloadCache
from otel_langfuse.sidecar.journal.expiry import Expire, Forget
from otel_langfuse.sidecar.journal.failures import is_damage, unreadable
from otel_langfuse.sidecar.journal.files import DirectoryLock, prepare
from otel_langfuse.sidecar.journal.holdings import Holdings, Owing, Totals, totals
from otel_langfuse.sidecar.journal.readers import Readers
from otel_langfuse.sidecar.journal.recovery import JournalFile
from otel_langfuse.sidecar.journal.salvage import Losses
from otel_langfuse.sidecar.journal.schema import Tuning
from otel_langfuse.sidecar.journal.statements import Tally
from otel_langfuse.sidecar.journal.writer import GroupWriter

__all__ = ["SqliteJournal"]

logger = logging.getLogger(__name__)

_CACHE_BYTES = 32 * 1024 * 1024
_PROMISES = 200_000
_PENDING_BYTES = 64 * 1024 * 1024
"""Payloads that wait for their commit at the same time; beyond, the disk is too slow for what comes."""


class SqliteJournal:
    """Keeps entries in ``directory`` until they are settled; they survive the end of the process.

    Args:
        directory: Made if it is missing, readable by its owner alone. One process at a time may use it.
        max_bytes: Bytes of payloads and requests at which new entries are refused.
        max_age: Seconds after which ``expire`` drops what could not be delivered.
        fsync: Whether a commit waits for the disk, and so survives a crash of the machine and not of the process alone.
        counters: Takes ``journal_damaged`` as a drop, and what ``GroupWriter`` counts.
        clock: Seconds since the epoch.
        cache_bytes: Payloads that are held in memory too.
        max_promises: Promises that are kept for each destination; the oldest go.
        max_pages: Bound of the file in pages of 8 KiB, for tests of a full disk.
        busy_seconds: How long a commit waits for another program that holds the file.

    Raises:
        ConfigError: The directory cannot be used, or another process uses it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        max_age: float,
        fsync: bool,
        counters: Counters,
        clock: Callable[[], float] = time.time,
        cache_bytes: int = _CACHE_BYTES,
        max_promises: int = _PROMISES,
        max_pages: int | None = None,
        busy_seconds: float = 5.0,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._max_promises = max_promises
        self._clock = clock
        path = prepare(directory)
        self._may_log = OncePerInterval()
        self._lock_file = DirectoryLock(directory)
        self._losses = Losses(counters)
        self._file = JournalFile(path, Tuning(fsync, max_pages, busy_seconds), losses=self._losses, clock=clock)
        try:
            connection = self._file.open()
            held, self._readers = self._opened(connection, path)
        except BaseException:
            self._lock_file.release()
            raise
        self._lock = threading.Lock()
        self._pending = 0
        self._next_entry = held.next_entry
        self._next_request = held.next_request
        self._set_totals(held)
        self._closed = False
        self._cache = PayloadCache(cache_bytes)
        self._writer = GroupWriter(connection, place=str(path), committed=self._committed, heal=self._heal, counters=counters)

    @property
    def durable(self) -> bool:
        """Always."""
        return True

    def append(self, signal: Signal, payload: bytes, items: int, owed: Sequence[str]) -> Entry:
        """Durable. Takes a request that is owed to the destinations named.

        Raises:
            RefusedError: ``journal_full``: the bound is reached; ``journal_busy``: too much waits for its commit;
                ``disk_full``, ``journal_failed``: it cannot be written; ``shutdown``: the journal is closed.
        """
        entry = Entry(self._reserve(len(payload)), signal, items, len(payload), self._clock(), payload)
        try:
            if owed:
                names = tuple(dict.fromkeys(owed))
                self._cache.put(entry)  # Before the commit: from then on it may be settled, which clears it.
                self._writer.run(
                    operations.Append(entry.id, str(signal), items, entry.received_at, crc32(payload), payload, names)
                )
        except BaseException:
            self._cache.drop((entry.id,))
            raise
        finally:
            with self._lock:
                self._pending -= entry.size
        return entry

    def payload(self, entry: Entry) -> bytes | None:
        """The entry's bytes; ``None`` if it was settled, dropped for its age, or is lost, which is counted then.

        Raises:
            RefusedError: It is not in memory and cannot be read now (``journal_failed``), or not after ``close``
                (``shutdown``). The entry stays.
        """
        payload = entry.payload
        if payload is not None:
            return payload
        generation = self._readers.generation
        try:
            with self._readers.lend() as connection:
                if connection is None:
                    raise RefusedError("the journal is closed; its entries stay for the next start", reason="shutdown")
                row = connection.execute(
                    "SELECT crc, payload FROM entries LEFT JOIN payloads ON entry_id = id WHERE id = ?", (entry.id,)
                ).fetchone()
        except sqlite3.Error as error:
            if self._may_log("read"):
                logger.warning("otel-langfuse: the journal in %s cannot read an entry: %s", self._directory, error)
            if not is_damage(error):
                raise unreadable(str(self._directory), str(error)) from None
            row = (0, None)
        if row is None:
            if self._readers.generation != generation:  # It may have looked into a new file that was not complete yet.
                raise unreadable(str(self._directory), "a damaged file is being replaced")
            return None
        if not isinstance(row[1], bytes) or crc32(row[1]) != row[0]:
            self._losses.add("entry", entry.id, entry.items)
            return None
        return row[1]

    def attempt(self, entries: Sequence[Entry], destination: str) -> None:
        """Durable. Notes that the entries' bytes are about to be sent for the first time."""
        for entry in entries[:-1]:
            self._note(operations.Attempt(entry.id, destination), wait=False)
        for entry in entries[-1:]:  # Commits are in order: what comes before it is on disk when it is.
            self._note(operations.Attempt(entry.id, destination), wait=True)

    def done(self, entry: Entry, destination: str) -> None:
        """Settles a destination's claim; the entry goes when it was the last one. Idempotent."""
        self._note(operations.Done(entry.id, destination), wait=False)

    def put_request(
        self, destination: str, body: bytes, *, compressed: bool, spans: int, keys: Mapping[int, Sequence[SpanKey]]
    ) -> int:
        """Durable. Keeps an encoded request, and which spans of which entries stand in it; returns its id.

        While the file cannot be written it is held in memory, and the claims on those entries are settled after it.

        Raises:
            RefusedError: 64 MiB of requests wait for a file that cannot be written, or the journal is closed.
        """
        request_id = self._request_ids(1)[0]
        self._keep(
            operations.PutRequest(
                request_id, destination, body, compressed, spans, self._clock(), {k: tuple(keys[k]) for k in keys}
            )
        )
        return request_id

    def replace_request(self, request_id: int, parts: Sequence[tuple[bytes, bool, int]]) -> Sequence[int]:
        """Durable. Puts ``(body, compressed, spans)`` parts in the place of a request that was split; returns their ids.

        Raises:
            RefusedError: As for ``put_request``; the request stays as it was.
        """
        ids = self._request_ids(len(parts))
        self._keep(operations.ReplaceRequest(request_id, dict(zip(ids, parts, strict=True))))
        return ids

    def attempt_request(self, request_id: int) -> None:
        """Durable. Notes that a request is about to be sent for the first time."""
        self._note(operations.AttemptRequest(request_id), wait=True)

    def request_done(self, request_id: int) -> None:
        """Forgets a request that was delivered or dropped; its spans stay in the ledger while their entry is owed."""
        if not self._writer.settle_unwritten(request_id):
            self._note(operations.RequestDone(request_id), wait=False)

    def promise(self, destination: str, key: SpanKey, start_ns: int) -> None:
        """Remembers that a destination was told of a span that has not come. Idempotent.

        While too much waits for a file that cannot be written it is not remembered: that costs placement, never a span.
        """
        if self._writer.has_room:
            self._note(operations.Promise(destination, key, start_ns, self._clock(), self._max_promises), wait=False)

    def fulfil(self, destination: str, keys: Iterable[SpanKey]) -> None:
        """Forgets promises: the spans came, or are waited for no more. Idempotent."""
        if fulfilled := tuple(keys):
            self._note(operations.Fulfil(destination, fulfilled), wait=False)

    def recover(self) -> Recovered:
        """What the journal holds; asked once, before anything is appended. Payloads are read later, by ``payload``.

        Raises:
            RefusedError: It cannot be read.
        """
        holdings = Holdings(self._losses)
        self._writer.run(holdings)
        return holdings.found

    def destinations(self) -> Sequence[tuple[str, int, int]]:
        """Who is owed something: name, entries, and spans or log records that are not settled.

        Raises:
            RefusedError: It cannot be read.
        """
        owing = Owing()
        self._writer.run(owing)
        return owing.found

    def forget(self, destination: str) -> None:
        """Drops what a destination is owed, which the caller has counted.

        Raises:
            RefusedError: It cannot be written.
        """
        more = True
        while more:
            forget = Forget(destination)
            self._writer.run(forget)
            more = forget.more

    def expire(self, now: float, *, requests: bool = False) -> Mapping[str, int]:
        """Drops what is older than ``max_age`` at ``now``; returns the items by destination, for the caller to count.

        Spans of an old entry that stand in requests are not among its items: they are delivered, or count there. If the
        file cannot be written, nothing more is dropped until the next call.

        Args:
            now: Seconds since the epoch.
            requests: Whether encoded requests are dropped too. Only before ``recover``: later their destination holds
                them, and decides how long.
        """
        lost: dict[str, int] = {}
        more = True
        while more:
            expire = Expire(now - self._max_age, requests)
            try:
                self._writer.run(expire)
            except RefusedError as error:
                logger.debug("otel-langfuse: nothing expires now: %s", error)
                break
            for name, items in expire.lost.items():
                lost[name] = lost.get(name, 0) + items
            more = expire.more
        return lost

    def flush(self) -> bool:
        """Commits everything that was called before; whether all of it is on disk now."""
        try:
            return self._writer.flush()
        except RefusedError:
            return False

    def status(self) -> dict[str, Any]:
        """``directory``, ``entries``, ``requests``, ``bytes``, ``oldest_seconds``, ``durable``, ``last_error`` (or None)."""
        with self._lock:
            counted = {"entries": self._entries, "requests": self._requests, "bytes": self._bytes}
        return {
            "directory": str(self._directory),
            **counted,
            "oldest_seconds": self._oldest_seconds(),
            "durable": True,
            "last_error": self._writer.last_error,
        }

    def close(self) -> None:
        """Commits what is outstanding, compacts and closes the file. Idempotent.

        Later, ``append``, ``put_request``, ``replace_request`` and, for what is not in memory, ``payload`` raise
        ``RefusedError``, the others do nothing.
        """
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._readers.close()
            if self._writer.close():
                self._lock_file.release()
            else:
                logger.error("otel-langfuse: the journal in %s still writes; its disk does not answer", self._directory)

    def _reserve(self, size: int) -> int:
        """An entry's id, after its bytes found room."""
        with self._lock:
            if self._closed:
                raise RefusedError("the sidecar is shutting down; send to the next one", reason="shutdown")
            if self._bytes + self._pending + size > self._max_bytes:
                raise RefusedError(
                    f"{size} bytes do not fit into the journal in {self._directory}: {self._bytes + self._pending} of "
                    f"{self._max_bytes} are taken by data that destinations have not taken yet; come again, mend them, or "
                    "raise its max_bytes",
                    reason="journal_full",
                )
            if self._pending and self._pending + size > _PENDING_BYTES:
                raise RefusedError(
                    f"{self._pending} bytes wait to be written to {self._directory}: its disk is too slow; come again",
                    reason="journal_busy",
                )
            self._pending += size
            entry_id = self._next_entry
            self._next_entry += 1
        return entry_id

    def _request_ids(self, number: int) -> list[int]:
        with self._lock:
            first = self._next_request
            self._next_request += number
        return list(range(first, first + number))

    def _keep(self, operation: operations.Operation) -> None:
        if not self._writer.has_room:
            raise RefusedError(
                f"the journal in {self._directory} cannot be written and holds as much in memory as it may: "
                f"{self._writer.last_error}; free space there; it goes on by itself",
                reason="journal_failed",
                retry_after=5.0,
            )
        self._writer.run(operation)

    def _note(self, operation: operations.Operation, *, wait: bool) -> None:
        try:
            if wait:
                self._writer.run(operation)
            else:
                self._writer.submit(operation)
        except RefusedError:
            pass  # After ``close``; there is nothing to note it in.

    def _committed(self, tally: Tally) -> None:
        with self._lock:
            self._entries += tally.entries
            self._requests += tally.requests
            self._bytes += tally.bytes
        self._cache.drop(tally.gone)

    def _heal(self, connection: sqlite3.Connection, cause: str) -> sqlite3.Connection | None:
        self._readers.suspend()
        try:
            healed = self._file.heal(connection, cause)
        finally:
            self._readers.resume()
        if healed is not None:
            held = totals(healed)
            with self._lock:
                self._set_totals(held)
        return healed

    @staticmethod
    def _opened(connection: sqlite3.Connection, path: Path) -> tuple[Totals, Readers]:
        try:
            return totals(connection), Readers(path)
        except sqlite3.Error as error:
            connection.close()
            raise ConfigError(
                f"the journal {path} cannot be read: {error}; check its disk, its rights, and the limit of open files",
                field="journal.directory",
            ) from None

    def _set_totals(self, held: Totals) -> None:
        self._entries, self._requests, self._bytes = held.entries, held.requests, held.bytes

    def _oldest_seconds(self) -> float:
        try:
            with self._readers.lend() as connection:
                oldest = connection.execute("SELECT MIN(received_at) FROM entries").fetchone()[0] if connection else None
        except sqlite3.Error:
            return 0.0  # The writer says what is wrong.
        return max(self._clock() - oldest, 0.0) if oldest is not None else 0.0

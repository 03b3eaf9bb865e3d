"""Reads what a journal holds: at the start all that is owed, later how much by destination.

These are operations of the writer, so that they see everything submitted before, and so that a damaged file is mended
before they are tried again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import ClassVar
from zlib import crc32

from otel_langfuse.sidecar.entry import EncodedRequest, Entry, Recovered, Signal, SpanKey
from otel_langfuse.sidecar.journal.operations import Operation
from otel_langfuse.sidecar.journal.salvage import Losses
from otel_langfuse.sidecar.journal.statements import Tally

__all__ = ["Holdings", "Owing", "Totals", "totals"]

_KEY_BYTES = 24
_SIGNALS = frozenset(str(signal) for signal in Signal)


@dataclass(frozen=True, slots=True)
class Totals:
    """How much a journal holds, and the ids that come next."""

    entries: int
    requests: int
    bytes: int
    next_entry: int
    next_request: int


def totals(connection: sqlite3.Connection) -> Totals:
    """Adds up what the file holds."""
    entries, entry_bytes, last_entry = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(size), 0), COALESCE(MAX(id), 0) FROM entries"
    ).fetchone()
    requests, request_bytes, last_request = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(size), 0), COALESCE(MAX(id), 0) FROM requests"
    ).fetchone()
    used = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    return Totals(
        entries,
        requests,
        entry_bytes + request_bytes,
        max(last_entry, used.get("entries", 0)) + 1,
        max(last_request, used.get("requests", 0)) + 1,
    )


@dataclass(slots=True, eq=False)
class Holdings(Operation):
    """Loads everything but payloads; deletes and counts the requests whose bodies are damaged."""

    kept: ClassVar[bool] = False

    losses: Losses
    found: Recovered = field(default_factory=Recovered)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Reads the tables."""
        self.found = Recovered(self._owed(cursor), self._requests(cursor, tally), _encoded(cursor), _promises(cursor))

    def _owed(self, cursor: sqlite3.Cursor) -> dict[str, list[tuple[Entry, bool]]]:
        owed: dict[str, list[tuple[Entry, bool]]] = {}
        entry: Entry | None = None
        rows = cursor.execute(
            "SELECT id, signal, items, size, received_at, destination, attempted FROM owed "
            "JOIN entries ON id = entry_id ORDER BY entry_id, destination"
        )
        for entry_id, signal, items, size, received_at, destination, attempted in rows:
            if signal not in _SIGNALS:  # A damage that the check of the file does not see.
                self.losses.add("entry", entry_id, items)
                continue
            if entry is None or entry.id != entry_id:
                entry = Entry(entry_id, Signal(signal), items, size, received_at)
            owed.setdefault(destination, []).append((entry, bool(attempted)))
        return owed

    def _requests(self, cursor: sqlite3.Cursor, tally: Tally) -> dict[str, list[EncodedRequest]]:
        requests: dict[str, list[EncodedRequest]] = {}
        rows = cursor.execute(
            "SELECT id, destination, compressed, spans, attempted, size, crc, body FROM requests "
            "LEFT JOIN bodies ON request_id = id ORDER BY id"
        ).fetchall()
        for request_id, destination, compressed, spans, attempted, size, crc, body in rows:
            if not isinstance(body, bytes) or crc32(body) != crc:
                self.losses.add("request", request_id, spans)
                cursor.execute("DELETE FROM bodies WHERE request_id = ?", (request_id,))
                cursor.execute("DELETE FROM requests WHERE id = ?", (request_id,))
                tally.requests -= 1
                tally.bytes -= size
                continue
            request = EncodedRequest(request_id, body, bool(compressed), spans, bool(attempted))
            requests.setdefault(destination, []).append(request)
        return requests


@dataclass(slots=True, eq=False)
class Owing(Operation):
    """Adds up what is owed: by destination, entries and spans or log records that are not settled."""

    kept: ClassVar[bool] = False

    found: list[tuple[str, int, int]] = field(default_factory=list)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Reads the tables. Spans of an entry that stand in requests count there, as long as those are not settled."""
        owed = cursor.execute(
            "SELECT destination, COUNT(*), SUM(MAX(items - (SELECT COALESCE(SUM(LENGTH(keys)), 0) / ? FROM ledger "
            "WHERE ledger.entry_id = owed.entry_id AND ledger.destination = owed.destination), 0)) "
            "FROM owed JOIN entries ON id = entry_id GROUP BY destination",
            (_KEY_BYTES,),
        ).fetchall()
        by_name = {name: (entries, items) for name, entries, items in owed}
        for name, spans in cursor.execute("SELECT destination, SUM(spans) FROM requests GROUP BY destination").fetchall():
            entries, items = by_name.get(name, (0, 0))
            by_name[name] = (entries, items + spans)
        self.found = [(name, *by_name[name]) for name in sorted(by_name)]


def _encoded(cursor: sqlite3.Cursor) -> dict[str, dict[int, frozenset[SpanKey]]]:
    encoded: dict[str, dict[int, frozenset[SpanKey]]] = {}
    for destination, entry_id, keys in cursor.execute("SELECT destination, entry_id, keys FROM ledger"):
        spans = frozenset((keys[at : at + 16], keys[at + 16 : at + _KEY_BYTES]) for at in range(0, len(keys), _KEY_BYTES))
        by_entry = encoded.setdefault(destination, {})
        by_entry[entry_id] = by_entry.get(entry_id, frozenset()) | spans
    return encoded


def _promises(cursor: sqlite3.Cursor) -> dict[str, list[tuple[SpanKey, int]]]:
    promises: dict[str, list[tuple[SpanKey, int]]] = {}
    rows = cursor.execute(
        "SELECT destination, trace_id, span_id, start_ns FROM promises "
        "WHERE LENGTH(trace_id) = 16 AND LENGTH(span_id) = 8 AND TYPEOF(start_ns) = 'integer' ORDER BY id"
    )
    for destination, trace_id, span_id, start_ns in rows:
        promises.setdefault(destination, []).append(((trace_id, span_id), start_ns))
    return promises

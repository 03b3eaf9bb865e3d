"""Brings what can be read of a damaged journal over into a new one.

Rules:

- A damaged table is read from both of its ends towards the damage.
- An entry comes over if its row, its payload with the right checksum, and a claim on it can be read; a request likewise.
- What is known to be lost is counted as ``journal_damaged``; rows that left no trace cannot be.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.journal.schema import connect

__all__ = ["Losses", "Salvaged", "salvage"]

_REMEDY = "Their part of the journal's file cannot be read any more; check the disk."
_KNOWN_LOSSES = 100_000
_COMMIT_BYTES = 8 * 1024 * 1024
_Row = tuple[Any, ...]


class Losses:
    """Counts entries and requests that a damaged file costs, each once."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._known: set[tuple[str, int]] = set()

    def add(self, kind: str, row_id: int, items: int) -> int:
        """Counts ``items`` for an entry or request unless that was done before; returns how many it counted."""
        with self._lock:
            if (kind, row_id) in self._known:
                return 0
            if len(self._known) < _KNOWN_LOSSES:
                self._known.add((kind, row_id))
        self._counters.drop("journal_damaged", items, _REMEDY)
        return items


@dataclass(slots=True)
class Salvaged:
    """How much came over, and how many items are known to be lost."""

    entries: int = 0
    requests: int = 0
    lost: int = 0


def salvage(source: Path, target: sqlite3.Connection, losses: Losses) -> Salvaged:
    """Copies what is readable from ``source`` into the empty journal ``target``; never raises for what is not.

    Raises:
        sqlite3.Error: ``target`` cannot be written.
    """
    found = Salvaged()
    try:
        connection = connect(source, read_only=True)
    except sqlite3.Error:
        return found
    with closing(connection):
        entries = _rows(connection, "entries", "id, signal, items, size, received_at, crc", ("id",))
        owed = _rows(connection, "owed", "entry_id, destination, attempted", ("entry_id", "destination"))
        requests = _rows(
            connection, "requests", "id, destination, size, compressed, spans, attempted, created_at, crc", ("id",)
        )
        ledger = _rows(
            connection, "ledger", "entry_id, destination, request_id, keys", ("entry_id", "destination", "request_id")
        )
        claims: dict[int, list[_Row]] = {}
        for row in owed.values():
            claims.setdefault(row[0], []).append(row)
        batch = _Batch(target)
        for entry_id, *_ in sorted(entries):
            row = entries[entry_id,]
            payload = _blob(connection, "SELECT payload FROM payloads WHERE entry_id = ?", entry_id, row[3], row[5])
            if payload is None or entry_id not in claims:
                found.lost += losses.add("entry", entry_id, row[2])
                continue
            batch.add("entries(id, signal, items, size, received_at, crc)", [row])
            batch.add("payloads(entry_id, payload)", [(entry_id, payload)])
            batch.add("owed(entry_id, destination, attempted)", claims[entry_id])
            found.entries += 1
        for entry_id in claims.keys() - {row[0] for row in entries.values()}:
            found.lost += losses.add("entry", entry_id, 1)  # At least one; how many stood in the row that is lost.
        for request_id, *_ in sorted(requests):
            row = requests[request_id,]
            body = _blob(connection, "SELECT body FROM bodies WHERE request_id = ?", request_id, row[2], row[7])
            if body is None:
                found.lost += losses.add("request", request_id, row[4])
                continue
            batch.add("requests(id, destination, size, compressed, spans, attempted, created_at, crc)", [row])
            batch.add("bodies(request_id, body)", [(request_id, body)])
            found.requests += 1
        batch.add("ledger(entry_id, destination, request_id, keys)", [row for key, row in ledger.items() if key[:2] in owed])
        batch.commit()
    return found


class _Batch:
    """Inserts rows, committing every few megabytes."""

    def __init__(self, target: sqlite3.Connection) -> None:
        self._target = target
        self._bytes = 0

    def add(self, table: str, rows: Iterable[_Row]) -> None:
        if not self._target.in_transaction:
            self._target.execute("BEGIN IMMEDIATE")
        marks = ", ".join("?" * (table.count(",") + 1))
        for row in rows:
            self._target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608  # fixed names
            self._bytes += sum(len(value) for value in row if isinstance(value, bytes))
        if self._bytes >= _COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        self._bytes = 0
        if self._target.in_transaction:
            self._target.execute("COMMIT")


def _rows(connection: sqlite3.Connection, table: str, columns: str, key: tuple[str, ...]) -> dict[_Row, _Row]:
    """The readable rows of a table by their key, which its first columns are."""
    found: dict[_Row, _Row] = {}
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{column} {direction}" for column in key)
        try:
            for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY {order}"):  # noqa: S608  # fixed names
                if row[: len(key)] in found:
                    break
                found[row[: len(key)]] = row
            else:
                return found
        except (sqlite3.Error, UnicodeError):
            continue  # From the other end, then.
    return found


def _blob(connection: sqlite3.Connection, query: str, row_id: int, size: int, crc: int) -> bytes | None:
    try:
        row = connection.execute(query, (row_id,)).fetchone()
    except sqlite3.Error:
        return None
    if row is None or not isinstance(row[0], bytes) or len(row[0]) != size or crc32(row[0]) != crc:
        return None
    return row[0]

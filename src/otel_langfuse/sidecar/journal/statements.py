"""Statements that several operations share, and the account of what a transaction changed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from zlib import crc32

__all__ = ["Tally", "claims", "delete_entry", "delete_request", "encoded", "insert_request", "settle"]


@dataclass(slots=True)
class Tally:
    """What a transaction changed; ``gone`` names the entries that have left."""

    entries: int = 0
    requests: int = 0
    bytes: int = 0
    gone: list[int] = field(default_factory=list)


def claims(cursor: sqlite3.Cursor, entry_id: int) -> list[str]:
    """Who the entry is owed to."""
    return [row[0] for row in cursor.execute("SELECT destination FROM owed WHERE entry_id = ?", (entry_id,)).fetchall()]


def encoded(cursor: sqlite3.Cursor, entry_id: int, destination: str) -> int:
    """Spans of the entry that stand in requests."""
    found = cursor.execute(
        "SELECT COALESCE(SUM(LENGTH(keys)), 0) / 24 FROM ledger WHERE entry_id = ? AND destination = ?", (entry_id, destination)
    ).fetchone()
    return int(found[0])


def settle(cursor: sqlite3.Cursor, tally: Tally, entry_id: int, destination: str) -> None:
    """Deletes a claim, its part of the ledger, and the entry with its last claim. Does nothing the second time."""
    cursor.execute("DELETE FROM owed WHERE entry_id = ? AND destination = ?", (entry_id, destination))
    if not cursor.rowcount:
        return
    cursor.execute("DELETE FROM ledger WHERE entry_id = ? AND destination = ?", (entry_id, destination))
    if cursor.execute("SELECT 1 FROM owed WHERE entry_id = ? LIMIT 1", (entry_id,)).fetchone() is None:
        delete_entry(cursor, tally, entry_id)


def delete_entry(cursor: sqlite3.Cursor, tally: Tally, entry_id: int) -> None:
    """Deletes an entry and its payload."""
    found = cursor.execute("SELECT size FROM entries WHERE id = ?", (entry_id,)).fetchone()
    if found is None:
        return
    cursor.execute("DELETE FROM payloads WHERE entry_id = ?", (entry_id,))
    cursor.execute("DELETE FROM entries WHERE id = ?", (entry_id,))
    tally.entries -= 1
    tally.bytes -= found[0]
    tally.gone.append(entry_id)


def insert_request(
    cursor: sqlite3.Cursor, tally: Tally, request_id: int, origin: tuple[str, float], part: tuple[bytes, bool, int]
) -> None:
    """Inserts a request: ``origin`` is destination and creation time, ``part`` body, whether compressed, and spans."""
    destination, created_at = origin
    body, compressed, spans = part
    cursor.execute(
        "INSERT INTO requests(id, destination, size, compressed, spans, created_at, crc) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (request_id, destination, len(body), compressed, spans, created_at, crc32(body)),
    )
    cursor.execute("INSERT INTO bodies(request_id, body) VALUES (?, ?)", (request_id, body))
    tally.requests += 1
    tally.bytes += len(body)


def delete_request(cursor: sqlite3.Cursor, tally: Tally, request_id: int) -> None:
    """Deletes a request and its body."""
    found = cursor.execute("SELECT size FROM requests WHERE id = ?", (request_id,)).fetchone()
    if found is None:
        return
    cursor.execute("DELETE FROM bodies WHERE request_id = ?", (request_id,))
    cursor.execute("DELETE FROM requests WHERE id = ?", (request_id,))
    tally.requests -= 1
    tally.bytes -= found[0]

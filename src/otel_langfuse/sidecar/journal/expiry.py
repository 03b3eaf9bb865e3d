"""Drops what is too old, or owed to a destination that is no more: a bounded number of rows in each transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import ClassVar

from otel_langfuse.sidecar.journal.operations import Operation
from otel_langfuse.sidecar.journal.statements import Tally, claims, delete_entry, delete_request, encoded, settle

__all__ = ["Expire", "Forget"]

_EXPIRE_ROWS = 500
"""Rows that one transaction drops, so that no commit has to wait long for it."""


@dataclass(slots=True, eq=False)
class Expire(Operation):
    """Drops some of what is older than ``before``: entries, promises and, if asked to, requests.

    Attributes:
        requests: Whether encoded requests are dropped too.
        lost: Items by destination, and whether there is more; valid when it is committed.
    """

    kept: ClassVar[bool] = False

    before: float
    requests: bool = False
    lost: dict[str, int] = field(default_factory=dict)
    more: bool = False

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Settles the claims of old entries, deletes old promises and requests."""
        lost: dict[str, int] = {}
        self.lost = lost
        entries = cursor.execute(
            "SELECT id, items FROM entries WHERE received_at < ? ORDER BY received_at LIMIT ?", (self.before, _EXPIRE_ROWS)
        ).fetchall()
        for entry_id, items in entries:
            for destination in claims(cursor, entry_id):
                lost[destination] = lost.get(destination, 0) + max(items - encoded(cursor, entry_id, destination), 0)
                settle(cursor, tally, entry_id, destination)
            delete_entry(cursor, tally, entry_id)
        # Ids ascend with time, so the old ones are the first.
        cursor.execute(
            "DELETE FROM promises WHERE id IN (SELECT id FROM promises ORDER BY id LIMIT ?) AND created_at < ?",
            (_EXPIRE_ROWS, self.before),
        )
        promises = cursor.rowcount
        requests = cursor.execute(
            "SELECT id, destination, spans FROM requests WHERE created_at < ? LIMIT ?",
            (self.before, _EXPIRE_ROWS if self.requests else 0),
        ).fetchall()
        for request_id, destination, spans in requests:
            lost[destination] = lost.get(destination, 0) + spans
            delete_request(cursor, tally, request_id)
        self.more = max(len(entries), promises, len(requests)) == _EXPIRE_ROWS


@dataclass(slots=True, eq=False)
class Forget(Operation):
    """Drops some of what a destination is owed.

    Attributes:
        more: Whether there is more; valid when it is committed.
    """

    kept: ClassVar[bool] = False

    destination: str
    more: bool = False

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Settles claims of the destination, deletes its promises and requests."""
        entries = cursor.execute(
            "SELECT entry_id FROM owed WHERE destination = ? LIMIT ?", (self.destination, _EXPIRE_ROWS)
        ).fetchall()
        for (entry_id,) in entries:
            settle(cursor, tally, entry_id, self.destination)
        requests = cursor.execute(
            "SELECT id FROM requests WHERE destination = ? LIMIT ?", (self.destination, _EXPIRE_ROWS)
        ).fetchall()
        for (request_id,) in requests:
            delete_request(cursor, tally, request_id)
        cursor.execute(
            "DELETE FROM promises WHERE id IN (SELECT id FROM promises WHERE destination = ? LIMIT ?)",
            (self.destination, _EXPIRE_ROWS),
        )
        self.more = max(len(entries), len(requests), cursor.rowcount) == _EXPIRE_ROWS

"""What can be written to the journal: each operation is a few statements within somebody else's transaction.

Rules:

- An operation may be applied again after a rollback, so it keeps no result until its transaction is committed.
- ``tokens`` name what an operation is about; two that share one must stay in order, others need not.
- A kept operation is never refused: it concerns data that were accepted already. One that ``grows`` needs space.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from otel_langfuse.sidecar.entry import SpanKey
from otel_langfuse.sidecar.journal.statements import Tally, delete_request, insert_request, settle

__all__ = [
    "Append",
    "Attempt",
    "AttemptRequest",
    "Done",
    "Fulfil",
    "Nothing",
    "Operation",
    "Promise",
    "PutRequest",
    "ReplaceRequest",
    "RequestDone",
]

_MOST_INTEGER = (1 << 63) - 1


@dataclass(slots=True, eq=False)
class Operation:
    """One thing to write.

    Attributes:
        finished: Set when it was committed or given up; ``None`` if nobody waits.
        error: Why it was given up.
        unwritten: Whether it is kept for another attempt, although its caller waits no more.
    """

    kept: ClassVar[bool] = True
    grows: ClassVar[bool] = False

    finished: threading.Event | None = field(default=None, kw_only=True)
    error: Exception | None = field(default=None, kw_only=True)
    unwritten: bool = field(default=False, kw_only=True)

    @property
    def size(self) -> int:
        """Bytes it holds."""
        return 0

    @property
    def tokens(self) -> Sequence[Hashable]:
        """What it is about."""
        return ()

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Runs its statements."""

    def finish(self, error: Exception | None = None) -> None:
        """Lets go who waits."""
        self.error = error
        if self.finished is not None:
            self.finished.set()


@dataclass(slots=True, eq=False)
class Nothing(Operation):
    """Marks a place in the queue, to wait for."""

    kept: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Append(Operation):
    """A new entry. Refused if it cannot be written."""

    kept: ClassVar[bool] = False
    grows: ClassVar[bool] = True

    entry_id: int
    signal: str
    items: int
    received_at: float
    crc: int
    payload: bytes
    owed: Sequence[str]

    @property
    def size(self) -> int:
        """Bytes of its payload."""
        return len(self.payload)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Inserts the entry, its payload and its claims."""
        entry_id = self.entry_id
        cursor.execute(
            "INSERT INTO entries(id, signal, items, size, received_at, crc) VALUES (?, ?, ?, ?, ?, ?)",
            (entry_id, self.signal, self.items, len(self.payload), self.received_at, self.crc),
        )
        cursor.execute("INSERT INTO payloads(entry_id, payload) VALUES (?, ?)", (entry_id, self.payload))
        for destination in self.owed:
            cursor.execute("INSERT INTO owed(entry_id, destination) VALUES (?, ?)", (entry_id, destination))
        tally.entries += 1
        tally.bytes += len(self.payload)


@dataclass(slots=True, eq=False)
class _OfClaim(Operation):
    """Something that happens to a destination's claim on an entry."""

    entry_id: int
    destination: str

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The claim."""
        return ((self.entry_id, self.destination),)


@dataclass(slots=True, eq=False)
class Attempt(_OfClaim):
    """A send of an entry begins."""

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Marks the claim."""
        cursor.execute(
            "UPDATE owed SET attempted = 1 WHERE entry_id = ? AND destination = ?", (self.entry_id, self.destination)
        )


@dataclass(slots=True, eq=False)
class Done(_OfClaim):
    """A claim is settled."""

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Deletes the claim, its part of the ledger, and the entry with its last claim."""
        settle(cursor, tally, self.entry_id, self.destination)


@dataclass(slots=True, eq=False)
class PutRequest(Operation):
    """An encoded request and its part of the ledger, in one transaction.

    Attributes:
        settled: The request is done before it could be written; only the ledger is.
    """

    grows: ClassVar[bool] = True

    request_id: int
    destination: str
    body: bytes
    compressed: bool
    spans: int
    created_at: float
    keys: Mapping[int, Sequence[SpanKey]]
    settled: bool = False

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return len(self.body)

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The request, and the claims whose spans stand in it: those may not be settled before it is written."""
        return (self.request_id, *((entry_id, self.destination) for entry_id in self.keys))

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Inserts request, body and ledger; claims that are settled already need no ledger."""
        if not self.settled:
            insert_request(
                cursor, tally, self.request_id, (self.destination, self.created_at), (self.body, self.compressed, self.spans)
            )
        for entry_id, keys in self.keys.items():
            packed = b"".join(trace_id + span_id for trace_id, span_id in keys)
            cursor.execute(
                "INSERT INTO ledger(entry_id, destination, request_id, keys) SELECT entry_id, destination, ?, ? FROM owed "
                "WHERE entry_id = ? AND destination = ?",
                (self.request_id, packed, entry_id, self.destination),
            )


@dataclass(slots=True, eq=False)
class ReplaceRequest(Operation):
    """Parts take the place of a request; one that is not there any more has no parts."""

    grows: ClassVar[bool] = True

    request_id: int
    parts: Mapping[int, tuple[bytes, bool, int]]

    @property
    def size(self) -> int:
        """Bytes of all bodies."""
        return sum(len(body) for body, _, _ in self.parts.values())

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The request and its parts."""
        return (self.request_id, *self.parts)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Inserts the parts with the destination and age of the request, and deletes that."""
        origin = cursor.execute("SELECT destination, created_at FROM requests WHERE id = ?", (self.request_id,)).fetchone()
        if origin is None:
            return
        delete_request(cursor, tally, self.request_id)
        for part_id, part in self.parts.items():
            insert_request(cursor, tally, part_id, origin, part)


@dataclass(slots=True, eq=False)
class AttemptRequest(Operation):
    """A send of a request begins."""

    request_id: int

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The request."""
        return (self.request_id,)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Marks the request."""
        cursor.execute("UPDATE requests SET attempted = 1 WHERE id = ?", (self.request_id,))


@dataclass(slots=True, eq=False)
class RequestDone(Operation):
    """A request was delivered or dropped."""

    request_id: int

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The request."""
        return (self.request_id,)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Deletes the request and its body; the ledger stays."""
        delete_request(cursor, tally, self.request_id)


@dataclass(slots=True, eq=False)
class Promise(Operation):
    """A destination was told of a span that has not come.

    Attributes:
        most: Promises that each destination may have; the oldest beyond are forgotten.
    """

    grows: ClassVar[bool] = True

    destination: str
    key: SpanKey
    start_ns: int
    created_at: float
    most: int

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly: what waits for a file that fails is bounded in bytes."""
        return 256

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The promise."""
        return ((self.destination, self.key),)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Inserts the promise unless it is there; every now and then, forgets those beyond the bound."""
        cursor.execute(
            "INSERT OR IGNORE INTO promises(destination, trace_id, span_id, start_ns, created_at) VALUES (?, ?, ?, ?, ?)",
            (self.destination, *self.key, min(max(self.start_ns, 0), _MOST_INTEGER), self.created_at),
        )
        step = max(self.most // 256, 1)
        if cursor.rowcount < 1 or (cursor.lastrowid or 0) % step:
            return
        for (destination,) in cursor.execute("SELECT DISTINCT destination FROM promises").fetchall():
            # At most ``step`` come until this is done again. No row at the offset: nothing is older.
            cursor.execute(
                "DELETE FROM promises WHERE destination = ? AND id <= "
                "(SELECT id FROM promises WHERE destination = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (destination, destination, max(self.most - step + 1, 1)),
            )


@dataclass(slots=True, eq=False)
class Fulfil(Operation):
    """Promised spans came, or are waited for no more."""

    destination: str
    keys: Sequence[SpanKey]

    @property
    def tokens(self) -> Sequence[Hashable]:
        """The promises."""
        return tuple((self.destination, key) for key in self.keys)

    def apply(self, cursor: sqlite3.Cursor, tally: Tally) -> None:
        """Deletes the promises."""
        cursor.executemany(
            "DELETE FROM promises WHERE destination = ? AND trace_id = ? AND span_id = ?",
            [(self.destination, *key) for key in self.keys],
        )

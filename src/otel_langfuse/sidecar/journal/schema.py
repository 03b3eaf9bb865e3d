"""The journal's SQLite file: its tables, and how a connection to it is set up.

Rules:

- Payloads and bodies stand in tables of their own, so that scans of what is owed do not read them.
- The file says what it is (``application_id``) and which version of the tables it has (``user_version``).
- Write-ahead log: a commit appends to it and readers never wait. With ``fsync`` each commit is on the disk when it
  returns (survives the machine's crash); without, it is in the operating system's cache (survives the process's crash,
  and the file stays consistent after the machine's, but the last commits before it may be missing).
- Freed pages are reused, and given back by ``incremental_vacuum``. Deleted content is overwritten where that costs no
  further write.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "APPLICATION_ID",
    "FILE_NAME",
    "TABLES",
    "VERSION",
    "Tuning",
    "complete",
    "connect",
    "connect_writer",
    "create",
    "primary_code",
]

FILE_NAME = "journal.sqlite3"
APPLICATION_ID = 0x6F6C666A
VERSION = 1

_PAGE_SIZE = 8192
_CHECKPOINT_PAGES = 2048
"""The write-ahead log is copied into the file every 16 MiB."""
_LOG_BYTES = 64 * 1024 * 1024
"""What the write-ahead log is cut to when it was longer; below, it is overwritten in place."""

_STATEMENTS = (
    """CREATE TABLE entries(
        id INTEGER PRIMARY KEY AUTOINCREMENT, signal TEXT NOT NULL, items INTEGER NOT NULL, size INTEGER NOT NULL,
        received_at REAL NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE INDEX entries_by_age ON entries(received_at)",
    "CREATE TABLE payloads(entry_id INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
    """CREATE TABLE owed(
        entry_id INTEGER NOT NULL, destination TEXT NOT NULL, attempted INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY(entry_id, destination)) WITHOUT ROWID""",
    """CREATE TABLE requests(
        id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, size INTEGER NOT NULL, compressed INTEGER NOT NULL,
        spans INTEGER NOT NULL, attempted INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE TABLE bodies(request_id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    # One row per entry and request: ``keys`` is trace id and span id of each span, 24 bytes, one after the other.
    """CREATE TABLE ledger(
        entry_id INTEGER NOT NULL, destination TEXT NOT NULL, request_id INTEGER NOT NULL, keys BLOB NOT NULL,
        PRIMARY KEY(entry_id, destination, request_id)) WITHOUT ROWID""",
)
# Came later than the first files of this version, so they are made where they are missing. Ids ascend with time.
_ADDED = (
    """CREATE TABLE IF NOT EXISTS promises(
        id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, trace_id BLOB NOT NULL, span_id BLOB NOT NULL,
        start_ns INTEGER NOT NULL, created_at REAL NOT NULL, UNIQUE(destination, trace_id, span_id))""",
    "CREATE INDEX IF NOT EXISTS promises_by_destination ON promises(destination)",
)

TABLES = frozenset({"entries", "payloads", "owed", "requests", "bodies", "ledger"})


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the connection that writes is set up.

    Attributes:
        fsync: Whether commits wait for the disk.
        max_pages: Bound of the file in pages (SQLite answers "full" beyond); ``None`` for SQLite's own.
        busy_seconds: How long it waits for another program that holds the file.
    """

    fsync: bool
    max_pages: int | None = None
    busy_seconds: float = 5.0


def connect(path: Path, *, read_only: bool = False, busy_seconds: float = 5.0) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use."""
    target = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(target, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_seconds)
    connection.text_factory = _text
    return connection


def connect_writer(path: Path, tuning: Tuning) -> sqlite3.Connection:
    """The connection that writes.

    Raises:
        sqlite3.Error: The file is no database, or cannot be opened.
    """
    connection = connect(path, busy_seconds=tuning.busy_seconds)
    try:
        if not path.stat().st_size:
            connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if tuning.fsync else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
        connection.execute("PRAGMA secure_delete=FAST")
        connection.execute("PRAGMA temp_store=MEMORY")
        if tuning.max_pages is not None:
            connection.execute(f"PRAGMA max_page_count={tuning.max_pages:d}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(connection: sqlite3.Connection) -> None:
    """Makes the tables, all or none."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for statement in (*_STATEMENTS, *_ADDED):
                cursor.execute(statement)
            cursor.execute(f"PRAGMA application_id={APPLICATION_ID}")
            cursor.execute(f"PRAGMA user_version={VERSION}")
            cursor.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise


def complete(connection: sqlite3.Connection) -> None:
    """Makes the tables that an older file of this version has not; writes nothing if there are none.

    Raises:
        sqlite3.Error: They cannot be written.
    """
    for statement in _ADDED:
        connection.execute(statement)


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code of an error; 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _text(raw: bytes) -> str:
    """Text that damage has made unreadable is a name that nobody knows, and no error."""
    return raw.decode(errors="replace")

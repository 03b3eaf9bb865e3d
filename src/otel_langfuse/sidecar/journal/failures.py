"""What an error of SQLite means for the journal, and what is said about it."""

from __future__ import annotations

import sqlite3

from otel_langfuse.sidecar.entry import RefusedError
from otel_langfuse.sidecar.journal.schema import primary_code

__all__ = ["is_damage", "is_outside", "needs_healing", "refusal", "remedy", "unreadable"]

_OUTSIDE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Failures of the file and what it lies on, which another operation would meet as well."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def refusal(place: str, cause: str, code: int) -> RefusedError:
    """The answer to a sender whose data could not be written."""
    reason = "disk_full" if code == sqlite3.SQLITE_FULL else "journal_failed"
    return RefusedError(f"the journal {place} cannot take it ({cause}). {remedy(code)}", reason=reason, retry_after=5.0)


def unreadable(place: str, cause: str) -> RefusedError:
    """What a destination is told whose entry cannot be read now, although nothing says that it is damaged."""
    return RefusedError(
        f"the journal {place} cannot be read now ({cause}); its entries stay. {remedy(0)}", reason="journal_failed"
    )


def is_damage(error: Exception) -> bool:
    """Whether the file itself is wrong, and will be when it is read again."""
    return primary_code(error) in _DAMAGE


def needs_healing(error: Exception) -> bool:
    """Whether the file is damaged, or was given up before because it could not be replaced."""
    return primary_code(error) in _DAMAGE or _is_closed(error)


def _is_closed(error: Exception) -> bool:
    """Whether the connection is gone, because a damaged file could not be replaced."""
    return isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error)


def is_outside(error: Exception) -> bool:
    """Whether another operation would fail as well."""
    return primary_code(error) in _OUTSIDE or _is_closed(error)


def remedy(code: int) -> str:
    """What to do about a result code."""
    if code == sqlite3.SQLITE_FULL:
        return "Its disk is full: free space there; it goes on by itself."
    if code in _DAMAGE:
        return "Its file is damaged: check the disk and restart, which saves what can be read."
    return "Check the disk, its quota and the rights of the directory; it goes on by itself."

"""Keeps accepted entries until every destination is done with them: in memory, or in an SQLite file that survives."""

from __future__ import annotations

from otel_langfuse.sidecar.journal.memory import MemoryJournal
from otel_langfuse.sidecar.journal.sqlite import SqliteJournal

__all__ = ["MemoryJournal", "SqliteJournal"]

"""Connections that read payloads beside the writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_langfuse.sidecar.journal.schema import connect

__all__ = ["Readers"]

_IDLE = 4


class Readers:
    """Lends connections, one thread each at a time; keeps at most four of them open while nobody reads.

    The first is opened at once: a process that has no descriptor left can still read.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._generation = 0
        self._suspended = False
        self._closed = False
        self._idle.append(self._open())

    @property
    def generation(self) -> int:
        """Changes whenever another file may have come."""
        with self._lock:
            return self._generation

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection | None]:
        """A connection to read from, ``None`` after ``close``.

        Raises:
            sqlite3.Error: None could be opened, or the file is being replaced.
        """
        with self._lock:
            if self._suspended:
                raise sqlite3.OperationalError("a damaged file is being replaced")
            closed, generation = self._closed, self._generation
            connection = self._idle.pop() if self._idle else None
        if closed:
            yield None
            return
        if connection is None:
            connection = self._open()
        try:
            yield connection
        finally:
            with self._lock:
                reusable = not self._closed and generation == self._generation and len(self._idle) < _IDLE
                if reusable:
                    self._idle.append(connection)
            if not reusable:
                connection.close()

    def suspend(self) -> None:
        """Closes what is open and lends nothing until ``resume``: the file is being replaced, and is not complete."""
        with self._lock:
            self._suspended = True
        self._renew()

    def resume(self) -> None:
        """Lends again: the file is another one now."""
        self._renew()
        with self._lock:
            self._suspended = False

    def close(self) -> None:
        """Closes all connections; one that is in use when it comes back."""
        with self._lock:
            self._closed = True
        self._renew()

    def _renew(self) -> None:
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = connect(self._path)
        try:
            connection.execute("PRAGMA query_only=1")
            connection.execute("SELECT 1 FROM entries LIMIT 1").fetchone()  # Opens the write-ahead log too.
        except BaseException:
            connection.close()
            raise
        return connection

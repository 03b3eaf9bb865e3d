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
    """Lends connections, one thread each at a time; keeps at most four of them open while nobody reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._generation = 0
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection | None]:
        """A connection to read from, ``None`` after ``close``.

        Raises:
            sqlite3.Error: None could be opened.
        """
        with self._lock:
            closed, generation = self._closed, self._generation
            connection = self._idle.pop() if self._idle else None
        if closed:
            yield None
            return
        if connection is None:
            connection = connect(self._path)
            connection.execute("PRAGMA query_only=1")
        try:
            yield connection
        finally:
            with self._lock:
                reusable = not self._closed and generation == self._generation and len(self._idle) < _IDLE
                if reusable:
                    self._idle.append(connection)
            if not reusable:
                connection.close()

    def renew(self) -> None:
        """Closes what is open: the file is another one now."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Closes all connections; one that is in use when it comes back."""
        with self._lock:
            self._closed = True
        self.renew()

"""Opening a journal, whatever state it is in.

Rules:

- A file that is damaged, foreign or of a newer version is set aside, never deleted and never a reason not to start.
- A disk or directory that cannot be used is a reason: the operator asked for a journal and would not have one.
- The check of a large file is bounded in time; what it does not reach is found when it is read.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.journal import schema
from otel_langfuse.sidecar.journal.files import make_private, put_back, set_aside
from otel_langfuse.sidecar.journal.holdings import totals
from otel_langfuse.sidecar.journal.salvage import Losses, salvage

__all__ = ["JournalFile"]

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 20.0
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA})
_HEALINGS = 3
"""Damaged files that a running journal sets aside; a disk that damages more would only be filled with them."""


@dataclass(frozen=True, slots=True)
class _Problem:
    what: str
    salvageable: bool
    remedy: str


class JournalFile:
    """The file of a journal: opens it, and replaces it when it turns out to be damaged.

    Args:
        path: Where it is.
        tuning: How its connection is set up.
        losses: Counts what a damaged file costs.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, tuning: schema.Tuning, *, losses: Losses, clock: Callable[[], float]) -> None:
        self._path = path
        self._tuning = tuning
        self._losses = losses
        self._clock = clock
        self._healings = 0

    def open(self) -> sqlite3.Connection:
        """A connection to a sound journal: the one that is there, or a new one beside what was set aside.

        Raises:
            ConfigError: The file cannot be opened or written.
        """
        make_private(self._path)
        connection: sqlite3.Connection | None = None
        try:
            problem = _broken_off(self._path)
            if problem is None:
                connection = self._connect()
                problem = _examine(connection)
            if problem is None and connection is not None:
                return connection
        except sqlite3.Error as error:
            if schema.primary_code(error) not in _DAMAGE:
                _close(connection)
                raise self._unusable(error) from None
            problem = _Problem(f"is damaged ({error})", True, "check the disk")
        _close(connection)
        try:
            return self._replace(problem or _Problem("is damaged", True, "check the disk"))
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from None

    def heal(self, connection: sqlite3.Connection, cause: str) -> sqlite3.Connection | None:
        """Replaces a file that a running journal found damaged; ``None`` if it fails, or happened too often.

        The connection given is closed unless it happened too often.
        """
        if self._healings >= _HEALINGS:
            return None
        self._healings += 1
        _close(connection)
        try:
            return self._replace(_Problem(f"is damaged ({cause})", True, "check the disk"))
        except (sqlite3.Error, ConfigError, OSError) as error:
            logger.warning(
                "otel-langfuse: the journal %s is damaged (%s) and cannot be replaced: %s. Free space there and restart",
                self._path,
                cause,
                error,
            )
            return None

    def _connect(self) -> sqlite3.Connection:
        return schema.connect_writer(self._path, self._tuning)

    def _replace(self, problem: _Problem) -> sqlite3.Connection:
        aside = set_aside(self._path, self._clock())
        connection: sqlite3.Connection | None = None
        try:
            make_private(self._path)
            connection = self._connect()
            schema.create(connection)
            saved = "nothing was read from it"
            if problem.salvageable:
                found = salvage(aside, connection, self._losses)
                saved = (
                    f"{found.entries} entries and {found.requests} encoded requests were brought over, "
                    f"{found.lost} spans or log records are known to be lost"
                )
        except BaseException:
            _close(connection)
            put_back(aside, self._path)  # There was no room for another one, say. Nothing is lost for that.
            raise
        logger.warning(
            "otel-langfuse: the journal %s %s; it was set aside as %s and a new one was started; %s. To do: %s; delete the "
            "file that was set aside when it is needed no more, it holds prompts",
            self._path,
            problem.what,
            aside.name,
            saved,
            problem.remedy,
        )
        return connection

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"the journal {self._path} cannot be opened: {error}; check its disk, its rights, and that no other program "
            "holds it",
            field="journal.directory",
        )


def _broken_off(path: Path) -> _Problem | None:
    """An empty file beside a log that is not: SQLite would delete the log."""
    log = path.with_name(path.name + "-wal")
    if path.stat().st_size or not log.exists() or not log.stat().st_size:
        return None
    return _Problem("is empty although its write-ahead log is not", False, "find out what emptied it")


def _examine(connection: sqlite3.Connection) -> _Problem | None:
    """What is wrong with the file; makes the tables if it is empty.

    Raises:
        sqlite3.Error: Also that something is wrong.
    """
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}
    if not tables and not owner:
        schema.create(connection)
        return None
    if owner != schema.APPLICATION_ID:
        return _Problem("is another program's database", False, "give the journal a directory of its own")
    if version > schema.VERSION:
        remedy = "to use it, stop, put it back under its name and start the version that wrote it, or a later one"
        return _Problem(f"has the format {version}, and this version reads up to {schema.VERSION}", False, remedy)
    if missing := schema.TABLES - tables:
        return _Problem(f"is damaged (it has no {', '.join(sorted(missing))})", True, "check the disk")
    if (damage := _check(connection)) is not None:
        return _Problem(f"is damaged ({damage})", True, "check the disk")
    schema.complete(connection)
    totals(connection)  # Reads what the start needs, in case the check did not come so far.
    return None


def _check(connection: sqlite3.Connection) -> str | None:
    """The first thing that SQLite finds wrong in the time given."""
    started = time.monotonic()
    alarm = threading.Timer(_CHECK_SECONDS, connection.interrupt)
    alarm.daemon = True
    alarm.start()
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if schema.primary_code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        found = "ok"
    finally:
        alarm.cancel()
        alarm.join()
    if time.monotonic() - started >= _CHECK_SECONDS:
        logger.info("otel-langfuse: the journal is large and was checked in part; damage is found when it is read")
        return None
    return None if found == "ok" else found


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except sqlite3.Error as error:
            logger.debug("otel-langfuse: a damaged journal did not close: %s", error)

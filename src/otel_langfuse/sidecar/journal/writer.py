"""The one thread that writes: group commit.

Rules:

- Whatever waits when a commit begins goes into it; what comes meanwhile waits for the next. One commit serves all.
- Operations that nobody waits for ride along, or go alone after 50 ms.
- A failed transaction changes nothing. New entries in it are refused; what concerns accepted data is kept and written
  once that is possible again, in order where order matters. What needs no space goes first.
- One operation that can never be written costs nothing but itself.
- What is kept is bounded: in number here (the newest settlement is given up, so that its data come again after a restart),
  in bytes by ``has_room``.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.sidecar.entry import RefusedError
from otel_langfuse.sidecar.journal.failures import is_outside, needs_healing, refusal, remedy
from otel_langfuse.sidecar.journal.operations import Nothing, Operation, PutRequest
from otel_langfuse.sidecar.journal.schema import primary_code
from otel_langfuse.sidecar.journal.statements import Tally

__all__ = ["GroupWriter"]

logger = logging.getLogger(__name__)

_LINGER = 0.05
_RETRY = 1.0
_RIDERS = 1000
"""Operations without a waiter that make a commit worth its while."""
_BATCH_OPERATIONS = 4000
_BATCH_BYTES = 16 * 1024 * 1024
_UNWRITTEN_OPERATIONS = 200_000
_UNWRITTEN_BYTES = 64 * 1024 * 1024
_JOIN_SECONDS = 60.0
_FREE_BYTES = 16 * 1024 * 1024
_VACUUM_PAGES = 2048


class GroupWriter:
    """Writes operations in the order in which they were submitted.

    Args:
        connection: Used by the writer's thread alone from now on, and closed by it.
        place: Names the journal in messages.
        committed: Told what each transaction changed, before its waiters go on.
        heal: Makes a sound file out of a damaged one and returns a connection to it, or ``None`` if that is in vain.
        counters: Takes ``journal_commits``, ``journal_write_errors``, ``journal_late_writes`` (kept for another attempt) and
            ``journal_unsettled`` (given up).
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        place: str,
        committed: Callable[[Tally], None],
        heal: Callable[[sqlite3.Connection, str], sqlite3.Connection | None],
        counters: Counters,
    ) -> None:
        self._connection = connection
        self._place = place
        self._committed = committed
        self._heal = heal
        self._counters = counters
        self._may_log = OncePerInterval()
        self._changed = threading.Condition()
        self._queue: deque[Operation] = deque()
        self._waiting = 0
        self._flush_at = 0.0
        self._unwritten: list[Operation] = []
        self._unwritten_bytes = 0
        self._retry_at = 0.0
        self._freed = 0
        self._closing = False
        self._last_chance = True
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="otel-langfuse-journal", daemon=True)
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether a kept operation that holds bytes may come now: false while too many wait for a file that fails."""
        return self._unwritten_bytes < _UNWRITTEN_BYTES

    def submit(self, operation: Operation) -> None:
        """Queues an operation; raises ``RefusedError`` after ``close``."""
        with self._changed:
            if self._closing:
                raise RefusedError("the sidecar is shutting down; send to the next one", reason="shutdown")
            if not self._queue:
                self._flush_at = time.monotonic() + _LINGER
            self._queue.append(operation)
            if operation.finished is not None:
                self._waiting += 1
            if self._waiting == 1 or len(self._queue) in (1, _RIDERS):
                self._changed.notify()

    def run(self, operation: Operation) -> None:
        """Queues an operation and waits until it is committed, or kept.

        Raises:
            RefusedError: It could not be written and is not of the kind that is kept.
        """
        operation.finished = threading.Event()
        self.submit(operation)
        operation.finished.wait()
        if operation.error is not None:
            raise operation.error

    def settle_unwritten(self, request_id: int) -> bool:
        """Whether a request was found among what could not be written yet, and let go of."""
        with self._changed:
            for operation in self._unwritten:
                if isinstance(operation, PutRequest) and operation.request_id == request_id:
                    self._unwritten_bytes -= operation.size
                    operation.settled, operation.body = True, b""
                    return True
        return False

    def flush(self) -> bool:
        """Writes everything submitted before, late things included; whether nothing is left unwritten.

        Raises:
            RefusedError: The journal is closed.
        """
        with self._changed:
            self._retry_at = 0.0
        self.run(Nothing())
        with self._changed:
            return not self._unwritten

    def close(self) -> bool:
        """Writes what is queued, tries once more what is kept, and closes the connection. Idempotent.

        Returns:
            Whether it came to an end; it waits for a minute.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (operations := self._take()) is not None:
            try:
                self._write(operations)
                self._tidy()
            except Exception:
                logger.exception("otel-langfuse: the journal %s failed at %d operations", self._place, len(operations))
                for operation in operations:
                    if operation.finished is not None and not operation.finished.is_set():
                        operation.finish(refusal(self._place, "it failed; this is a bug, please report it", 0))
        if self._unwritten:
            logger.warning(
                "otel-langfuse: %d changes could not be written to the journal %s before the end (%s); what they settle is "
                "sent again after the next start",
                len(self._unwritten),
                self._place,
                self.last_error,
            )
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            logger.warning("otel-langfuse: the journal %s could not be compacted at the end: %s", self._place, error)
        self._connection.close()

    def _take(self) -> list[Operation] | None:
        """The next operations, waited for; none at all when only something late is due; ``None`` at the end."""
        with self._changed:
            while not self._closing and not self._waiting and len(self._queue) < _RIDERS and not self._bulky:
                if self._queue:
                    until = self._flush_at
                elif self._unwritten:
                    until = self._retry_at
                else:
                    self._changed.wait()
                    continue
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            if self._closing and not self._queue:
                if not (self._unwritten and self._last_chance):
                    return None
                self._last_chance = False
            taken: list[Operation] = []
            size = 0
            while self._queue and len(taken) < _BATCH_OPERATIONS and size < _BATCH_BYTES:
                operation = self._queue.popleft()
                size += operation.size
                self._waiting -= operation.finished is not None
                taken.append(operation)
            return taken

    def _write(self, operations: list[Operation]) -> None:
        with self._changed:
            late = self._unwritten
            due = self._closing or time.monotonic() >= self._retry_at
            if due:
                self._unwritten, self._unwritten_bytes = [], 0
        if late and not due:
            self._keep([operation for operation in operations if operation.kept])
            operations = [operation for operation in operations if not operation.kept]
        elif late:
            operations = [*late, *operations]
        error = self._transaction(operations)
        if error is not None and (needs_healing(error)):
            healed = self._heal(self._connection, str(error))
            if healed is not None:
                self._connection = healed
                error = self._transaction(operations)
        if error is not None:
            self._write_apart(operations)

    def _transaction(self, operations: Sequence[Operation]) -> Exception | None:
        """Commits the operations together, or none of them and returns why."""
        if not operations:
            return None
        tally = Tally()
        try:
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            for operation in operations:
                operation.apply(cursor, tally)
            cursor.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # whatever it is, it must cost no other operation
            self._counters.count("journal_write_errors")
            self._roll_back()
            return error
        self.last_error = None
        self._freed -= min(tally.bytes, 0)
        self._counters.count("journal_commits")
        self._committed(tally)
        for operation in operations:
            operation.finish()
        return None

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            logger.debug("otel-langfuse: the journal %s could not roll back: %s", self._place, error)

    def _write_apart(self, operations: Sequence[Operation]) -> None:
        """Writes what can be written of a transaction that failed, keeps or refuses the rest."""
        first, rest = _apart(operations)
        stopped = self._transaction(first)
        if stopped is None:
            first = []
        elif not is_outside(stopped):
            stopped = None
        for operation in [*first, *rest]:
            error = stopped or self._transaction([operation])
            if error is None:
                continue
            if is_outside(error):
                stopped = error
                self._fail(operation, error)
            else:
                logger.error("otel-langfuse: the journal %s cannot write %s: %s", self._place, type(operation).__name__, error)
                self._counters.count("journal_unsettled", int(operation.kept))
                waits_in_vain = operation.grows or not operation.kept
                operation.finish(refusal(self._place, str(error), 0) if waits_in_vain else None)

    def _fail(self, operation: Operation, error: Exception) -> None:
        self.last_error = f"{error}"
        if self._may_log("failing"):
            logger.warning(
                "otel-langfuse: the journal %s cannot be written (%s): new data are refused, accepted data go on. %s",
                self._place,
                error,
                remedy(primary_code(error)),
            )
        if operation.kept:
            self._keep([operation])
        else:
            operation.finish(refusal(self._place, str(error), primary_code(error)))

    def _keep(self, operations: Sequence[Operation]) -> None:
        """Puts operations off; who waits for them goes on."""
        with self._changed:
            self._retry_at = time.monotonic() + _RETRY
            for operation in operations:
                if len(self._unwritten) >= _UNWRITTEN_OPERATIONS and not operation.grows:
                    self._counters.count("journal_unsettled")
                else:
                    self._unwritten.append(operation)
                    self._unwritten_bytes += operation.size
        for operation in operations:
            if not operation.unwritten:
                operation.unwritten = True
                self._counters.count("journal_late_writes")
            operation.finish()

    @property
    def _bulky(self) -> bool:
        """Whether enough was deleted to look for pages that can be given back."""
        return self._freed >= _FREE_BYTES

    def _tidy(self) -> None:
        """Gives free pages back, a few at a time, while nobody waits and they are more than half of the file."""
        if not self._bulky or self._waiting:
            return
        try:
            free, pages, size = (
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("freelist_count", "page_count", "page_size")
            )
            if free * size >= _FREE_BYTES and free * 2 > pages:
                self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            else:
                self._freed = 0
        except sqlite3.Error as error:
            self._freed = 0  # It is tried again when as much was deleted.
            logger.debug("otel-langfuse: the journal %s could not give pages back: %s", self._place, error)


def _apart(operations: Sequence[Operation]) -> tuple[list[Operation], list[Operation]]:
    """What needs no space and waits for nothing that does; and the others, kept ones first."""
    blocked: set[Hashable] = set()
    first: list[Operation] = []
    held: list[Operation] = []
    for operation in operations:
        if not operation.kept:
            continue
        if operation.grows or not blocked.isdisjoint(operation.tokens):
            blocked.update(operation.tokens)
            held.append(operation)
        else:
            first.append(operation)
    return first, held + [operation for operation in operations if not operation.kept]

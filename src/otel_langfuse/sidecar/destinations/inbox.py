"""What waits for the thread of a Langfuse destination: entries, and jobs that come after them. Bounded in bytes of entries."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from otel_langfuse.sidecar.entry import Entry

__all__ = ["Inbox", "Job"]


@dataclass(slots=True, eq=False)
class Job:
    """A call on the destination's thread.

    Attributes:
        call: What is to be done.
        over: Set when it was done, or never will be.
        done: Whether it was done.
    """

    call: Callable[[], None]
    over: threading.Event = field(default_factory=threading.Event)
    done: bool = False

    def run(self) -> None:
        """Does it; an error counts as done, and is the caller's."""
        try:
            self.call()
            self.done = True
        finally:
            self.over.set()


class Inbox:
    """Thread-safe; one thread takes.

    Args:
        limit: Bytes of entries that it has room for.
        clock: Monotonic seconds.
        wait: Waits on a condition.
    """

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float],
        wait: Callable[[threading.Condition, float | None], bool],
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._wait = wait
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self.closed = False

    def has_room(self, size: int) -> bool:
        """Whether an entry of ``size`` bytes fits."""
        return not self.closed and self._bytes + size <= self._limit

    def put(self, entry: Entry) -> bool:
        """Appends an entry; ``False`` when it is closed."""
        with self._changed:
            if self.closed:
                return False
            self._entries.append(entry)
            self._bytes += entry.size
            self._changed.notify_all()
        return True

    def put_back(self, entry: Entry) -> None:
        """Puts an entry that could not be read yet in front again."""
        with self._changed:
            self._entries.appendleft(entry)
            self._bytes += entry.size

    def do(self, call: Callable[[], None]) -> Job:
        """Has a call done after all that waits now."""
        job = Job(call)
        with self._changed:
            if self.closed:
                job.over.set()
            else:
                self._jobs.append(job)
                self._changed.notify_all()
        return job

    def next(self, until: float, *, may_read: Callable[[], bool], idle: Callable[[], bool]) -> Entry | Job | None:
        """The next entry if there ``may_read`` one, else the next job once no entry is left.

        ``None`` when the clock says ``until``, or the inbox was closed. When all is ``idle`` it waits without a limit.
        """
        with self._changed:
            while not self.closed:
                if self._entries and may_read():
                    entry = self._entries.popleft()
                    self._bytes -= entry.size
                    return entry
                if self._jobs and not self._entries:
                    return self._jobs.popleft()
                left = until - self._clock()
                if left <= 0:
                    return None
                self._wait(self._changed, None if not self._entries and idle() else left)
        return None

    def close(self) -> list[Entry]:
        """Takes nothing more, gives up all jobs, and returns the entries that are left."""
        with self._changed:
            self.closed = True
            entries, self._entries = list(self._entries), deque()
            jobs, self._jobs = self._jobs, deque()
            self._bytes = 0
            self._changed.notify_all()
        for job in jobs:
            job.over.set()
        return entries

    @property
    def empty(self) -> bool:
        """Whether no entry waits."""
        return not self._entries

    def status(self) -> tuple[int, int, float | None]:
        """Bytes and number of entries, and when the oldest was received."""
        with self._changed:
            return self._bytes, len(self._entries), self._entries[0].received_at if self._entries else None

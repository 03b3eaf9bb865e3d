"""Entries on their way from the application's threads to the worker, bounded in bytes.

An entry is a tuple, because nothing else is made as fast. Its first item, its kind, is one object for all entries of the
kind and knows what to do with the rest.

To weigh a span takes longer than to queue it, so it is done only where many wait. The worker does it, between two handfuls
that it takes: when half as many wait as may go without, it weighs them all. An application's thread weighs what it brings
only where the worker does not keep up with that. So the bound holds for all but the newest entries, of which there are
1,024 at the most, and one for each 256 KiB of the bound at the most: they can double it only if they are larger than that on
average.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

from otel_langfuse.counters import Counters

if TYPE_CHECKING:
    from otel_langfuse.model import SpanView
    from otel_langfuse.pipeline import Pipeline

__all__ = ["UNWEIGHED", "Entry", "Kind", "Queue", "Views"]

UNWEIGHED = 1024
"""Entries that may be in the inbox without being weighed; fewer where the bound is low."""

_UNWEIGHED_BYTES = 256 * 1024
_HAND_BYTES = 4 * 1024 * 1024
_FULL_REMEDY = "Raise OTEL_LANGFUSE_QUEUE_BYTES, or find out why Langfuse takes spans so slowly (see the last error)."

Entry = tuple[Any, ...]
Views: TypeAlias = "dict[tuple[int, int], SpanView]"
"""Of ended spans, by trace id and span id as the SDK has them."""

_T = TypeVar("_T")


class Kind(Protocol):
    """What all entries of a kind have in common. All of it usually runs on the worker's thread.

    Attributes:
        spans: How many spans are lost with what was prepared and is not handled.
    """

    spans: ClassVar[int]

    def weigh(self, entry: Entry) -> int:
        """Estimate of the bytes that the entry holds."""

    def prepare(self, entry: Entry, ended: Views) -> Any:
        """Does what can be done without the pipeline, and notes the views of ended spans.

        Returns what `handle` needs; ``None`` if nothing is to be handled.
        """

    def handle(self, prepared: Any, pipeline: Pipeline) -> None:
        """Does what the entry is for."""

    def lose(self, entry: Entry) -> int:
        """Lets go of an entry that is not handled; how many spans are lost with it."""


class _Job:
    """A call on the worker's thread: ``(kind, call)``."""

    __slots__ = ()
    spans: ClassVar[int] = 0

    def lose(self, _: Entry) -> int:
        """No span."""
        return 0

    def prepare(self, entry: Entry, _: object) -> Any:
        """The call."""
        return entry[1]

    def handle(self, call: Callable[[Pipeline], None], pipeline: Pipeline) -> None:
        """Calls it."""
        call(pipeline)


class _Weighed:
    """An entry whose bytes are counted already: ``(kind, entry, size)``."""

    __slots__ = ()

    def lose(self, entry: Entry) -> int:
        """As the entry inside."""
        inner: Entry = entry[1]
        return int(inner[0].lose(inner))


_JOB, _WEIGHED = _Job(), _Weighed()


class Queue:
    """Thread-safe for those who add; one thread takes.

    Args:
        limit: Bytes from which on the newest entry is dropped.
        counters: Where lost spans are counted.

    Attributes:
        inbox: Entries that are not weighed. Whoever finds it shorter than ``calm`` may append to it, which is atomic.
        calm: 0 until `open` is called, and after `close`.
    """

    def __init__(self, limit: int, counters: Counters) -> None:
        self._limit = limit
        self._counters = counters
        self._unweighed = min(UNWEIGHED, limit // _UNWEIGHED_BYTES)
        self._few = self._unweighed // 2
        self._closed = False
        self.inbox: deque[Entry] = deque()
        self.clear()

    def clear(self) -> None:
        """Forgets everything, as after a fork: what the parent had queued is the parent's, and so are its locks."""
        self.inbox.clear()
        self._weighed: deque[tuple[Entry, int]] = deque()
        self._lock = threading.Lock()
        self.bytes = 0
        self.calm = 0

    def open(self, limit: int) -> None:
        """Lets entries go into the inbox the short way while it holds fewer than ``limit``, unless `close` was called."""
        with self._lock:
            if not self._closed:
                self.calm = min(limit, self._unweighed)

    def close(self) -> None:
        """Lets no more entries go into the inbox the short way, ever."""
        with self._lock:
            self._closed = True
            self.calm = 0

    def __len__(self) -> int:
        return len(self.inbox) + len(self._weighed)

    def add(self, entry: Entry) -> None:
        """Appends an entry; weighs it if too many are not."""
        if len(self.inbox) < self._unweighed:
            self.inbox.append(entry)
        else:
            self._add(entry, entry[0].weigh(entry))

    def add_job(self, job: Callable[[Pipeline], None], size: int) -> None:
        """Appends a call that holds ``size`` bytes; without any it always fits."""
        self._add((_JOB, job), size)

    def _add(self, entry: Entry, size: int) -> None:
        if self._fits(size):
            self.inbox.append((_WEIGHED, entry, size))
        else:
            self._counters.drop("queue_full", entry[0].lose(entry), _FULL_REMEDY)

    def _fits(self, size: int) -> bool:
        """Counts the bytes of an entry if there is room."""
        with self._lock:
            if size and self.bytes > self._limit:
                return False
            self.bytes += size
            return True

    def take(self, most: int, failed: Callable[[BaseException], None]) -> list[Entry]:
        """The oldest entries, ``most`` of them or 4 MiB as far as that is known. Weighs what has come, if that is much."""
        if len(self.inbox) > self._few:
            self._weigh(failed)
        taken: list[Entry] = []
        total = 0
        ready = bool(self._weighed)  # only `_weigh` adds to them
        next_one = self.inbox.popleft
        try:
            for _ in range(most):
                if ready:
                    entry, size = self._weighed.popleft()
                    ready = bool(self._weighed)
                elif (entry := next_one())[0] is _WEIGHED:
                    _, entry, size = entry
                else:
                    taken.append(entry)
                    continue
                taken.append(entry)
                total += size
                if total >= _HAND_BYTES:
                    break
        except IndexError:
            pass  # that was all
        if total:
            with self._lock:
                self.bytes -= total
        return taken

    def _weigh(self, failed: Callable[[BaseException], None]) -> None:
        """Takes over what has come, as far as there is room for it; an entry that cannot be weighed is lost."""
        inbox = self.inbox
        for _ in range(len(inbox)):
            try:
                entry = inbox.popleft()
            except IndexError:
                return  # somebody has emptied it
            kind = entry[0]
            if kind is _WEIGHED:
                self._weighed.append(entry[1:])
                continue
            try:
                size = kind.weigh(entry)
            except BaseException as error:  # noqa: BLE001  # one bad span must not stop the others
                failed(error)
                continue
            if self._fits(size):
                self._weighed.append((entry, size))
            else:
                self._counters.drop("queue_full", entry[0].lose(entry), _FULL_REMEDY)

    def discard(self) -> int:
        """Empties the queue; how many spans were in it."""
        weighed: int = sum(entry[0].lose(entry) for entry, _ in _emptied(self._weighed))
        unweighed: int = sum(entry[0].lose(entry) for entry in _emptied(self.inbox))
        return weighed + unweighed


def _emptied(entries: deque[_T]) -> Iterator[_T]:
    while True:
        try:
            yield entries.popleft()
        except IndexError:
            return

"""The thread that brings large media to Langfuse, and the spans that wait for it.

Rules:

- A span with large media waits until they are stored; it then goes on with Langfuse's reference tokens in their place.
  Other spans pass it by.
- A span is never lost because of its media. Without upload, when it fails, when the queue is full and when time is up,
  notes take the media's place and the span goes on.
- ``submit`` does no I/O and waits for nothing but a short lock. The queue is bounded in bytes, what is in work included.
- One daemon thread uploads, started by the first span that needs it. After a fork the child starts with an empty queue:
  the parent's spans are the parent's.
- What was stored once is not sent again. Each further observation is tied to it by a small request of its own, because
  Langfuse deletes media with the last trace that they are tied to; if that fails, the token is good all the same.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.langfuse.copy import Draft
from otel_langfuse.langfuse.media import Media
from otel_langfuse.langfuse.media_api import MediaApi, MediaError, Owner, Stored
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.settings import Settings

__all__ = ["Deliver", "Lost", "MediaStore", "MediaUploader"]

logger = logging.getLogger(__name__)

Deliver = Callable[[EncodedSpan], None]
Lost = Callable[[Draft], None]

_QUEUE_BYTES = 64 * 1024 * 1024
_REMEMBERED = 10_000
_JOIN_TIMEOUT = 1.0
_LEAST_TIMEOUT = 0.05
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log lines around this one."


class MediaStore(Protocol):
    """Where media go; `MediaApi` is one."""

    def store(self, media: Media, owner: Owner, timeout: Callable[[], float]) -> Stored:
        """Brings ``media`` there, unless it has them, and ties them to their owner.

        Raises:
            MediaError: They are not there.
        """

    def close(self) -> None:
        """Closes idle connections."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A span whose media are not stored yet; who sets ``settled`` delivers it."""

    draft: Draft
    deliver: Deliver
    size: int
    settled: bool = False


class MediaUploader:
    """Has media stored and puts tokens or notes in their place.

    Args:
        store: Takes the media; ``None``: nothing is uploaded, every span gets notes at once.
        counters: Takes ``media_uploaded``, ``media_deduplicated`` (Langfuse had them), ``media_noted`` (a note stands
            for them), ``media_failed`` (of those, the ones that Langfuse or its storage did not take) and
            ``media_masked`` (a mask removed them): media of a span, once per field.
        timeout: Seconds for one request.
        queue_bytes: Bound of the queue.
        clock: Monotonic seconds.
        lost: Told of a span that could not be encoded, after it was counted.
    """

    _thread: threading.Thread | None
    _queue: deque[_Waiting]
    _current: _Waiting | None
    _known: OrderedDict[tuple[bytes, str], str]
    _bytes: int
    _submitted: int
    _finished: int

    def __init__(
        self,
        store: MediaStore | None,
        *,
        counters: Counters,
        timeout: float = 5.0,
        queue_bytes: int = _QUEUE_BYTES,
        clock: Callable[[], float] = time.monotonic,
        lost: Lost | None = None,
    ) -> None:
        self._lost = lost
        self._store = store
        self._counters = counters
        self._timeout = timeout
        self._limit = queue_bytes
        self._clock = clock
        self._closed = False
        self._start_empty()
        if store is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forked(weakref.WeakMethod(self._start_empty)))

    @classmethod
    def of(cls, settings: Settings, counters: Counters, lost: Lost | None = None) -> MediaUploader:
        """The uploader to the Langfuse project that the settings name."""
        store = None
        if settings.media_upload and settings.configured:
            store = MediaApi(
                settings.base_url,
                public_key=settings.public_key or "",
                secret_key=settings.secret_key or "",
                ca_file=settings.ca_file,
                headers=settings.headers,
            )
        return cls(store, counters=counters, timeout=settings.timeout, lost=lost)

    def submit(self, draft: Draft, deliver: Deliver) -> None:
        """Takes a span; ``deliver`` gets it once its media are stored or given up.

        ``deliver`` runs in the uploader's thread, or here when nothing is to be waited for.
        """
        self._check_process()
        self._counters.count("media_masked", draft.masked_media)
        if self._store is not None and draft.media:
            waiting = _Waiting(draft, deliver, draft.size)
            with self._changed:
                if not self._closed and self._bytes + waiting.size <= self._limit:
                    self._bytes += waiting.size
                    self._queue.append(waiting)
                    self._submitted += 1
                    self._start_thread()
                    self._changed.notify_all()
                    return
        deliver(self._encoded(draft, {}))

    def force_flush(self, timeout: float) -> bool:
        """Whether everything submitted before has been delivered within ``timeout`` seconds."""
        self._check_process()
        deadline = self._clock() + timeout
        with self._changed:
            last = self._submitted
            return self._wait_until(lambda: self._finished >= last, deadline)

    def shutdown(self, timeout: float) -> bool:
        """Waits ``timeout`` seconds for what was submitted, then delivers the rest with notes; idempotent.

        Returns:
            Whether all uploads came to their end in time.
        """
        self._check_process()
        with self._changed:
            first, self._closed = not self._closed, True
            if first:
                self._deadline = self._clock() + timeout
            self._changed.notify_all()
            thread = self._thread
        if thread is None and first:
            self._run()  # no thread could be started: the interpreter is going down
        with self._changed:
            in_time = self._wait_until(lambda: self._finished >= self._submitted, self._deadline)
            self._stopped.set()
            left = [*([self._current] if self._current is not None else []), *self._queue]
            self._queue.clear()
        for waiting in left:
            self._settle(waiting, {})
        with self._changed:
            # The thread may be about to hand over a span that it has settled.
            self._wait_until(lambda: self._finished >= self._submitted, self._clock() + _JOIN_TIMEOUT)
        if thread is not None and in_time and thread is not threading.current_thread():
            thread.join(_JOIN_TIMEOUT)
        return in_time

    @property
    def queue_bytes(self) -> int:
        """Bytes that wait or are in work."""
        return self._bytes

    def _wait_until(self, done: Callable[[], bool], deadline: float) -> bool:
        while not done():
            left = deadline - self._clock()
            if left <= 0:
                return False
            self._changed.wait(left)
        return True

    # ------------------------------------------------------------------------------------------ the thread

    def _start_thread(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="otel-langfuse-media", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the interpreter is going down; ``shutdown`` uploads in its own thread then
        self._thread = thread

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            draft = waiting.draft
            owner = Owner(draft.trace_id.hex(), draft.span_id.hex())
            shown: dict[Media, str] = {}
            for media in draft.media:
                token = None if self._stopped.is_set() else self._token(media, owner)
                if token is not None:
                    shown[media] = token
            self._settle(waiting, shown)
        if self._store is not None:
            self._store.close()

    def _next(self) -> _Waiting | None:
        with self._changed:
            self._current = None
            while not self._stopped.is_set() and self._clock() < self._deadline:
                if self._queue:
                    self._current = self._queue.popleft()
                    return self._current
                if self._closed:
                    return None
                self._changed.wait()
            return None

    def _token(self, media: Media, owner: Owner) -> str | None:
        """The reference token, or ``None`` when Langfuse does not have the media."""
        assert self._store is not None
        key = (media.sha256, media.mime)
        known = self._known.get(key)
        try:
            stored = self._store.store(media, owner, self._next_timeout)
        except MediaError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  # the span must go on, whatever happens to its media
            reason = f"{type(error).__name__}. {_BUG_REMEDY}"
        else:
            self._known[key] = stored.media_id
            self._known.move_to_end(key)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            self._counters.count("media_uploaded" if stored.sent else "media_deduplicated")
            return media.token_for(stored.media_id)
        if self._stopped.is_set() or self._clock() >= self._deadline:
            return None  # time is up: the span goes on with notes, here or in ``shutdown``
        if known is not None:
            self._counters.count("media_deduplicated")
            return media.token_for(known)
        self._counters.count("media_failed")
        if self._may_log("failed"):
            logger.warning(
                "otel-langfuse could not upload media (%s, %d bytes); a note stands in the span instead: %s",
                media.mime,
                len(media.data),
                reason,
            )
        return None

    def _next_timeout(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0 or self._stopped.is_set():
            raise MediaError("no time is left")
        return max(min(self._timeout, left), _LEAST_TIMEOUT)

    def _settle(self, waiting: _Waiting, shown: dict[Media, str]) -> None:
        with self._changed:
            if waiting.settled:
                return  # shutdown has sent it on
            waiting.settled = True
        try:
            waiting.deliver(self._encoded(waiting.draft, shown))
        except Exception as error:  # noqa: BLE001  # one bad span must not stop the others
            if self._may_log("encoding"):
                # The message of an error may quote content; its type cannot.
                logger.warning("otel-langfuse: %s while encoding a span with media", type(error).__name__)
            self._counters.drop("encoding_failed", 1, _BUG_REMEDY)
            if self._lost is not None:
                self._lost(waiting.draft)
        with self._changed:
            self._bytes -= waiting.size
            self._finished += 1
            self._changed.notify_all()

    def _encoded(self, draft: Draft, shown: dict[Media, str]) -> EncodedSpan:
        self._counters.count("media_noted", len(draft.media) - len(shown))
        return draft.encode(shown)

    # ---------------------------------------------------------------------------------------------- fork

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            self._start_empty()

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._queue = deque()
        self._current = None
        self._thread = None
        self._bytes = self._submitted = self._finished = 0
        self._deadline = float("inf")
        self._known = OrderedDict()
        self._may_log = OncePerInterval(60.0)


def _forked(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Calls ``method`` if its object is still there."""

    def call() -> None:
        target = method()
        if target is not None:
            target()

    return call

"""One queue, one worker, one delivery: everything in process runs through an engine.

Rules:

- The application's thread appends to a queue and returns. It never waits, encodes, or does I/O.
- The queue is bounded in bytes; when it is full the newest span is dropped and counted.
- One daemon thread maps, started by the first span; delivery has a thread of its own, and so has the upload of media.
- The engine drains by itself at interpreter exit and at the end of a multiprocessing child. After a fork the child
  starts with an empty queue and a fresh worker: the parent's spans are the parent's.
- An error while mapping one span costs that span, and is counted; it never reaches the application.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.outlet import Mask, delivery_of, masker_of, media_of
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.settings import Settings

__all__ = ["MEDIA_SHARE", "Engine", "Mask", "Masks", "forked", "settings_with"]

logger = logging.getLogger(__name__)

Masks = Mask | str | Sequence[str]
Job = Callable[[Pipeline], None]

MEDIA_SHARE = 0.6
"""Of the time for shutdown, what uploads may take; the rest is for delivering the spans that waited for them."""

_MAPPING_SHARE = 0.8  # of the time for shutdown
_BATCH = 64  # rows handed to delivery at a time
_WAKE_AT = 512  # queued jobs that wake the worker before its interval is over
_WAKE_BYTES = 4 * 1024 * 1024
_FULL_REMEDY = "Raise OTEL_LANGFUSE_QUEUE_BYTES, or find out why Langfuse takes spans so slowly (see the last error)."
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log line before this one."


def settings_with(masks: Masks | None, overrides: Mapping[str, object]) -> tuple[Settings, Mask | None]:
    """Settings from environment and keywords, and the user's callable; names of built-in masks are a setting."""
    given = cast("dict[str, Any]", dict(overrides))
    if masks is None or callable(masks):
        return Settings.resolve(None, **given), masks
    return Settings.resolve(None, mask=masks, **given), None


class Engine:
    """Takes spans and content from any thread, maps them on its own, delivers them.

    Args:
        settings: Must be configured (keys present).
        mask: The user's masking callable.
        should_export: The user's filter.
        transport: Replaces HTTP, for tests.
    """

    _thread: threading.Thread | None
    _queue: deque[tuple[Job, int, int]]
    _rows: list[EncodedSpan]
    _stop: bool

    def __init__(
        self,
        settings: Settings,
        *,
        mask: Mask | None = None,
        should_export: Callable[[SpanView], bool | None] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.settings = settings
        self.counters = Counters()
        self._should_export = should_export
        self._copy = LangfuseCopy(masker_of(settings, mask, self.counters), inline_bytes=settings.media_inline_bytes)
        self._delivery = delivery_of(settings, self.counters, transport)
        self._media = media_of(settings, self.counters, transport)
        self._interval = min(settings.flush_interval, 1.0)
        self._may_log = OncePerInterval(60.0)
        self._closed = False
        self._outcome: bool | None = None
        self._start_empty()
        atexit.register(_at_exit, weakref.WeakMethod(self.shutdown))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forked(weakref.WeakMethod(self._after_fork_in_child)))

    # ---------------------------------------------------------------------------- application's threads

    def submit(self, job: Job, size: int, *, spans: int = 0) -> None:
        """Queues a job for the worker.

        Args:
            job: Called with the pipeline, on the worker's thread.
            size: Estimate of the bytes that the job holds.
            spans: How many spans are lost if the job is.
        """
        if self._closed:
            self.counters.drop("shutdown", spans)
            return
        if self._bytes > self.settings.queue_bytes:
            self.counters.drop("queue_full", spans, _FULL_REMEDY)
            return
        with self._size_lock:
            self._bytes += size
        queue = self._queue
        queue.append((job, size, spans))
        if self._thread is None:
            self._start_worker()
        elif (len(queue) >= _WAKE_AT or self._bytes >= _WAKE_BYTES) and not self._wake.is_set():
            self._wake.set()

    def force_flush(self, timeout: float) -> bool:
        """Whether everything submitted before is delivered or dropped within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        return (
            self._drain(timeout, lambda pipeline: pipeline.flush())
            and self._media.force_flush(max(deadline - time.monotonic(), 0.0))
            and self._delivery.force_flush(max(deadline - time.monotonic(), 0.0))
        )

    def shutdown(self, timeout: float | None = None) -> bool:
        """Takes nothing more, delivers what is left within ``timeout`` seconds and drops the rest; idempotent."""
        with self._shutdown_lock:
            if self._outcome is None:
                patience = self.settings.shutdown_timeout if timeout is None else timeout
                deadline = time.monotonic() + patience
                self._closed = True
                # Some time is left to deliver what was mapped, if mapping alone would take it all.
                in_time = self._drain(patience * _MAPPING_SHARE, lambda pipeline: pipeline.close())
                self._stop = True
                self._wake.set()
                self.counters.drop("shutdown", self._discard())
                self._media.shutdown(max(deadline - time.monotonic(), 0.0) * MEDIA_SHARE)
                self._outcome = self._delivery.shutdown(max(deadline - time.monotonic(), 0.0)) and in_time
            return self._outcome

    @property
    def closed(self) -> bool:
        """Whether the engine has been shut down."""
        return self._closed

    def status(self) -> dict[str, Any]:
        """Counters, queue and last error; no content, no keys."""
        delivered = self._delivery.status()
        return {
            "counters": dict(self.counters.counts),
            "dropped": dict(self.counters.drops),
            "queue_bytes": self._bytes + self._media.queue_bytes + delivered["queue_bytes"],
            "last_error": delivered["last_error"],
            "last_success_at": delivered["last_success_at"],
        }

    # --------------------------------------------------------------------------------------- the worker

    def _drain(self, timeout: float, last: Job) -> bool:
        """Whether the worker has done all jobs queued so far, and ``last``, within ``timeout`` seconds."""
        if self._thread is None and not self._queue:
            return True
        done = threading.Event()

        def marker(pipeline: Pipeline) -> None:
            try:
                last(pipeline)
                self._hand_over()
            finally:
                done.set()

        self._queue.append((marker, 0, 0))
        if self._thread is None:
            self._start_worker()
        if self._thread is None or not self._thread.is_alive() or self._thread is threading.current_thread():
            self._work_off()  # no thread can be had any more: the interpreter is going down
            return True
        self._wake.set()
        return done.wait(timeout)

    def _start_worker(self) -> None:
        with self._size_lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="otel-langfuse", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # interpreter shutdown: shutdown() works the queue off itself
            self._thread = thread
        _finalize_with_multiprocessing(self)

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self._interval)
            self._wake.clear()
            self._work_off()
            self._tick()

    def _work_off(self) -> None:
        queue = self._queue
        due = time.monotonic() + self._interval
        while queue and not self._stop:
            try:
                job, size, _ = queue.popleft()
            except IndexError:
                break
            if size:
                with self._size_lock:
                    self._bytes -= size
            try:
                job(self._pipeline)
            except BaseException as error:  # noqa: BLE001  # one bad span must not stop the others
                self._failed("mapping_failed", error)
            if len(self._rows) >= _BATCH:
                self._hand_over()
            if time.monotonic() >= due:
                # Spans may come faster than they are mapped for long; waits and memory are bounded all the same.
                self._tick()
                due = time.monotonic() + self._interval
        self._hand_over()

    def _discard(self) -> int:
        """Empties the queue; how many spans were in it."""
        spans = 0
        while True:
            try:
                spans += self._queue.popleft()[2]
            except IndexError:
                return spans

    def _tick(self) -> None:
        try:
            self._pipeline.tick()
        except BaseException as error:  # noqa: BLE001  # upkeep must not end the worker
            self._failed("mapping_failed", error)
        self._hand_over()

    def _take(self, row: Row) -> None:
        try:
            draft = self._copy.draft(row)
            if draft.media or draft.masked_media:
                self._media.submit(draft, self._deliver)
            else:
                self._rows.append(draft.encode())
        except BaseException as error:  # noqa: BLE001  # one bad row must not take its trace with it
            self._failed("encoding_failed", error)

    def _deliver(self, span: EncodedSpan) -> None:
        self._delivery.offer([span])

    def _hand_over(self) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            self._delivery.offer(rows)

    def _failed(self, reason: str, error: BaseException) -> None:
        if self._may_log(reason):
            # The message of an error may quote content; its type and place cannot.
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"  # noqa: PTH119
            logger.warning("otel-langfuse: %s at %s while handling a span", type(error).__name__, where)
        self.counters.drop(reason, 1, _BUG_REMEDY)

    # ---------------------------------------------------------------------------------------------- fork

    def _start_empty(self) -> None:
        self._queue = deque()
        self._bytes = 0
        self._size_lock = threading.Lock()
        self._shutdown_lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None
        self._stop = False
        self._rows = []
        self._pipeline = Pipeline(
            self._take, Options.of(self.settings), counters=self.counters, should_export=self._should_export
        )

    def _after_fork_in_child(self) -> None:
        self.counters.reset_after_fork()
        self._may_log = OncePerInterval(60.0)
        self._start_empty()


def forked(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """For `os.register_at_fork`: calls ``method`` if its object is still there."""

    def call() -> None:
        reset = method()
        if reset is not None:
            reset()

    return call


def _at_exit(method: weakref.WeakMethod[Callable[[], bool]]) -> None:
    shutdown = method()
    if shutdown is not None:
        shutdown()


def _finalize_with_multiprocessing(engine: Engine) -> None:
    """Drains at the end of a multiprocessing child, which skips ``atexit``."""
    module = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if module is not None and process is not None and process.parent_process() is not None:
        module.Finalize(None, _at_exit, args=(weakref.WeakMethod(engine.shutdown),), exitpriority=10)

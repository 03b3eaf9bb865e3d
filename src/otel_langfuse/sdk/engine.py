"""One queue, one worker, one delivery: everything in process runs through an engine.

Rules:

- The application's thread appends to a queue and returns. It never waits, encodes, or does I/O.
- The queue is bounded in bytes; when it is full the newest span is dropped and counted.
- What maps and delivers is imported when the first engine is made: importing the package costs little.
- One daemon thread maps (`sdk/worker.py`), started by the first span; delivery has a thread of its own, and so has the
  upload of media.
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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.errors import place_of
from otel_langfuse.sdk.queue import UNWEIGHED, Entry, Queue
from otel_langfuse.sdk.worker import Worker
from otel_langfuse.settings import Settings

if TYPE_CHECKING:
    from otel_langfuse.langfuse.outlet import Mask
    from otel_langfuse.langfuse.transport import Transport
    from otel_langfuse.model import SpanView
    from otel_langfuse.pipeline import Pipeline, Row
    from otel_langfuse.sdk.fanout import Fanout

__all__ = ["MEDIA_SHARE", "Engine", "Masks", "forked", "settings_with"]

logger = logging.getLogger(__name__)

Masks: TypeAlias = "Mask | str | Sequence[str]"
Job: TypeAlias = "Callable[[Pipeline], None]"

MEDIA_SHARE = 0.6
"""Of the time for shutdown, what uploads may take; the rest is for delivering the spans that waited for them."""

_MAPPING_SHARE = 0.8  # of the time for shutdown
_WAKE_AT = 256  # new entries that wake the worker before its interval is over
_CALM_SHARE = 1 / 8  # of the bound: with more in the queue the worker does not nap
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
        settings: If they are not configured (no keys), nothing but `fanout` may be used.
        mask: The user's masking callable.
        should_export: The user's filter.
        transport: Replaces HTTP, for tests.

    Attributes:
        queue: Its ``inbox`` may be appended to while it is shorter than its ``calm``; else `offer` takes an entry.
        fanout: The copy for an OTLP endpoint, if the settings ask for one.
    """

    _thread: threading.Thread | None
    _start_lock: threading.Lock
    _shutdown_lock: threading.Lock
    _wake: threading.Event
    _worker: Worker

    def __init__(
        self,
        settings: Settings,
        *,
        mask: Mask | None = None,
        should_export: Callable[[SpanView], bool | None] | None = None,
        transport: Transport | None = None,
    ) -> None:
        from otel_langfuse.langfuse.copy import LangfuseCopy
        from otel_langfuse.langfuse.outlet import delivery_of, finish, masker_of, media_of

        self._finish = finish
        self.settings = settings
        self.counters = Counters()
        self.queue = Queue(settings.queue_bytes, self.counters)
        self._should_export = should_export
        self._copy = LangfuseCopy(masker_of(settings, mask, self.counters), inline_bytes=settings.media_inline_bytes)
        self._delivery = delivery_of(settings, self.counters, transport)
        self._media = media_of(settings, self.counters, transport)
        self.fanout: Fanout | None = None
        if settings.fanout == "otlp":
            from otel_langfuse.sdk.fanout import fanout_of

            self.fanout = fanout_of(settings)
        self._interval = min(settings.flush_interval, 1.0)
        self._may_log = OncePerInterval(60.0)
        self._closed = False
        self._outcome: bool | None = None
        self._start_empty()
        atexit.register(_at_exit, weakref.WeakMethod(self.shutdown))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forked(weakref.WeakMethod(self._after_fork_in_child)))

    # ---------------------------------------------------------------------------- application's threads

    def submit(self, job: Job, size: int) -> None:
        """Queues a job for the worker.

        Args:
            job: Called with the pipeline, on the worker's thread.
            size: Estimate of the bytes that the job holds.
        """
        if self._closed:
            return
        self.queue.add_job(job, size)
        self._attend()

    def offer(self, entry: Entry) -> None:
        """Queues an entry, with all that the short way, an append to the inbox, leaves out."""
        if self._closed:
            self.counters.drop("shutdown", entry[0].lose(entry))
            return
        self.queue.add(entry)
        self._attend()

    def _attend(self) -> None:
        if self._thread is None:
            self._start_worker()
        elif len(self.queue.inbox) >= _WAKE_AT and not self._wake.is_set():
            self.queue.open(UNWEIGHED)  # it knows now, even if it cannot run at once
            self._wake.set()

    def force_flush(self, timeout: float) -> bool:
        """Whether everything submitted before is delivered or dropped within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        if not self._drain(timeout, lambda pipeline: pipeline.flush()):
            return False
        if self.fanout is not None:
            self.fanout.hasten()  # side by side: neither destination waits for the other
        flushed = self._media.force_flush(max(deadline - time.monotonic(), 0.0)) and self._delivery.force_flush(
            max(deadline - time.monotonic(), 0.0)
        )
        return (self.fanout is None or self.fanout.force_flush(max(deadline - time.monotonic(), 0.0))) and flushed

    def shutdown(self, timeout: float | None = None) -> bool:
        """Takes nothing more, delivers what is left within ``timeout`` seconds and drops the rest; idempotent."""
        with self._shutdown_lock:
            if self._outcome is None:
                patience = self.settings.shutdown_timeout if timeout is None else timeout
                deadline = time.monotonic() + patience
                self._closed = True
                self.queue.close()
                if self.fanout is not None:
                    self.fanout.end()
                # Some time is left to deliver what was mapped, if mapping alone would take it all.
                in_time = self._drain(patience * _MAPPING_SHARE, lambda pipeline: pipeline.close())
                self._worker.stop = True
                self._wake.set()
                self.counters.drop("shutdown", self._worker.discard())
                if self.fanout is not None:
                    self.fanout.close(max(deadline - time.monotonic(), 0.0))  # side by side with the other copy
                self._media.shutdown(max(deadline - time.monotonic(), 0.0) * MEDIA_SHARE)
                self._outcome = self._delivery.shutdown(max(deadline - time.monotonic(), 0.0)) and in_time
                if self.fanout is not None:
                    self._outcome = self.fanout.shutdown(max(deadline - time.monotonic(), 0.0)) and self._outcome
            return self._outcome

    @property
    def closed(self) -> bool:
        """Whether the engine has been shut down."""
        return self._closed

    def status(self) -> dict[str, Any]:
        """Counters, queue and last error; no content, no keys."""
        delivered = self._delivery.status()
        other = {"fanout": self.fanout.status()} if self.fanout is not None else {}
        return other | {
            "counters": dict(self.counters.counts),
            "dropped": dict(self.counters.drops),
            "queue_bytes": self.queue.bytes + self._media.queue_bytes + delivered["queue_bytes"],
            "last_error": delivered["last_error"],
            "last_success_at": delivered["last_success_at"],
        }

    # -------------------------------------------------------------------------------- the worker's thread

    def _drain(self, timeout: float, last: Job) -> bool:
        """Whether the worker has done all jobs queued so far, and ``last``, within ``timeout`` seconds."""
        if self._thread is None and not self.queue:
            return True
        done = threading.Event()

        def marker(pipeline: Pipeline) -> None:
            try:
                last(pipeline)
                self._worker.hand_over()
            finally:
                done.set()

        self._worker.awaited.add(done)
        self.queue.add_job(marker, 0)
        if self._thread is None:
            self._start_worker()
        if self._thread is None or not self._thread.is_alive() or self._thread is threading.current_thread():
            self._worker.work_off()  # no thread can be had any more: the interpreter is going down
            self._worker.awaited.discard(done)
            return True
        self._wake.set()
        in_time = done.wait(timeout)
        self._worker.awaited.discard(done)
        return in_time

    def _start_worker(self) -> None:
        with self._start_lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="otel-langfuse", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # interpreter shutdown: shutdown() works the queue off itself
            self._thread = thread
            self.queue.open(_WAKE_AT)
        _finalize_with_multiprocessing(self)

    def _run(self) -> None:
        worker = self._worker
        while not worker.stop:
            self._wake.wait(self._interval)
            self._wake.clear()
            self.queue.open(UNWEIGHED)
            worker.work_off()
            self.queue.open(_WAKE_AT)
            worker.tick()

    def _hand_over(self, rows: list[Row]) -> None:
        """Encodes rows and gives them to delivery, and the other copy to its own."""
        if rows:
            self._finish(rows, self._copy, self._media, self._delivery, self._not_encoded)
        if self.fanout is not None:
            self.fanout.hand_over()

    def _not_encoded(self, _: Row, error: BaseException) -> None:
        self._failed("encoding_failed", error)

    def _mapping_failed(self, error: BaseException) -> None:
        self._failed("mapping_failed", error)

    def _failed(self, reason: str, error: BaseException) -> None:
        if self._may_log(reason):
            logger.warning("otel-langfuse: %s at %s while handling a span", type(error).__name__, place_of(error))
        self.counters.drop(reason, 1, _BUG_REMEDY)

    # ---------------------------------------------------------------------------------------------- fork

    def _start_empty(self) -> None:
        from otel_langfuse.pipeline import Options, Pipeline

        self.queue.clear()
        self._start_lock = threading.Lock()
        self._shutdown_lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None
        self._copy.start_empty()
        if self.fanout is not None:
            self.fanout.start_empty()
        options = Options.of(self.settings)
        self._worker = Worker(
            self.queue,
            lambda sink: Pipeline(sink, options, counters=self.counters, should_export=self._should_export),
            self._hand_over,
            self._mapping_failed,
            interval=self._interval,
            calm_bytes=int(self.settings.queue_bytes * _CALM_SHARE),
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

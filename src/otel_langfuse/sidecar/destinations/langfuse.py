"""One Langfuse project: entries in, through the trace window and the pipeline, delivered as encoded requests.

Rules:

- One thread owns window and pipeline. It takes entries as long as delivery has room, so that what waits for a slow
  Langfuse waits in the journal and not in memory.
- Spans are decoded once, here. A span that routing gives to another project is not seen by this one's pipeline.
- An entry is settled when each of its spans is part of a journaled request, left out, or dropped and counted. After a
  crash the entries that were not are read again; spans that stand in a request already only give their context. What was
  promised is journaled too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import otel_langfuse.langfuse.connections  # noqa: F401  # loaded now, while there are files to be had
from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.errors import PayloadError, place_of
from otel_langfuse.langfuse.copy import Draft, LangfuseCopy
from otel_langfuse.langfuse.outlet import delivery_of, finish, masker_of, media_of
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.window import Window
from otel_langfuse.settings import Settings
from otel_langfuse.sidecar.config.plan import LangfuseEnd
from otel_langfuse.sidecar.destinations.claims import Claims
from otel_langfuse.sidecar.destinations.inbox import Inbox
from otel_langfuse.sidecar.destinations.keeper import Keeper
from otel_langfuse.sidecar.destinations.routing import Route
from otel_langfuse.sidecar.entry import EncodedRequest, Entry, Journal, RefusedError, Signal, SpanKey
from otel_langfuse.views.otlp import parse_logs, parse_traces

__all__ = ["LangfuseDestination"]

logger = logging.getLogger(__name__)

_TICK = 0.1  # seconds between looks at the window while something waits in it
_UNSENT_BYTES = 64 << 20  # encoded bytes that wait for delivery before no further entry is read
_BATCH = 32  # rows encoded, and handed to delivery, at a time
_MEDIA_SHARE = 0.3  # of the time for shutdown
_MAPPING_SHARE = 0.6
_RECORDS_PATIENCE = 60.0  # seconds that log records are kept for spans that are still to come
_MAX_OPEN = 3600.0  # seconds that a trace is remembered whose promised parent does not come
_MAX_IDS = 100_000  # spans of forgotten traces that are remembered by their ids
_SPAN_BYTES = 2048
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log line before this one."
_SHUTDOWN_REMEDY = "They waited for Langfuse when the sidecar had to stop; a journal (journal.directory) would have kept them."


class LangfuseDestination:
    """Delivers to one Langfuse project.

    Args:
        end: What the configuration says.
        settings: The same as settings, see ``config.settings_of``.
        journal: Keeps entries and encoded requests.
        transport: Replaces HTTP, for tests.
        clock: Monotonic seconds.
        wait: Waits on a condition, as ``threading.Condition.wait`` does; a fake clock brings its own.
    """

    def __init__(
        self,
        end: LangfuseEnd,
        settings: Settings,
        journal: Journal,
        *,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], bool] = threading.Condition.wait,
    ) -> None:
        self._end = end
        self._journal = journal
        self._clock = clock
        self.counters = Counters()
        self._claims = Claims(journal, end.name, _RECORDS_PATIENCE)
        self._copy = LangfuseCopy(masker_of(settings, None, self.counters), inline_bytes=settings.media_inline_bytes)
        self._keeper = Keeper(journal, end.name, self._claims, self.counters)
        self._delivery = delivery_of(
            settings,
            self.counters,
            transport,
            custodian=self._keeper,
            max_age=_max_age(end),
            # The bound is kept by not reading on; a window that empties at once must find room.
            queue_bytes=_UNSENT_BYTES + 4 * end.processor.window_bytes,
            name=end.name,
        )
        self._media = media_of(settings, self.counters, transport, lost=self._settle)
        options = replace(Options.of(settings), max_open=_MAX_OPEN, max_ids=_MAX_IDS)
        self._pipeline = Pipeline(self._take, options, counters=self.counters, clock=clock, on_left_out=self._settle)
        self._window = Window(
            self._pipeline,
            window=end.processor.window,
            settle=end.processor.settle,
            limit=end.processor.window_bytes,
            counters=self.counters,
            clock=clock,
            on_error=self._not_mapped,
            on_repeated=self._settle,
        )
        self._route = Route(end, self.counters)
        self._rows: list[Row] = []
        self._encoded: dict[int, frozenset[SpanKey]] = {}
        self._encoded_before: set[SpanKey] = set()
        self._may_log = OncePerInterval(60.0, clock)
        self._inbox = Inbox(end.exporter.sending_queue.queue_size, clock, wait)
        self._pause_until = 0.0
        self._thread: threading.Thread | None = None
        self._outcome: bool | None = None

    # ---------------------------------------------------------------------------------------- the way in

    @property
    def name(self) -> str:
        """The exporter's id."""
        return self._end.name

    @property
    def signals(self) -> frozenset[Signal]:
        """Spans, and log records for their content."""
        return self._end.signals

    def has_room(self, size: int) -> bool:
        """Whether an entry of ``size`` bytes fits into the queue."""
        return self._inbox.has_room(size)

    def offer(self, entry: Entry, *, attempted: bool = False) -> None:
        """Queues an entry. Whether it was attempted does not matter: what is sent are requests of their own."""
        if not self._inbox.put(entry):
            self._leave([entry])

    def refuse(self, entry: Entry, reason: str, remedy: str) -> None:
        """Counts an entry that did not come here."""
        self._drop(entry, reason, remedy)

    def restore(
        self,
        requests: Sequence[EncodedRequest],
        encoded: Mapping[int, frozenset[SpanKey]],
        promises: Sequence[tuple[SpanKey, int]] = (),
    ) -> None:
        """Takes over what an earlier process left; before ``start``.

        Args:
            requests: Journaled requests that were not settled, oldest first.
            encoded: By entry id, the spans that stand in journaled requests already.
            promises: Parents that rows stand below and that had not come, with their start.
        """
        self._encoded = dict(encoded)
        for (trace_id, span_id), _ in promises:
            self._pipeline.owe(trace_id, span_id)
        self._keeper.promised(key for key, _ in promises)
        self._delivery.restore(
            [Request(r.body, r.compressed, r.spans, outcome_unknown=r.attempted, id=r.id) for r in requests],
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name=f"otel-langfuse-{self.name}", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------------------------------------- its end

    def flush(self, timeout: float) -> bool:
        """Ends all waits; whether everything offered before is delivered or dropped within ``timeout`` seconds.

        ``False`` at once when the destination is stopping.
        """
        deadline = self._clock() + timeout

        def last() -> None:
            self._window.flush()
            self._hand_over()

        job = self._inbox.do(last)
        job.over.wait(timeout)
        return (
            job.done
            and self._media.force_flush(max(deadline - self._clock(), 0.0))
            and self._delivery.force_flush(max(deadline - self._clock(), 0.0))
        )

    def shutdown(self, timeout: float) -> bool:
        """Drains for ``timeout`` seconds and stops; whether nothing was lost. Idempotent."""
        if self._outcome is not None:
            return self._outcome
        deadline = self._clock() + timeout

        def last() -> None:
            self._window.close(for_good=not self._journal.durable)
            self._hand_over()

        job = self._inbox.do(last)
        if self._thread is not None:
            job.over.wait(timeout * _MAPPING_SHARE)
        left = self._inbox.close()
        self._media.shutdown(max(deadline - self._clock(), 0.0) * _MEDIA_SHARE)
        delivered = self._delivery.shutdown(max(deadline - self._clock(), 0.0))
        if self._thread is not None:
            self._thread.join(max(deadline - self._clock(), 0.0))
        self._leave(left)
        if not job.done:
            if self._journal.durable:
                self.counters.count("left_in_journal", self._window.spans)
            else:
                self.counters.drop("shutdown", self._window.spans, _SHUTDOWN_REMEDY)
        self._outcome = delivered and job.done and not left
        return self._outcome

    def _leave(self, entries: Sequence[Entry]) -> None:
        """Counts entries that were not read."""
        for entry in entries:
            if self._journal.durable:
                self.counters.count("left_in_journal", entry.items)
            else:
                self._drop(entry, "shutdown", _SHUTDOWN_REMEDY)

    def status(self) -> dict[str, Any]:
        """See `Destination.status`; besides, the window's ``waiting_spans`` and ``waiting_bytes``."""
        delivered = self._delivery.status()
        counts = self.counters.counts
        queued, items, oldest = self._inbox.status()
        return {
            "queue_bytes": queued + delivered["queue_bytes"] + self._media.queue_bytes,
            "queue_items": items,
            "oldest_seconds": max(time.time() - oldest, 0.0) if oldest is not None else 0.0,
            "waiting_spans": self._window.spans,
            "waiting_bytes": self._window.bytes,
            "sent": counts.get("sent", 0),
            "dropped": dict(self.counters.drops),
            "counters": dict(counts),
            "last_error": delivered["last_error"],
        }

    # ----------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        next_tick = self._clock() + _TICK
        while not self._inbox.closed:
            work = self._inbox.next(next_tick, may_read=self._may_read, idle=self._is_idle)
            try:
                if isinstance(work, Entry):
                    self._read(work)
                elif work is not None:
                    work.run()
                if self._clock() >= next_tick:
                    self._tick()
                    next_tick = self._clock() + _TICK
                self._hand_over()
            except Exception as error:  # noqa: BLE001  # a border: the thread must outlive whatever one request brings
                self._report(error)

    def _may_read(self) -> bool:
        return self._clock() >= self._pause_until and self._delivery.status()["queue_bytes"] < _UNSENT_BYTES

    def _is_idle(self) -> bool:
        return not (self._window.spans or self._pipeline.remembered or self._claims.spans or self._claims.records)

    def _tick(self) -> None:
        if self._delivery.status()["queue_bytes"] < _UNSENT_BYTES:
            self._window.tick()
            if self._inbox.empty:
                # What has not been read yet may need them.
                self._claims.settle_records(self._clock())

    # -------------------------------------------------------------------------------------------- mapping

    def _read(self, entry: Entry) -> None:
        try:
            payload = self._journal.payload(entry)
        except RefusedError as error:
            self._inbox.put_back(entry)
            self._pause_until = self._clock() + error.retry_after
            self._report(error)
            return
        if payload is None:
            self._journal.done(entry, self.name)  # damaged or expired; the journal has counted it
            return
        try:
            if entry.signal is Signal.LOGS:
                self._read_records(entry, payload)
            else:
                self._read_spans(entry, payload)
        except PayloadError:
            self._journal.done(entry, self.name)
            self._drop(entry, "mapping_failed", _BUG_REMEDY)
        if not self._journal.durable:
            self._journal.done(entry, self.name)

    def _read_records(self, entry: Entry, payload: bytes) -> None:
        if self._journal.durable:
            self._claims.open_records(entry, self._clock())
        for record in parse_logs(payload):
            if record.has_content and self._route.takes_record(record):
                self._window.content(record)

    def _read_spans(self, entry: Entry, payload: bytes) -> None:
        views = []
        for view in parse_traces(payload):
            if view is not None:
                if self._route.takes_span(view):
                    views.append(view)
                else:
                    self._window.elsewhere(view)
        keys = [(view.trace_id, view.span_id) for view in views]
        if self._journal.durable:
            self._encoded_before.update(self._encoded.pop(entry.id, frozenset()))
            self._claims.open(entry, keys)
        # A span that is read takes about twice the bytes of its texts, and something for each of its attributes.
        share = 2 * entry.size // max(entry.items, 1) + _SPAN_BYTES
        for view in views:
            self._window.add(view, share)

    def _take(self, row: Row) -> None:
        key = (row.view.trace_id, row.view.span_id)
        if self._journal.durable and row.parent_id and not self._pipeline.knows(row.view.trace_id, row.parent_id):
            self._keeper.promise((row.view.trace_id, row.parent_id), row.view.start_ns)
        if key in self._encoded_before:
            self._settle(row.view)
            return
        self._rows.append(row)
        if len(self._rows) >= _BATCH:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            finish(rows, self._copy, self._media, self._delivery, self._not_encoded)

    def _not_encoded(self, row: Row, error: BaseException) -> None:
        self._report(error)
        self.counters.drop("encoding_failed", 1, _BUG_REMEDY)
        self._settle(row.view)

    def _settle(self, span: SpanView | Draft) -> None:
        """A span has no further way: it is left out, or was dropped and counted."""
        if self._journal.durable:
            self._claims.settle([(span.trace_id, span.span_id)])

    def _not_mapped(self, view: SpanView, error: Exception) -> None:
        self._report(error)
        self.counters.drop("mapping_failed", 1, _BUG_REMEDY)
        self._settle(view)

    def _drop(self, entry: Entry, reason: str, remedy: str) -> None:
        if entry.signal is Signal.TRACES:
            self.counters.drop(reason, entry.items, remedy)
        else:
            self.counters.count(f"log_records_{reason}", entry.items)

    def _report(self, error: BaseException) -> None:
        if self._may_log(type(error).__name__):
            kind = type(error).__name__
            logger.warning("otel-langfuse (%s): %s at %s while handling a span", self.name, kind, place_of(error))


def _max_age(end: LangfuseEnd) -> float:
    retry = end.exporter.retry_on_failure
    if not retry.enabled:
        return -1.0
    return retry.max_elapsed_time or float("inf")

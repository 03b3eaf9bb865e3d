"""One Langfuse project: entries in, through the trace window and the pipeline, delivered as encoded requests.

Rules:

- One thread owns window and pipeline. It takes entries as long as delivery has room, so that what waits for a slow
  Langfuse waits in the journal and not in memory.
- Spans are decoded once, here. A span that routing gives to another project is not seen by this one's pipeline.
- An entry is settled when each of its spans is part of a journaled request, left out, or dropped and counted. After a
  crash the entries that were not are read again; spans that stand in a request already only give their context. So are
  entries with a span whose promised parent has not come: the next process knows what this one promised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.errors import PayloadError
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.outlet import delivery_of, masker_of, media_of
from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.window import Window
from otel_langfuse.settings import Settings
from otel_langfuse.sidecar.config.plan import LangfuseEnd
from otel_langfuse.sidecar.destinations.claims import Claims
from otel_langfuse.sidecar.destinations.keeper import Keeper
from otel_langfuse.sidecar.entry import EncodedRequest, Entry, Journal, Signal, SpanKey
from otel_langfuse.views.otlp import parse_logs, parse_traces

__all__ = ["LangfuseDestination"]

logger = logging.getLogger(__name__)

_TICK = 0.1  # seconds between looks at the window while something waits in it
_UNSENT_BYTES = 64 << 20  # encoded bytes that wait for delivery before no further entry is read
_BATCH = 64  # rows handed to delivery at a time
_MEDIA_SHARE = 0.3  # of the time for shutdown
_MAPPING_SHARE = 0.6
_RECORDS_PATIENCE = 60.0  # seconds that log records are kept for spans that are still to come
_MAX_OPEN = 1800.0  # seconds that a trace is remembered whose promised parent does not come
_BUG_REMEDY = "This is a bug in otel-langfuse; please report it with the log line before this one."
_SHUTDOWN_REMEDY = "They waited for Langfuse when the sidecar had to stop; a journal (journal.directory) would have kept them."
_NO_ROUTE_REMEDY = "No route takes their value, and there is no default: see processors.langfuse.routing."

Job = Callable[[], None]


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
        self._wait = wait
        self.counters = Counters()
        self._claims = Claims(journal, end.name, _RECORDS_PATIENCE)
        self._copy = LangfuseCopy(masker_of(settings, None, self.counters), inline_bytes=settings.media_inline_bytes)
        self._delivery = delivery_of(
            settings,
            self.counters,
            transport,
            custodian=Keeper(journal, end.name, self._claims, self.counters),
            max_age=_max_age(end),
            # The bound is kept by not reading on; a window that empties at once must find room.
            queue_bytes=_UNSENT_BYTES + 4 * end.processor.window_bytes,
            name=end.name,
        )
        self._media = media_of(settings, self.counters, transport)
        options = replace(Options.of(settings), max_open=_MAX_OPEN)
        self._pipeline = Pipeline(
            self._take, options, counters=self.counters, clock=clock, on_left_out=lambda view: self._settle(view)
        )
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
        self._rows: list[EncodedSpan] = []
        self._encoded: dict[int, frozenset[SpanKey]] = {}
        self._encoded_before: set[SpanKey] = set()
        self._may_log = OncePerInterval(60.0, clock)
        self._changed = threading.Condition()
        self._queue: deque[Entry] = deque()
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self._stopping = False
        self._stopped = False
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
        return self._bytes + size <= self._end.exporter.sending_queue.queue_size

    def offer(self, entry: Entry, *, attempted: bool = False) -> None:
        """Queues an entry. Whether it was attempted does not matter: what is sent are requests of their own."""
        with self._changed:
            self._queue.append(entry)
            self._bytes += entry.size
            self._changed.notify_all()

    def refuse(self, entry: Entry, reason: str, remedy: str) -> None:
        """Counts an entry that did not come here."""
        self._drop(entry, reason, remedy)

    def restore(self, requests: Sequence[EncodedRequest], encoded: Mapping[int, frozenset[SpanKey]]) -> None:
        """Takes over what an earlier process left; before ``start``.

        Args:
            requests: Journaled requests that were not settled, oldest first.
            encoded: By entry id, the spans that stand in journaled requests already.
        """
        self._encoded = dict(encoded)
        self._delivery.restore(
            [Request(r.body, r.compressed, r.spans, outcome_unknown=r.attempted, id=r.id) for r in requests],
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name=f"otel-langfuse-{self.name}", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------------------------------------- its end

    def flush(self, timeout: float) -> bool:
        """Ends all waits; whether everything offered before is delivered or dropped within ``timeout`` seconds."""
        deadline = self._clock() + timeout
        done = threading.Event()

        def last() -> None:
            self._window.flush()
            self._hand_over()
            done.set()

        self._do(last)
        return (
            done.wait(timeout)
            and self._media.force_flush(max(deadline - self._clock(), 0.0))
            and self._delivery.force_flush(max(deadline - self._clock(), 0.0))
        )

    def shutdown(self, timeout: float) -> bool:
        """Drains for ``timeout`` seconds and stops; whether nothing was lost. Idempotent."""
        if self._outcome is not None:
            return self._outcome
        deadline = self._clock() + timeout
        done = threading.Event()

        def last() -> None:
            self._window.close(for_good=not self._journal.durable)
            self._hand_over()
            done.set()

        self._do(last)
        in_time = done.wait(timeout * _MAPPING_SHARE) if self._thread is not None else False
        with self._changed:
            self._stopping = True
            left, self._queue = list(self._queue), deque()
            self._changed.notify_all()
        self._media.shutdown(max(deadline - self._clock(), 0.0) * _MEDIA_SHARE)
        delivered = self._delivery.shutdown(max(deadline - self._clock(), 0.0))
        if self._thread is not None:
            self._thread.join(max(deadline - self._clock(), 0.0))
        if delivered and in_time and not left:
            self._claims.settle_records()
        for entry in left:
            if self._journal.durable:
                self.counters.count("left_in_journal", entry.items)
            else:
                self._drop(entry, "shutdown", _SHUTDOWN_REMEDY)
        if not in_time:
            if self._journal.durable:
                self.counters.count("left_in_journal", self._window.spans)
            else:
                self.counters.drop("shutdown", self._window.spans, _SHUTDOWN_REMEDY)
        self._outcome = delivered and in_time and not left
        return self._outcome

    def status(self) -> dict[str, Any]:
        """See `Destination.status`; besides, the window's ``waiting_spans`` and ``waiting_bytes``."""
        delivered = self._delivery.status()
        counts = self.counters.counts
        with self._changed:
            oldest = self._queue[0].received_at if self._queue else None
            queued, items = self._bytes, len(self._queue)
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

    def _do(self, job: Job) -> None:
        """Has ``job`` done by the thread after everything that is queued now."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def _run(self) -> None:
        next_tick = self._clock() + _TICK
        while not self._stopped:
            job = self._next(next_tick)
            try:
                job()
                if self._clock() >= next_tick:
                    self._tick()
                    next_tick = self._clock() + _TICK
                self._hand_over()
            except Exception as error:  # noqa: BLE001  # a border: the thread must outlive whatever one request brings
                self._report(error)

    def _next(self, next_tick: float) -> Job:
        """What to do next, waited for: an entry, a job once no entry is left, or nothing because time has passed."""
        with self._changed:
            while True:
                if self._stopping:
                    self._stopped = True
                    return _nothing
                has_room = self._delivery.status()["queue_bytes"] < _UNSENT_BYTES
                if self._queue and has_room:
                    entry = self._queue.popleft()
                    self._bytes -= entry.size
                    return lambda: self._read(entry)
                if self._jobs and not self._queue:
                    return self._jobs.popleft()
                left = next_tick - self._clock()
                if left <= 0:
                    return _nothing
                idle = not self._queue and not self._window.spans and not self._pipeline.remembered and not self._claims.spans
                self._wait(self._changed, None if idle and not self._claims.records else left)

    def _tick(self) -> None:
        if self._delivery.status()["queue_bytes"] < _UNSENT_BYTES:
            self._window.tick()
        self._claims.settle_records(self._clock())

    # -------------------------------------------------------------------------------------------- mapping

    def _read(self, entry: Entry) -> None:
        payload = self._journal.payload(entry)
        if payload is None:
            self._journal.done(entry, self.name)  # damaged; the journal has counted it
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
            self._window.content(record)

    def _read_spans(self, entry: Entry, payload: bytes) -> None:
        views = [view for view in parse_traces(payload) if view is not None and self._is_ours(view)]
        keys = [(view.trace_id, view.span_id) for view in views]
        if self._journal.durable:
            self._encoded_before.update(self._encoded.pop(entry.id, frozenset()))
            self._claims.open(entry, keys)
        share = entry.size // max(entry.items, 1)
        for view in views:
            self._window.add(view, share)

    def _is_ours(self, view: SpanView) -> bool:
        routing = self._end.processor.routing
        if routing is None or self._end.values is None:
            return True
        value = view.attributes.get(routing.attribute)
        if value is None:
            value = view.resource.get(routing.attribute)
        if value is not None and str(value) in routing.routes:
            return str(value) in self._end.values
        if routing.default is None and self._end.counts_unrouted:
            self.counters.drop("no_route", 1, _NO_ROUTE_REMEDY)
        return self._end.is_default

    def _take(self, row: Row) -> None:
        key = (row.view.trace_id, row.view.span_id)
        if self._journal.durable and row.parent_id and not self._pipeline.knows(row.view.trace_id, row.parent_id):
            self._claims.tie(key, (row.view.trace_id, row.parent_id))
        if key in self._encoded_before:
            self._encoded_before.discard(key)
            self._settle(row.view)
            return
        try:
            draft = self._copy.draft(row)
            if draft.media or draft.masked_media:
                self._media.submit(draft, self._deliver)
            else:
                self._rows.append(draft.encode())
                if len(self._rows) >= _BATCH:
                    self._hand_over()
        except Exception as error:  # noqa: BLE001  # one bad row must not take its trace with it
            self._report(error)
            self.counters.drop("encoding_failed", 1, _BUG_REMEDY)
            self._settle(row.view)

    def _deliver(self, span: EncodedSpan) -> None:
        self._delivery.offer([span])

    def _hand_over(self) -> None:
        if self._rows:
            rows, self._rows = self._rows, []
            self._delivery.offer(rows)

    def _settle(self, view: SpanView) -> None:
        if self._journal.durable:
            self._encoded_before.discard((view.trace_id, view.span_id))
            self._claims.settle([(view.trace_id, view.span_id)])

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
            # The message of an error may quote content; its type and place cannot.
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place is not None else "?"
            logger.warning("otel-langfuse (%s): %s at %s while handling a span", self.name, type(error).__name__, where)


def _nothing() -> None:
    """No work: time has passed."""


def _max_age(end: LangfuseEnd) -> float:
    retry = end.exporter.retry_on_failure
    if not retry.enabled:
        return 0.0
    return retry.max_elapsed_time or float("inf")

"""Content that is not on the span: from the completion hook and from log records, by trace and span id.

A record that names no span (some streams emit outside of it) is joined by the response id that both carry.

In process both come before the span ends. Held content is bounded in bytes; what is pushed out is counted, and so is
content whose span never comes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, SpanView

__all__ = ["Joiner"]

_RESPONSE_ID = "gen_ai.response.id"


class Joiner:
    """Holds records until their span ends.

    Args:
        counters: Gets ``content_joined`` and ``content_unjoined``.
        patience: Seconds that a record waits for its span.
        limit: Bytes of records to hold at the most; the oldest go first.
    """

    def __init__(self, counters: Counters, patience: float, limit: int = 64 * 1024 * 1024) -> None:
        self._counters = counters
        self._patience = patience
        self._limit = limit
        self._since: dict[tuple[bytes, bytes | str], float] = {}
        self._held: OrderedDict[tuple[bytes, bytes | str], list[LogView]] = OrderedDict()
        self._bytes = 0

    def add(self, record: LogView, now: float) -> None:
        """Holds a record for its span."""
        key = _key(record)
        self._held.setdefault(key, []).append(record)
        self._since.setdefault(key, now)
        self._bytes += record.size
        while self._bytes > self._limit and self._held:
            self._forget(next(iter(self._held)))

    @property
    def held(self) -> int:
        """Spans for which records are held."""
        return len(self._held)

    def attach(self, view: SpanView) -> SpanView:
        """The span with the records that belong to it."""
        if not self._held:
            return view
        records = self._pop((view.trace_id, view.span_id))
        response_id = view.attributes.get(_RESPONSE_ID)
        if isinstance(response_id, str):
            records = records + self._pop((b"", response_id))
        if not records:
            return view
        self._bytes -= sum(record.size for record in records)
        self._counters.count("content_joined", len(records))
        if all(record.time_ns for record in records):
            records.sort(key=lambda record: record.time_ns)  # a conversation, however its requests overtook each other
        return replace(view, contents=tuple(records))

    def expire(self, now: float) -> None:
        """Drops records that have waited too long."""
        while self._held and now - self._since[key := next(iter(self._held))] > self._patience:
            self._forget(key)

    def holds(self, trace_id: bytes, span_id: bytes) -> bool:
        """Whether records wait for a span."""
        return (trace_id, span_id) in self._held

    def forget_trace(self, trace_id: bytes, span_ids: Iterable[bytes]) -> None:
        """Drops what is held for the spans of a finished trace."""
        if self._held:
            for span_id in span_ids:
                if (trace_id, span_id) in self._held:
                    self._forget((trace_id, span_id))

    def _forget(self, key: tuple[bytes, bytes | str]) -> None:
        records = self._pop(key)
        self._bytes -= sum(record.size for record in records)
        self._counters.count("content_unjoined", len(records))

    def _pop(self, key: tuple[bytes, bytes | str]) -> list[LogView]:
        self._since.pop(key, None)
        return self._held.pop(key, [])


def _key(record: LogView) -> tuple[bytes, bytes | str]:
    return (record.trace_id, record.span_id) if record.span_id else (b"", str(record.attributes.get(_RESPONSE_ID) or ""))

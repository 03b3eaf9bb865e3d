"""Content that is not on the span: from the completion hook and from log records, by trace and span id.

In process both come before the span ends. Held content is bounded in bytes; what is pushed out is counted, and so is
content whose span never comes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from otel_langfuse.counters import Counters
from otel_langfuse.model import LogView, SpanView

__all__ = ["Joiner"]


class Joiner:
    """Holds records until their span ends.

    Args:
        counters: Gets ``content_joined`` and ``content_unjoined``.
        limit: Bytes of records to hold at the most; the oldest go first.
    """

    def __init__(self, counters: Counters, limit: int = 64 * 1024 * 1024) -> None:
        self._counters = counters
        self._limit = limit
        self._held: OrderedDict[tuple[bytes, bytes], list[LogView]] = OrderedDict()
        self._bytes = 0

    def add(self, record: LogView) -> None:
        """Holds a record for its span."""
        self._held.setdefault((record.trace_id, record.span_id), []).append(record)
        self._bytes += record.size
        while self._bytes > self._limit and self._held:
            self._forget(next(iter(self._held)))

    def attach(self, view: SpanView) -> SpanView:
        """The span with the records that belong to it."""
        if not self._held:
            return view
        records = self._held.pop((view.trace_id, view.span_id), None)
        if records is None:
            return view
        self._bytes -= sum(record.size for record in records)
        self._counters.count("content_joined", len(records))
        return replace(view, contents=tuple(records))

    def forget_trace(self, trace_id: bytes, span_ids: object) -> None:
        """Drops what is held for the spans of a finished trace."""
        if self._held:
            for span_id in span_ids:  # type: ignore[attr-defined]  # an iterable of bytes
                if (trace_id, span_id) in self._held:
                    self._forget((trace_id, span_id))

    def _forget(self, key: tuple[bytes, bytes]) -> None:
        records = self._held.pop(key)
        self._bytes -= sum(record.size for record in records)
        self._counters.count("content_unjoined", len(records))

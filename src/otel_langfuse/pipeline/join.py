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
        limit: Bytes of records to hold at the most; the oldest go first.
    """

    def __init__(self, counters: Counters, limit: int = 64 * 1024 * 1024) -> None:
        self._counters = counters
        self._limit = limit
        self._held: OrderedDict[tuple[bytes, bytes | str], list[LogView]] = OrderedDict()
        self._bytes = 0

    def add(self, record: LogView) -> None:
        """Holds a record for its span."""
        self._held.setdefault(_key(record), []).append(record)
        self._bytes += record.size
        while self._bytes > self._limit and self._held:
            self._forget(next(iter(self._held)))

    def attach(self, view: SpanView) -> SpanView:
        """The span with the records that belong to it."""
        if not self._held:
            return view
        records = self._held.pop((view.trace_id, view.span_id), [])
        response_id = view.attributes.get(_RESPONSE_ID)
        if isinstance(response_id, str):
            records = records + self._held.pop((b"", response_id), [])
        if not records:
            return view
        self._bytes -= sum(record.size for record in records)
        self._counters.count("content_joined", len(records))
        return replace(view, contents=tuple(records))

    def forget_trace(self, trace_id: bytes, span_ids: Iterable[bytes]) -> None:
        """Drops what is held for the spans of a finished trace."""
        if self._held:
            for span_id in span_ids:
                if (trace_id, span_id) in self._held:
                    self._forget((trace_id, span_id))

    def _forget(self, key: tuple[bytes, bytes | str]) -> None:
        records = self._held.pop(key)
        self._bytes -= sum(record.size for record in records)
        self._counters.count("content_unjoined", len(records))


def _key(record: LogView) -> tuple[bytes, bytes | str]:
    return (record.trace_id, record.span_id) if record.span_id else (b"", str(record.attributes.get(_RESPONSE_ID) or ""))

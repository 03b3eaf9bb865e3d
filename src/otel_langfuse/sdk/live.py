"""SDK spans that may still be open, what they weigh, and what the SDK's limits took from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from opentelemetry.sdk.environment_variables import (
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT,
    OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT,
)
from opentelemetry.sdk.trace import ReadableSpan

from otel_langfuse.model import EMPTY, SpanView, Value
from otel_langfuse.views.fields import attributes_of, events_of, progress
from otel_langfuse.views.sdk import plain_attributes, span_view

__all__ = ["LiveSpan", "cut_at_limit", "weight"]

_SPAN_BYTES = 1024  # what a span holds besides its texts, roughly
_ATTRIBUTE_BYTES = 64


class LiveSpan:
    """Looks at a span without changing it; a look that would find nothing new costs next to nothing.

    Holds the span until it is looked at after its end or the pipeline lets go.

    Args:
        span: The span.
        ended: Views of spans that have ended and whose turn is to come, by trace id and span id as the SDK has them:
            what these show is final.
        given: The attributes that the span had at its start, where they matter: the SDK drops the oldest beyond its limit.
    """

    __slots__ = ("_ended", "_given", "_seen", "_span")

    def __init__(
        self, span: ReadableSpan, ended: Mapping[tuple[int, int], SpanView], given: dict[str, Any] | None = None
    ) -> None:
        self._span = span
        self._ended = ended
        self._given = given
        self._seen: tuple[int, str] = (-1, "")

    def look(self) -> SpanView | None:
        """The span as it is now; ``None`` if neither name nor number of attributes changed since the last look."""
        span = self._span
        seen = progress(span)
        if seen == self._seen:
            return None
        self._seen = seen
        context: Any = span.context
        return self._ended.get(context[:2]) or span_view(span)

    def peek(self) -> SpanView | None:
        """The span as it is now."""
        return span_view(self._span)

    def dropped(self, kept: Mapping[str, Value]) -> Mapping[str, Value]:
        """The attributes of its start that are not among those that it has kept."""
        given = self._given
        if not given or given.keys() <= kept.keys():  # nearly always
            return EMPTY
        return plain_attributes({key: value for key, value in given.items() if key not in kept})


def weight(span: ReadableSpan) -> int:
    """Bytes that an ended span holds, estimated: exact for texts, a guess for the rest."""
    values = attributes_of(span).values()
    # A comprehension: a loop over two dozen attributes takes twice as long.
    total = _SPAN_BYTES + _ATTRIBUTE_BYTES * len(values) + sum([len(value) for value in values if type(value) is str])
    if tuple in map(type, values):
        total += _ATTRIBUTE_BYTES * sum([len(value) for value in values if type(value) is tuple])
    for event in events_of(span):
        for value in attributes_of(event).values():
            total += len(value) + _ATTRIBUTE_BYTES if isinstance(value, (str, bytes, tuple)) else _ATTRIBUTE_BYTES
    return total


def cut_at_limit(attributes: Mapping[str, Value]) -> int:
    """How many attributes of a span the SDK cut at its length limit."""
    limit = _length_limit()
    return sum(1 for value in attributes.values() if isinstance(value, str) and len(value) == limit) if limit else 0


@cache
def _length_limit() -> int:
    for name in (OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT):
        text = os.environ.get(name, "").strip()
        if text.isdigit():
            return int(text)
    return 0

"""Taking a sealed request apart, after Langfuse or a proxy refused it as a whole.

Spans keep their content, order, resource and scope; only ``cut`` changes one, and marks what it changed. The payload is
decoded here and nowhere else, because a refusal is rare.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from otel_langfuse.langfuse.request import Request, unpack

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

__all__ = ["CUT_FLOOR", "cut", "halves"]

CUT_FLOOR = 2048
"""A span of this many bytes is not cut further: it is not its content that is too large."""

_MIN_VALUE = 128
_MARK = re.compile(rb"\[cut by otel-langfuse: (\d{1,18}) bytes\]\Z")
# Cutting anything else would change what Langfuse computes or where it files the span.
_CUTTABLE = (
    "langfuse.observation.input",
    "langfuse.observation.output",
    "langfuse.observation.metadata",
    "langfuse.observation.status_message",
    "langfuse.trace.metadata",
    "langfuse.trace.input",
    "langfuse.trace.output",
)


def halves(request: Request) -> tuple[Request, Request]:
    """Two requests that hold the spans of ``request``, the first half and the rest.

    Raises:
        ValueError: The request has fewer than two spans or is no OTLP.
    """
    payload = _parse(request)
    if request.spans < 2:
        message = "one span cannot be split"
        raise ValueError(message)
    middle = request.spans // 2
    first = _slice(payload, 0, middle)
    rest = _slice(payload, middle, request.spans)
    return request.part(first, middle), request.part(rest, request.spans - middle)


def cut(request: Request) -> Request | None:
    """The one span of ``request`` cut to about half its size, largest texts first; ``None`` if it cannot shrink.

    Raises:
        ValueError: The request is no OTLP.
    """
    payload = _parse(request)
    size = payload.ByteSize()
    if size <= CUT_FLOOR:
        return None
    values = [
        attribute.value
        for group in payload.resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
        for attribute in span.attributes
        if attribute.key.startswith(_CUTTABLE) and attribute.value.HasField("string_value")
    ]
    lengths = [len(value.string_value.encode("utf-8", "replace")) for value in values]
    level = _level(lengths, size // 2)
    changed = [_shorten(value, level) for value, length in zip(values, lengths, strict=True) if length > level]
    # Marks take room: a span that does not shrink any more would be cut for ever.
    if not any(changed) or payload.ByteSize() >= size:
        return None
    return request.part(payload.SerializeToString(), 1)


def _parse(request: Request) -> ExportTraceServiceRequest:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        payload: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(unpack(request))
        return payload
    except (DecodeError, zlib.error):
        message = "the request's bytes are no OTLP"
        raise ValueError(message) from None


def _slice(payload: ExportTraceServiceRequest, start: int, stop: int) -> bytes:
    """Spans ``start`` to ``stop`` in order of the payload, each under its own resource and scope."""
    out = type(payload)()
    position = 0
    for group in payload.resource_spans:
        target = None
        for scoped in group.scope_spans:
            first, last = max(start - position, 0), min(stop - position, len(scoped.spans))
            position += len(scoped.spans)
            if first >= last:
                continue
            if target is None:
                target = out.resource_spans.add(schema_url=group.schema_url)
                target.resource.CopyFrom(group.resource)
            inner = target.scope_spans.add(schema_url=scoped.schema_url)
            inner.scope.CopyFrom(scoped.scope)
            inner.spans.extend(scoped.spans[first:last])
    return bytes(out.SerializeToString())


def _level(lengths: list[int], excess: int) -> int:
    """The length to which texts are cut so that ``excess`` bytes go: the largest give first, small ones stay."""
    ordered = sorted(lengths, reverse=True)
    for index, length in enumerate(ordered):
        below = ordered[index + 1] if index + 1 < len(ordered) else 0
        room = (length - below) * (index + 1)
        if room >= excess:
            return max(length - -(-excess // (index + 1)), _MIN_VALUE)
        excess -= room
    return _MIN_VALUE


def _shorten(value: AnyValue, level: int) -> bool:
    """Cuts one text to ``level`` bytes and a mark that says how much went, earlier cuts included."""
    raw = value.string_value.encode("utf-8", "replace")
    gone = 0
    earlier = _MARK.search(raw)
    if earlier:
        gone = int(earlier[1])
        raw = raw[: earlier.start()]
    if len(raw) <= level:
        return False
    kept = raw[:level].decode("utf-8", "ignore")
    gone += len(raw) - len(kept.encode())
    value.string_value = f"{kept}[cut by otel-langfuse: {gone} bytes]"
    return True

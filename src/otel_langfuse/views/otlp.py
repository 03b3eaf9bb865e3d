"""OTLP protobuf as views.

Source: opentelemetry-proto ``trace.proto``, ``logs.proto``, ``common.proto``. A span whose ids have a wrong length is
left out and reported, so that one invalid span never costs its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.errors import PayloadError
from otel_langfuse.model import EMPTY, EventView, LogView, SpanView, Value

__all__ = ["parse_logs", "parse_traces"]

# trace.proto SpanFlags: bit 8 says that the remote flag is known, bit 9 that the parent is remote.
_PARENT_IS_REMOTE = 0x200
_NOBODY = bytes(8)
_MAX_DEPTH = 64
_LAST_KIND, _LAST_STATUS = 5, 2  # what is beyond has no meaning, and could not be encoded


def _value(value: Any, depth: int = 0) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item, depth + 1) for item in value.array_value.values] if depth < _MAX_DEPTH else None
    if kind == "kvlist_value":
        if depth >= _MAX_DEPTH:
            return None
        return {item.key: _value(item.value, depth + 1) for item in value.kvlist_value.values}
    plain: Value = getattr(value, kind)
    return plain


def _attributes(pairs: Any) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in pairs:
        value = pair.value
        # Only one kind is set, so that what is there needs not be asked for its kind. Most values are texts and numbers.
        found[pair.key] = value.string_value or value.int_value or _value(value)
    return found


def _span(span: Any, scope_name: str, scope_version: str, resource: dict[str, Value]) -> SpanView | None:
    trace_id, span_id = span.trace_id, span.span_id
    if len(trace_id) != 16 or len(span_id) != 8:
        return None
    parent, kind, events = span.parent_span_id, span.kind, span.events
    code, message = 0, ""
    if span.HasField("status"):
        code, message = span.status.code, span.status.message
    # By position, which costs half of what names do.
    return SpanView(
        trace_id,
        span_id,
        parent if parent and parent != _NOBODY and len(parent) == 8 else b"",
        bool(span.flags & _PARENT_IS_REMOTE),
        span.name,
        kind if 0 <= kind <= _LAST_KIND else 0,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        [EventView(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in events] if events else [],
        code if 0 <= code <= _LAST_STATUS else 0,
        message,
        scope_name,
        scope_version,
        resource,
    )


def _parse(request: Message, payload: bytes, signal: str) -> None:
    try:
        request.ParseFromString(payload)
    except DecodeError as error:
        raise PayloadError(f"{len(payload)} bytes are no OTLP {signal} export request: {error}") from None


def parse_traces(payload: bytes) -> Iterator[SpanView | None]:
    """The spans of one or more concatenated ``ExportTraceServiceRequest``; ``None`` for each invalid span.

    Raises:
        PayloadError: The bytes are no protobuf of that kind.
    """
    request = ExportTraceServiceRequest()
    _parse(request, payload, "trace")
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            name, version = scope_spans.scope.name, scope_spans.scope.version
            for span in scope_spans.spans:
                yield _span(span, name, version, resource)


def parse_logs(payload: bytes) -> Iterator[LogView]:
    """The log records that name a span or a response, of one or more concatenated ``ExportLogsServiceRequest``.

    Raises:
        PayloadError: The bytes are no protobuf of that kind.
    """
    request = ExportLogsServiceRequest()
    _parse(request, payload, "logs")
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                attributes = _attributes(record.attributes) if record.attributes else EMPTY
                whole = len(record.trace_id) == 16 and len(record.span_id) == 8
                if not whole and not attributes.get("gen_ai.response.id"):
                    continue
                yield LogView(
                    trace_id=record.trace_id if whole else b"",
                    span_id=record.span_id if whole else b"",
                    event_name=record.event_name or str(attributes.get("event.name") or ""),
                    attributes=attributes,
                    body=_value(record.body),
                    scope_name=scope_logs.scope.name,
                    time_ns=record.time_unix_nano or record.observed_time_unix_nano,
                    resource=resource,
                )

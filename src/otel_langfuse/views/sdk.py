"""The SDK's spans and log records as views.

Values are brought to the same plain forms as the OTLP view gives (tuples become lists), so that both roads answer
alike. A span is only read: other processors share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from otel_langfuse.model import EMPTY, EventView, LogView, SpanView, Value

__all__ = ["log_view", "plain", "span_view"]


def plain(value: object) -> Value:
    """An attribute value of the SDK in the form that the OTLP view gives it."""
    if value is None or isinstance(value, (str, bool, int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def _attributes(attributes: Mapping[str, Any] | None) -> Mapping[str, Value]:
    if not attributes:
        return EMPTY
    return _plain_attributes(_copy(attributes))


def _copy(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A plain dict; the SDK's own mapping iterates in Python, under a lock, but copies in one go."""
    copy = getattr(attributes, "copy", None)
    return dict(attributes) if copy is None else copy()


def _plain_attributes(copied: dict[str, Any]) -> Mapping[str, Value]:
    if not _PLAIN_TYPES.issuperset(map(type, copied.values())):
        for key, value in copied.items():
            if type(value) not in _PLAIN_TYPES:
                copied[key] = plain(value)
    return copied


_UNSET = StatusCode.UNSET  # nearly every span's; looking up an enumeration's value runs Python code
_PLAIN_TYPES = frozenset((str, int, bool, float))
_resources: OrderedDict[int, tuple[Resource, Mapping[str, Value]]] = OrderedDict()
_MAX_RESOURCES = 64


def _resource_attributes(resource: Resource) -> Mapping[str, Value]:
    """A resource's attributes, the same mapping for the same resource, so that others can cache by it."""
    known = _resources.get(id(resource))
    if known is None or known[0] is not resource:
        known = _resources[id(resource)] = (resource, _attributes(resource.attributes))
        if len(_resources) > _MAX_RESOURCES:
            _resources.popitem(last=False)
    return known[1]


def span_view(span: ReadableSpan, attributes: dict[str, Any] | None = None) -> SpanView | None:
    """The view of an SDK span, ended or still open; ``None`` for a span without a valid context.

    An open span has end 0. Its attributes are copied, since the application may still be writing them; ``attributes`` is
    such a copy, if the caller has one to give away.
    """
    context = span.context
    if context is None or not context.is_valid:
        return None
    parent = span.parent
    scope = span.instrumentation_scope
    status = span.status
    events = span.events
    return SpanView(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        parent_id=parent.span_id.to_bytes(8, "big") if parent is not None and parent.is_valid else b"",
        parent_remote=bool(parent is not None and parent.is_remote),
        name=span.name,
        kind=span.kind.value + 1,  # OTLP counts kinds from 1; the SDK from 0
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        attributes=_attributes(span.attributes) if attributes is None else _plain_attributes(attributes),
        events=[EventView(event.name, event.timestamp, _attributes(event.attributes)) for event in events] if events else [],
        status_code=0 if status.status_code is _UNSET else status.status_code.value,
        status_message=status.description or "",
        scope_name=scope.name if scope is not None else "",
        scope_version=(scope.version or "") if scope is not None else "",
        resource=_resource_attributes(span.resource),
    )


def log_view(record: Any, scope_name: str = "") -> LogView | None:
    """The view of an SDK log record; ``None`` when it names neither a span nor a response."""
    attributes = _attributes(record.attributes)
    whole = bool(record.trace_id and record.span_id)
    if not whole and not attributes.get("gen_ai.response.id"):
        return None
    name = getattr(record, "event_name", None) or attributes.get("event.name") or ""
    return LogView(
        trace_id=record.trace_id.to_bytes(16, "big") if whole else b"",
        span_id=record.span_id.to_bytes(8, "big") if whole else b"",
        event_name=str(name),
        attributes=attributes,
        body=plain(record.body),
        scope_name=scope_name,
        time_ns=record.timestamp or record.observed_timestamp or 0,
    )

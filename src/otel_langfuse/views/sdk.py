"""The SDK's spans and log records as views.

Values are brought to the same plain forms as the OTLP view gives (tuples become lists), so that both roads answer
alike. A span is only read: other processors share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import StatusCode

from otel_langfuse.model import EMPTY, EventView, LogView, SpanView, Value
from otel_langfuse.views.fields import Read, attributes_of, copied, read

__all__ = ["log_view", "plain", "plain_attributes", "span_view", "view_of"]


def plain(value: object) -> Value:
    """An attribute value of the SDK in the form that the OTLP view gives it."""
    if value is None or isinstance(value, (str, bool, int, float, bytes)):
        return value
    if type(value) is tuple:
        return [item if type(item) is str else plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


_PLAIN_TYPES = frozenset((str, int, bool, float))


def plain_attributes(copied: dict[str, Any]) -> Mapping[str, Value]:
    """The attributes with `plain` values; the dict is changed, so it must be the caller's to give away."""
    for key, value in copied.items():
        kind = type(value)
        if kind is not str and kind not in _PLAIN_TYPES:  # nearly all are texts
            copied[key] = plain(value)
    return copied or EMPTY


class _Event(EventView):
    """An event of the SDK, whose attributes are read when somebody asks for them: few events carry what matters here."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self.name = event.name
        self.time_ns = event.timestamp
        self._event = event

    @property
    def attributes(self) -> Mapping[str, Value]:  # type: ignore[override]  # a view is changed by nobody
        """The attributes of an event do not change."""
        return plain_attributes(attributes_of(self._event))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventView):
            return NotImplemented
        return (self.name, self.time_ns, self.attributes) == (other.name, other.time_ns, other.attributes)

    __hash__ = None  # type: ignore[assignment]  # as any view's


_TRACE_ID, _SPAN_ID, _IS_REMOTE, _IS_VALID = 0, 1, 2, 5  # places in a span's context
_UNSET = StatusCode.UNSET  # nearly every span's; looking up an enumeration's value runs Python code
_resources: OrderedDict[int, tuple[Resource, Mapping[str, Value]]] = OrderedDict()
_last: tuple[Resource | None, Mapping[str, Value]] = (None, EMPTY)
_MAX_RESOURCES = 64


def _resource_attributes(resource: Resource) -> Mapping[str, Value]:
    """A resource's attributes, the same mapping for the same resource, so that others can cache by it."""
    global _last
    last = _last
    if last[0] is resource:  # a program has one, nearly always
        return last[1]
    known = _resources.get(id(resource))
    if known is None or known[0] is not resource:
        known = _resources[id(resource)] = (resource, plain_attributes(attributes_of(resource)))
        if len(_resources) > _MAX_RESOURCES:
            _resources.popitem(last=False)
    _last = known
    return known[1]


def span_view(span: ReadableSpan) -> SpanView | None:
    """The view of an SDK span, ended or still open; ``None`` for a span without a valid context.

    An open span has end 0. Its attributes are copied, since the application may still be writing them.
    """
    return view_of(read(span))


def view_of(found: Read) -> SpanView | None:
    """The view of a span that has been read, as `span_view`; what was read is the view's from now on."""
    context, above, name, kind, start, end, status, resource, scope, body = found
    held, _, events, _, _, _ = body
    # By index, also below: the properties of this tuple are Python functions, and so is the value of an enumeration.
    if context is None or not context[_IS_VALID]:
        return None
    parent = above if above is not None and above[_IS_VALID] else None
    return SpanView(  # by position: keywords would take as long as all the rest of the call
        context[_TRACE_ID].to_bytes(16, "big"),
        context[_SPAN_ID].to_bytes(8, "big"),
        b"" if parent is None else parent[_SPAN_ID].to_bytes(8, "big"),
        parent is not None and parent[_IS_REMOTE],
        name,
        kind._value_ + 1,  # OTLP counts kinds from 1; the SDK from 0
        start or 0,
        end or 0,
        plain_attributes(held),
        [_Event(event) for event in events] if events else [],
        0 if status is None or status.status_code is _UNSET else status.status_code.value,
        (status.description or "") if status is not None else "",
        scope.name if scope is not None else "",
        (scope.version or "") if scope is not None else "",
        _resource_attributes(resource),
    )


def log_view(record: Any, scope_name: str = "") -> LogView | None:
    """The view of an SDK log record; ``None`` when it names neither a span nor a response."""
    attributes = plain_attributes(copied(record.attributes))
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

"""What an SDK span holds, read from the SDK's own fields where its public properties wrap, lock and copy.

Where a field is missing, in another version of the SDK or a span that was made by hand, the properties answer; and always
where they are somebody's own, who may show less than there is. Imported with the package, so it needs nothing but the SDK.
"""

# ruff: noqa: SLF001

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.status import Status

__all__ = ["Body", "Read", "attributes_of", "copied", "events_of", "head", "progress", "read", "read_event"]

# Attributes, events and links, each with how many of them the SDK dropped.
Body = tuple[dict[str, Any], int, Sequence[Event], int, Sequence[Link], int]
# `Any` stands for contexts, whose properties are Python functions and whose fields are therefore read by index.
Read = tuple[Any, Any, str, Any, int | None, int | None, Status | None, Any, Any, Body]

# Ended spans, and open ones as the SDK makes them; subclasses of others are not among them.
_SPANS = frozenset((ReadableSpan, Span, getattr(trace, "_Span", Span)))
_OWNERS = _SPANS | {Event, Resource}


def attributes_of(owner: Any) -> dict[str, Any]:
    """The attributes of a span, event or resource as a dict of their own."""
    if type(owner) in _OWNERS:
        try:
            return owner._attributes._dict.copy()  # type: ignore[no-any-return]
        except AttributeError:
            pass
    return copied(owner.attributes)


def events_of(span: Any) -> Sequence[Any]:
    """The events of a span so far."""
    if type(span) in _SPANS:
        try:
            return tuple(span._events._dq)
        except AttributeError:
            pass
    return span.events or ()


def progress(span: Any) -> tuple[int, str]:
    """Number of attributes, and name, of a span so far: nearly always, what is new about an open span changes one of them."""
    if type(span) in _SPANS:
        try:
            return len(span._attributes._dict), span._name
        except AttributeError:
            pass
    return len(span.attributes or ()), span.name


def head(span: Any) -> tuple[SpanContext | None, SpanContext | None, int | None, Any]:
    """Context, parent, start and scope of a span: what is known of it from its start on."""
    if type(span) in _SPANS:
        try:
            return span._context, span._parent, span._start_time, span._instrumentation_scope
        except AttributeError:
            pass
    return span.context, span.parent, span.start_time, span.instrumentation_scope


def read(span: ReadableSpan) -> Read:
    """Context, parent, name, kind, start, end, status, resource and scope of a span, and its body."""
    if type(span) in _SPANS:
        own: Any = span
        try:
            attributes, events, links = own._attributes, own._events, own._links
            return (
                own._context,
                own._parent,
                own._name,
                own._kind,
                own._start_time,
                own._end_time,
                own._status,
                own._resource,
                own._instrumentation_scope,
                (
                    attributes._dict.copy(),
                    attributes.dropped,
                    tuple(events._dq),
                    events.dropped,
                    tuple(links._dq),
                    links.dropped,
                ),
            )
        except AttributeError:
            pass
    return (
        span.context,
        span.parent,
        span.name,
        span.kind,
        span.start_time,
        span.end_time,
        span.status,
        span.resource,
        span.instrumentation_scope,
        (
            copied(span.attributes),
            span.dropped_attributes,
            span.events,
            span.dropped_events,
            span.links,
            span.dropped_links,
        ),
    )


def read_event(event: Event) -> tuple[str, int, dict[str, Any], int]:
    """Name, time and attributes of an event, and how many attributes the SDK dropped."""
    if type(event) is Event:
        own: Any = event
        try:
            attributes = own._attributes
            return own._name, own._timestamp, attributes._dict.copy(), attributes.dropped
        except AttributeError:
            pass
    return event.name, event.timestamp, copied(event.attributes), event.dropped_attributes


def copied(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A plain dict; the SDK's own mapping iterates in Python, under a lock, but copies in one go."""
    if not attributes:
        return {}
    copy = getattr(attributes, "copy", None)
    found = attributes if copy is None else copy()
    return found if type(found) is dict else dict(found)

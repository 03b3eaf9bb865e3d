"""What any span may say, GenAI or not: user and session keys, errors, resource-level release and environment.

Source: semantic conventions ``user.id``, ``session.id``, ``enduser.id``, ``error.*``, ``exception`` events,
``deployment.environment.name``, ``service.version``; Langfuse rules section 6 and 12.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.reading import Row, Table, as_identity, as_text
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import EMPTY, EventView, Facts, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "any span"
_EXCEPTION = "exception"
HINTS = Hints(always=True, looks=("error.",), hears=lambda name: name == _EXCEPTION)

TABLE = Table(
    (
        Row("user.id", "user", as_identity),
        Row("enduser.id", "user", as_identity),
        Row("session.id", "session", as_identity),
        Row("deployment.environment.name", "environment"),
        Row("deployment.environment", "environment"),
        Row("langfuse.trace.url", "-"),  # our own link, on the way to the other backend
    )
)
# Langfuse's name for none, and what instrumentations write that were told none: it must not hide the configured one.
_NO_ENVIRONMENT = "default"
_KEYS = tuple(row.key for row in TABLE.rows)
_ERROR = 2  # trace.proto Status.STATUS_CODE_ERROR


def read(view: SpanView) -> Facts | None:
    """Context keys, level and status message; never recognises a span as GenAI."""
    attributes = view.attributes
    failed = view.status_code == _ERROR or "error.type" in attributes or (view.events and _exception(view) is not None)
    if not failed and not any(key in attributes for key in _KEYS):
        return None
    facts = Facts(dialect=NAME, recognised=False)
    TABLE.apply(attributes, facts, shape_of(view))
    if facts.environment == _NO_ENVIRONMENT:
        facts.environment = None
    if failed:
        kind = as_text(attributes.get("error.type"))
        exception = _exception(view)
        if view.status_code == _ERROR or kind is not None or exception is not None:
            _error(view, facts, kind, exception.attributes if exception is not None else EMPTY)
    return facts


def _exception(view: SpanView) -> EventView | None:
    """The last exception that was recorded."""
    return next((event for event in reversed(view.events) if event.name == _EXCEPTION), None)


def _error(view: SpanView, facts: Facts, kind: str | None, details: Mapping[str, Value]) -> None:
    message = view.status_message or as_text(details.get("exception.message")) or as_text(view.attributes.get("error.message"))
    facts.status_message = message or kind or as_text(details.get("exception.type"))
    facts.level = "ERROR"
    for key in ("exception.type", "exception.stacktrace"):
        text = as_text(details.get(key))
        if text:
            facts.metadata[key] = text

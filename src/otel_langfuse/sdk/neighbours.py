"""The Langfuse SDK beside us: two processors on one provider must not send the same spans to the same project."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from otel_langfuse.sdk.exporter import LangfuseSpanExporter

__all__ = ["processor_that_sends_the_same"]

_WRAPPERS = ("span_exporter", "_exporter")
_MAX_WRAPPERS = 4


def processor_that_sends_the_same(processors: Iterable[Any], public_key: str | None) -> str | None:
    """The name of a Langfuse SDK processor that sends to our project; ``None`` if there is none.

    One that was given an exporter of ours leaves the work to us: that exporter gets nothing to do.
    """
    for other in processors:
        kind = type(other)
        if not any(base.__module__.startswith("langfuse.") for base in kind.__mro__):
            continue
        if getattr(other, "public_key", None) != public_key:
            continue
        exporter = _exporter_of(other)
        if exporter is None:
            return f"{kind.__module__}.{kind.__name__}"
        exporter.superseded = True
    return None


def _exporter_of(processor: Any) -> LangfuseSpanExporter | None:
    """Our exporter inside a processor, through what wraps it there."""
    found = processor
    for _ in range(_MAX_WRAPPERS):
        found = next((inner for name in _WRAPPERS if (inner := getattr(found, name, None)) is not None), None)
        if isinstance(found, LangfuseSpanExporter):
            return found
    return None

"""The way from the other backend to Langfuse: ``langfuse.trace.url`` on the first GenAI span and on the entry span.

Runs on the application's thread at each span start, because a link can only be set on a span that is recording. So it
knows no more than scope names and a few attribute keys, holds no lock, and reads the SDK's own fields where its public
properties cost a multiple; where a field is missing, the property answers. What is over is forgotten by the worker.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from opentelemetry.sdk.trace import Span
from opentelemetry.trace import SpanContext

from otel_langfuse.sdk.engine import forked

__all__ = ["URL_KEY", "TraceLinks"]

URL_KEY = "langfuse.trace.url"
_MAX_TRACES = 10_000
_MAX_SCOPES = 1024
_SAMPLED = 1  # in the trace flags of W3C

# Scopes of instrumentations whose spans are GenAI; others are recognised by the attributes they start with.
_SCOPES = (
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.genai.",
    "opentelemetry.instrumentation.anthropic",
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.google_generativeai",
    "opentelemetry.util.genai",
    "openinference.instrumentation",
    "traceloop.tracer",
    "langfuse-sdk",
    "pydantic-ai",
    "openlit",
)
_KEYS = frozenset(
    (
        "gen_ai.operation.name",
        "gen_ai.system",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "llm.request.type",
        "openinference.span.kind",
        "traceloop.span.kind",
        "ai.operationId",
        "langfuse.observation.type",
    )
)


class _Scopes(dict[str, bool]):
    """Whether scopes are of instrumentations whose spans are GenAI; a function with a cache takes twice as long."""

    def __missing__(self, scope: str) -> bool:
        if len(self) >= _MAX_SCOPES:
            self.clear()
        known = self[scope] = scope.startswith(_SCOPES)
        return known


_known = _Scopes()


class TraceLinks:
    """Remembers the entry span of each open trace until its first GenAI span starts.

    Holds 10,000 traces at the most, and those whose starts are still in the queue. Each step on the dict is atomic. Two
    first GenAI spans that start at the same moment in two threads may both be linked.

    Args:
        base_url: Langfuse's address; ``<base_url>/trace/<trace id>`` redirects to the right project.
    """

    def __init__(self, base_url: str) -> None:
        self._prefix = f"{base_url}/trace/"
        # By trace id the entry span; once the trace is linked, only its span id.
        self._entries: dict[int, Span | int] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forked(weakref.WeakMethod(self._forget_all)))

    def _forget_all(self) -> None:
        """After a fork: a thread that is not in the child may have held the lock of an open span."""
        self._entries.clear()

    def started(self, span: Any) -> dict[str, Any] | None:
        """Links the trace when its first GenAI span starts.

        Returns:
            The span's start attributes, before the link; ``None`` if neither scope nor attributes say that it is GenAI. What
            starts in a trace that is linked is not looked at: it may be GenAI.
        """
        try:
            context, held, scope = span._context, span._attributes._dict, span._instrumentation_scope._name  # noqa: SLF001
        except AttributeError:
            context, held, scope = span.context, dict(span.attributes or {}), span.instrumentation_scope
            scope = scope.name if scope is not None else ""
        trace_id = context[0]  # by index: the properties of this tuple are Python functions
        entries = self._entries
        entry: Any = entries.get(trace_id)
        if type(entry) is int:
            return held.copy()  # type: ignore[no-any-return]
        if not _known[scope] and _KEYS.isdisjoint(held):
            if entry is None:
                entries[trace_id] = span
            return None
        given: dict[str, Any] = held.copy()
        if context[3] & _SAMPLED:
            url = self._prefix + trace_id.to_bytes(16, "big").hex()  # half the time of a format
            _set(span, url, None)  # nobody else has it yet
            if entry is not None:
                _set(entry, url, getattr(entry, "_lock", None))
                context = entry.context
            entries[trace_id] = context[1]
        return given

    def make_room(self) -> None:
        """Forgets the oldest traces beyond the bound; the worker calls it for each start."""
        while len(self._entries) > _MAX_TRACES:
            try:
                del self._entries[next(iter(self._entries))]
            except (KeyError, RuntimeError, StopIteration):
                return  # an application's thread came between; the next start does it

    def ended(self, context: SpanContext) -> None:
        """Forgets a trace when its entry span has ended; the worker calls it."""
        entry = self._entries.get(context[0])
        if entry is not None and context[1] == (entry if isinstance(entry, int) else entry.context.span_id):
            self._entries.pop(context[0], None)


def _set(span: Any, url: str, lock: Any) -> None:
    """``set_attribute`` for a short text, with its limits; the SDK's own takes as long as all else here."""
    try:
        attributes = span._attributes  # noqa: SLF001
        held = attributes._dict  # noqa: SLF001
        if attributes.max_value_len is None and len(held) < attributes.maxlen:
            if lock is None:
                held[URL_KEY] = url
                return
            with lock:
                if span._end_time is None:  # noqa: SLF001
                    held[URL_KEY] = url
            return
    except (AttributeError, TypeError):
        pass  # another SDK, or no limit to the number
    if span.is_recording():
        span.set_attribute(URL_KEY, url)

"""The way from the other backend to Langfuse: ``langfuse.trace.url`` on the first GenAI span and on the entry span.

Runs on the application's thread at each span start, so it knows no more than scope names and a few attribute keys.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from functools import lru_cache

from opentelemetry.sdk.trace import Span
from opentelemetry.trace import SpanContext

from otel_langfuse.sdk.engine import forked

__all__ = ["URL_KEY", "TraceLinks", "looks_like_genai"]

URL_KEY = "langfuse.trace.url"
_MAX_TRACES = 10_000

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


def looks_like_genai(span: Span) -> bool:
    """Whether scope or start attributes say that a span is GenAI."""
    scope = span.instrumentation_scope
    if scope is not None and _known(scope.name):
        return True
    attributes = span.attributes
    if not attributes:
        return False
    # A plain dict from a copy in one go: the SDK's mapping runs Python code for each key.
    return not _KEYS.isdisjoint(attributes.copy())  # type: ignore[attr-defined]  # a MappingProxyType


@lru_cache(maxsize=1024)
def _known(scope: str) -> bool:
    return scope.startswith(_SCOPES)


class TraceLinks:
    """Remembers the entry span of each open trace until its first GenAI span starts.

    Args:
        base_url: Langfuse's address; ``<base_url>/trace/<trace id>`` redirects to the right project.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._start_empty()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forked(weakref.WeakMethod(self._start_empty)))

    def _start_empty(self) -> None:
        """After a fork too: a thread that is not in the child may have held the lock, or that of an open span."""
        self._entries: OrderedDict[int, tuple[Span, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def started(self, span: Span, genai: bool) -> None:
        """Links the trace when its first GenAI span starts."""
        context = span.context
        if context is None:
            return
        with self._lock:
            entry, linked = self._entries.get(context.trace_id, (span, False))
            self._entries[context.trace_id] = (entry, linked or genai)
            if len(self._entries) > _MAX_TRACES:
                self._entries.popitem(last=False)
        if genai and not linked:
            url = f"{self._base_url}/trace/{context.trace_id:032x}"
            span.set_attribute(URL_KEY, url)
            if entry is not span and entry.is_recording():
                entry.set_attribute(URL_KEY, url)

    def ended(self, context: SpanContext) -> None:
        """Forgets a trace when its entry span ends."""
        known = self._entries.get(context.trace_id)
        if known is not None and known[0].context is not None and known[0].context.span_id == context.span_id:
            with self._lock:
                self._entries.pop(context.trace_id, None)

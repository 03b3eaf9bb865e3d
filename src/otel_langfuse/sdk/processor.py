"""The span processor: what an application adds to its tracer provider.

``on_start`` and ``on_end`` append to a queue. The given span is never changed, with the one exception that
``OTEL_LANGFUSE_SET_TRACE_URL=false`` turns off: the first span recognised as GenAI in a trace, and its entry span, get
``langfuse.trace.url``, so that the other backend links to Langfuse. Nothing here raises into the application.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context as OtelContext
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_langfuse.counters import OncePerInterval
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Pipeline, SpanStart
from otel_langfuse.pipeline.context import Context
from otel_langfuse.sdk import registry
from otel_langfuse.sdk.context import propagated
from otel_langfuse.sdk.engine import Engine, Masks, settings_with
from otel_langfuse.sdk.links import TraceLinks, looks_like_genai
from otel_langfuse.sdk.live import LiveSpan, lost_to_limits, weight
from otel_langfuse.sdk.neighbours import processor_that_sends_the_same
from otel_langfuse.settings import Settings
from otel_langfuse.views.sdk import plain, span_view

__all__ = ["LangfuseSpanProcessor", "report"]

logger = logging.getLogger(__name__)
_may_log = OncePerInterval(60.0)
_START_BYTES = 256  # a start holds little beside the span, which the application holds anyway


class LangfuseSpanProcessor(SpanProcessor):
    """Sends the GenAI part of every trace to Langfuse.

    Args:
        settings: Settings resolved before; otherwise environment and ``overrides`` decide.
        mask: ``mask(value, field) -> value``, applied to all content, metadata and status messages before they leave;
            or names of built-in masks (``"email,card,key"``), as in ``OTEL_LANGFUSE_MASK``.
        should_export: ``should_export(view) -> bool | None``: overrides whether a span is kept; ``None``: no opinion.
        transport: Replaces HTTP, for tests.
        **overrides: Any field of `Settings`; wins over the environment.

    Without keys it warns once and does nothing.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        mask: Masks | None = None,
        should_export: Callable[[SpanView], bool | None] | None = None,
        transport: Transport | None = None,
        **overrides: object,
    ) -> None:
        if settings is None:
            settings, custom = settings_with(mask, overrides)
        else:
            custom = mask if callable(mask) else None
        self._settings = settings
        self._engine: Engine | None = None
        self._links: TraceLinks | None = None
        self._beside: object = None
        self._yielded = False
        problem = self._settings.problem
        if problem:
            logger.warning("otel-langfuse: %s", problem)
        if not self._settings.configured:
            return
        try:
            self._engine = Engine(settings, mask=custom, should_export=should_export, transport=transport)
            registry.engines.add(self._engine)
            if self._settings.set_trace_url:
                self._links = TraceLinks(self._settings.base_url)
        except Exception as error:  # noqa: BLE001  # border to the host: observability must not stop an application
            logger.warning("otel-langfuse could not start (%s); nothing is sent to Langfuse", type(error).__name__)
            self._engine = None
        if self._engine is not None and self._settings.openai_instrumentation:
            self._instrument()

    def _instrument(self) -> None:
        try:
            from otel_langfuse.sdk.launch import instrument_openai

            instrument_openai(self._settings)
        except Exception as error:  # noqa: BLE001  # border to the host
            logger.warning("otel-langfuse could not instrument the OpenAI SDK (%s)", type(error).__name__)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def engine(self) -> Engine | None:
        """The engine behind this processor; ``None`` when it does nothing."""
        return self._engine

    def _yields(self, span: Span) -> bool:
        """Whether a Langfuse SDK on the same provider sends the same; looks when a processor has come or gone."""
        # The SDK has no public list of a provider's processors.
        beside = getattr(getattr(span, "_span_processor", None), "_span_processors", ())
        if beside is not self._beside:
            self._beside = beside
            other = processor_that_sends_the_same(beside, self._settings.public_key)
            if other is not None and not self._yielded and self._engine is not None:
                logger.warning(
                    "otel-langfuse yields: %s sends the same spans to the same Langfuse project. To let otel-langfuse "
                    "do it, write Langfuse(span_exporter=LangfuseSpanExporter()) or give the Langfuse SDK a provider "
                    "of its own.",
                    other,
                )
                registry.engines.discard(self._engine)
            self._yielded = self._yielded or other is not None
        return self._yielded

    # ------------------------------------------------------------------------------ SpanProcessor

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
        """Queues what is known now: ids, context, and the start attributes of what may be a GenAI span."""
        engine = self._engine
        context = span.context
        if engine is None or context is None or not context.trace_flags.sampled:
            return
        try:
            if self._yields(span):
                return
            found = propagated(parent_context, baggage=self._settings.baggage)
            genai = looks_like_genai(span)
            if self._links is not None:
                self._links.started(span, genai)
            attributes = _copied(span) if genai else None
            engine.submit(_Started(span, found, attributes), _START_BYTES)
        except Exception as error:  # noqa: BLE001  # border to the host
            report("on_start", error)

    def on_end(self, span: ReadableSpan) -> None:
        """Queues the ended span."""
        engine = self._engine
        context = span.context
        if engine is None or self._yielded or context is None or not context.trace_flags.sampled:
            return
        try:
            if self._links is not None:
                self._links.ended(context)
            attributes = _copied(span)
            engine.submit(_Ended(span, attributes), weight(attributes, span), spans=1)
        except Exception as error:  # noqa: BLE001  # border to the host
            report("on_end", error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether all spans ended before were delivered or dropped in time."""
        engine = self._engine
        try:
            return engine is None or engine.force_flush(timeout_millis / 1000)
        except Exception as error:  # noqa: BLE001  # border to the host
            report("force_flush", error)
            return False

    def shutdown(self) -> None:
        """Delivers what is left, for ``OTEL_LANGFUSE_SHUTDOWN_TIMEOUT`` seconds at the most."""
        engine = self._engine
        try:
            if engine is not None:
                engine.shutdown()
        except Exception as error:  # noqa: BLE001  # border to the host
            report("shutdown", error)

    def status(self) -> dict[str, Any]:
        """Whether this works, where it sends, and what has happened so far; no secrets, no content."""
        settings = self._settings
        status: dict[str, Any] = {
            "enabled": settings.enabled,
            "initialized": self._engine is not None and not self._yielded,
            "host": settings.base_url,
            "public_key_configured": bool(settings.public_key),
            "secret_key_configured": bool(settings.secret_key),
            "environment": settings.environment,
        }
        empty: dict[str, Any] = {"counters": {}, "dropped": {}, "queue_bytes": 0, "last_error": None}
        return status | (self._engine.status() if self._engine is not None else empty)


def _copied(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes as a plain dict: in one go, where iterating would run Python code for each."""
    attributes = span.attributes
    return attributes.copy() if attributes else {}  # type: ignore[attr-defined]  # a MappingProxyType


class _Started:
    """A span's start, for the worker."""

    __slots__ = ("_attributes", "_propagated", "_span")

    def __init__(self, span: Span, found: Any, attributes: dict[str, Any] | None) -> None:
        self._span = span
        self._propagated = found
        self._attributes = attributes

    def __call__(self, pipeline: Pipeline) -> None:
        span, found = self._span, self._propagated
        context, parent = span.context, span.parent
        if context is None:
            return
        given = self._attributes
        pipeline.started(
            SpanStart(
                trace_id=context.trace_id.to_bytes(16, "big"),
                span_id=context.span_id.to_bytes(8, "big"),
                parent_id=parent.span_id.to_bytes(8, "big") if parent is not None and parent.is_valid else b"",
                start_ns=span.start_time or 0,
                scope=span.instrumentation_scope.name if span.instrumentation_scope is not None else "",
                live=LiveSpan(span),
                propagated=_context(found) if found is not None else None,
                attributes={key: plain(value) for key, value in given.items()} if given else None,
            )
        )


class _Ended:
    """A span's end, for the worker."""

    __slots__ = ("_attributes", "_span")

    def __init__(self, span: ReadableSpan, attributes: dict[str, Any]) -> None:
        self._span = span
        self._attributes = attributes

    def __call__(self, pipeline: Pipeline) -> None:
        view = span_view(self._span, self._attributes)
        if view is not None:
            pipeline.ended(view)
        lost, cut = lost_to_limits(self._span)
        if lost or cut:
            pipeline.note_sdk_limits(lost, cut)


def _context(found: Any) -> Context:
    return Context(
        user=found.user_id,
        session=found.session_id,
        tags=tuple(found.tags),
        metadata=found.metadata,
        trace_name=found.trace_name,
        release=found.release,
        version=found.version,
        environment=found.environment,
    )


def report(where: str, error: Exception) -> None:
    """Says at most once a minute that something failed at a border to the host; never what it was about."""
    if _may_log(where):
        logger.warning("otel-langfuse: %s in %s; the span is not sent to Langfuse", type(error).__name__, where)

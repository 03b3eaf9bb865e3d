"""The span processor: what an application adds to its tracer provider.

``on_start`` and ``on_end`` append to a queue; all that can be found out later is found out by the worker. They read the
SDK's own fields where its public properties cost a multiple. The given span is never changed, with the one exception that
``OTEL_LANGFUSE_SET_TRACE_URL=false`` turns off: the first span recognised as GenAI in a trace, and its entry span, get
``langfuse.trace.url``, so that the other backend links to Langfuse. Nothing here raises into the application.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context as OtelContext
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_langfuse.counters import OncePerInterval
from otel_langfuse.sdk import registry
from otel_langfuse.sdk.engine import Engine, Masks, settings_with
from otel_langfuse.sdk.links import TraceLinks
from otel_langfuse.sdk.neighbours import processor_that_sends_the_same
from otel_langfuse.settings import Settings
from otel_langfuse.views.fields import attributes_of

if TYPE_CHECKING:
    from otel_langfuse.langfuse.transport import Transport
    from otel_langfuse.model import SpanView
    from otel_langfuse.sdk.queue import Kind

__all__ = ["LangfuseSpanProcessor", "report"]

logger = logging.getLogger(__name__)
_may_log = OncePerInterval(60.0)


class LangfuseSpanProcessor(SpanProcessor):
    """Sends the GenAI part of every trace to Langfuse.

    Args:
        settings: Settings resolved before; otherwise environment and ``overrides`` decide.
        mask: ``mask(value, field) -> value``, applied to all content, metadata and status messages before they leave;
            or names of built-in masks (``"email,card,key"``), as in ``OTEL_LANGFUSE_MASK``.
        should_export: ``should_export(view) -> bool | None``: overrides whether a span is kept; ``None``: no opinion.
        transport: Replaces HTTP, for tests.
        **overrides: Any field of `Settings`; wins over the environment.

    Without keys it warns once and does nothing, except for the copy that ``OTEL_LANGFUSE_FANOUT`` asks for.
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
        self._idle = True  # nothing is done at a span's start
        self._silent = True  # nor at its end
        self._yielded = False
        problem = self._settings.problem
        if problem:
            logger.warning("otel-langfuse: %s", problem)
        if not self._settings.configured and self._settings.fanout != "otlp":
            return
        try:
            self._engine = engine = Engine(settings, mask=custom, should_export=should_export, transport=transport)
            self._queue, self._offer = engine.queue, engine.offer
            if not self._settings.configured:
                self._pass_on()
                return
            registry.engines.add(self._engine)
            if self._settings.set_trace_url:
                self._links = TraceLinks(self._settings.base_url)
            from otel_langfuse.sdk.arrivals import Ended, Started

            self._started = Started(self._settings.baggage, self._links)
            self._ended: Kind = Ended(self._links, self._engine.fanout)
            self._idle = self._silent = False
        except Exception as error:  # noqa: BLE001  # border to the host: observability must not stop an application
            logger.warning("otel-langfuse could not start (%s); nothing is sent to Langfuse", type(error).__name__)
            self._engine = None
        if self._engine is not None and self._settings.openai_instrumentation:
            self._instrument()

    def _pass_on(self) -> None:
        """From now on ended spans go to the other destination only, or nowhere if there is none."""
        fanout = self._engine.fanout if self._engine is not None else None
        self._idle = True
        self._silent = fanout is None
        if fanout is not None:
            from otel_langfuse.sdk.arrivals import Passed

            self._ended = Passed(fanout)

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

    def _leave_to_the_first(self, beside: Sequence[object]) -> None:
        """One processor for each Langfuse project is fine; the other destination gets its copy from the first of them."""
        engine = self._engine
        for other in beside:
            if other is self or engine is None or engine.fanout is None:
                return
            if isinstance(other, LangfuseSpanProcessor) and other.engine is not None and other.engine.fanout is not None:
                from otel_langfuse.sdk.arrivals import Ended

                engine.fanout = None
                self._ended = Ended(self._links)

    def _yields(self, beside: Sequence[object]) -> bool:
        """Whether a Langfuse SDK on the same provider sends the same; to be asked when a processor has come or gone."""
        self._beside = beside
        self._leave_to_the_first(beside)
        other = processor_that_sends_the_same(beside, self._settings.public_key)
        if other is not None and not self._yielded and self._engine is not None:
            logger.warning(
                "otel-langfuse yields: %s sends the same spans to the same Langfuse project. To let otel-langfuse "
                "do it, write Langfuse(span_exporter=LangfuseSpanExporter()) or give the Langfuse SDK a provider "
                "of its own.",
                other,
            )
            registry.engines.discard(self._engine)
            self._yielded = True
            self._pass_on()
        return self._yielded

    # ------------------------------------------------------------------------------ SpanProcessor

    def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
        """Queues the span, its context, and the start attributes of what may be a GenAI span."""
        if self._idle:
            return
        try:
            try:
                # The provider's processors, of which the SDK has no public list; it makes a new tuple for each change.
                beside = span._span_processor._span_processors  # type: ignore[attr-defined]  # noqa: SLF001
            except AttributeError:
                beside = ()
            if beside is not self._beside and self._yields(beside):
                return
            links = self._links
            attributes = attributes_of(span) if links is None else links.started(span)
            entry = (self._started, span, get_current() if parent_context is None else parent_context, attributes)
            queue = self._queue
            inbox = queue.inbox
            if len(inbox) < queue.calm:
                inbox.append(entry)
            else:
                self._offer(entry)
        except Exception as error:  # noqa: BLE001  # border to the host
            report("on_start", error)

    def on_end(self, span: ReadableSpan) -> None:
        """Queues the ended span."""
        if self._silent:
            return
        try:
            queue = self._queue
            inbox = queue.inbox
            if len(inbox) < queue.calm:
                inbox.append((self._ended, span))
            else:
                self._offer((self._ended, span))
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
            "initialized": self._engine is not None and settings.configured and not self._yielded,
            "host": settings.base_url,
            "public_key_configured": bool(settings.public_key),
            "secret_key_configured": bool(settings.secret_key),
            "environment": settings.environment,
        }
        empty: dict[str, Any] = {"counters": {}, "dropped": {}, "queue_bytes": 0, "last_error": None}
        return status | (self._engine.status() if self._engine is not None else empty)


def report(where: str, error: Exception) -> None:
    """Says at most once a minute that something failed at a border to the host; never what it was about."""
    if _may_log(where):
        logger.warning("otel-langfuse: %s in %s; the span is not sent to Langfuse", type(error).__name__, where)

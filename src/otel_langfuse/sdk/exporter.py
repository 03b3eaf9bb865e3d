"""The span exporter: for `OTEL_TRACES_EXPORTER=langfuse`, and for batch processors that only take an exporter.

Alone it maps and places within each batch and holds nothing beyond ``export()``; joining content, spreading context and
merging calls over a whole trace need the processor. Under the launcher it only marks the wish: the complete processor
takes over (`sdk.auto`), and ``export()`` has nothing to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.replay import replay
from otel_langfuse.sdk import registry
from otel_langfuse.sdk.engine import Mask, Masks, delivery_of, masker_of, settings_with
from otel_langfuse.settings import Settings
from otel_langfuse.views.sdk import span_view

__all__ = ["LangfuseSpanExporter"]

logger = logging.getLogger(__name__)


class LangfuseSpanExporter(SpanExporter):
    """Sends batches of spans to Langfuse.

    Args:
        mask: ``mask(value, field) -> value``, applied before anything leaves; or names of built-in masks.
        transport: Replaces HTTP, for tests.
        **settings: Any field of `Settings`; wins over the environment.
    """

    def __init__(self, *, mask: Masks | None = None, transport: Transport | None = None, **settings: object) -> None:
        self._settings, self._mask = settings_with(mask, settings)
        self._counters = Counters()
        self._may_log = OncePerInterval(60.0)
        self.superseded = False
        self._warned = False
        self._copy = LangfuseCopy(masker_of(self._settings, self._mask, self._counters))
        self._delivery = delivery_of(self._settings, self._counters, transport)
        registry.exporters.add(self)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def mask(self) -> Mask | None:
        """The user's masking callable."""
        return self._mask

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Maps the batch and waits until Langfuse has it; what it does not take in time stays queued."""
        if self.superseded:
            return SpanExportResult.SUCCESS
        try:
            return self._export(spans)
        except Exception as error:  # noqa: BLE001  # border to the host
            if self._may_log("export"):
                logger.warning("otel-langfuse: %s in export; %d spans are lost", type(error).__name__, len(spans))
            self._counters.drop("mapping_failed", len(spans))
            return SpanExportResult.FAILURE

    def _export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._warn_once()
        if not self._settings.configured:
            return SpanExportResult.SUCCESS
        encoded: list[EncodedSpan] = []

        def sink(row: Row) -> None:
            encoded.append(self._copy.encode(row))

        views = [view for span in spans if (view := span_view(span)) is not None]
        replay(Pipeline(sink, Options.of(self._settings), counters=self._counters), views)
        lost = sum(self._counters.drops.values())
        self._delivery.offer(encoded)
        settled = self._delivery.force_flush(self._settings.timeout)
        unharmed = sum(self._counters.drops.values()) == lost
        return SpanExportResult.SUCCESS if settled and unharmed else SpanExportResult.FAILURE

    def _warn_once(self) -> None:
        if self._warned:
            return
        self._warned = True
        problem = self._settings.problem
        if problem:
            logger.warning("otel-langfuse: %s", problem)
        elif self._settings.configured:
            logger.warning(
                "otel-langfuse: LangfuseSpanExporter works alone, batch by batch: content from log records or hooks, "
                "context from parents in other batches and merging of doubled calls need "
                "provider.add_span_processor(LangfuseSpanProcessor()), or the launcher opentelemetry-instrument."
            )

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether everything queued was delivered or dropped in time."""
        return self.superseded or self._delivery.force_flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Delivers what is left, for ``OTEL_LANGFUSE_SHUTDOWN_TIMEOUT`` seconds at the most."""
        deadline = time.monotonic() + self._settings.shutdown_timeout
        self._delivery.shutdown(max(deadline - time.monotonic(), 0.0))

    def status(self) -> dict[str, object]:
        """Counters and last error; no content, no keys."""
        return {"counters": self._counters.counts, "dropped": self._counters.drops, **self._delivery.status()}

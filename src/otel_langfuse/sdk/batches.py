"""What the span exporter does with a batch: maps and places within it, delivers it, holds nothing beyond ``export()``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.langfuse.copy import LangfuseCopy, TextMasker
from otel_langfuse.langfuse.delivery import Delivery
from otel_langfuse.langfuse.media_upload import MediaUploader
from otel_langfuse.langfuse.outlet import Mask, delivery_of, masker_of, media_of
from otel_langfuse.langfuse.transport import Transport
from otel_langfuse.langfuse.wire import EncodedSpan
from otel_langfuse.model import SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.replay import replay
from otel_langfuse.sdk.engine import MEDIA_SHARE, Masks, settings_with
from otel_langfuse.views.sdk import span_view

__all__ = ["Batches"]

logger = logging.getLogger(__name__)


class Batches:
    """Sends batches of spans; makes masks and delivery at the first one, for under the launcher there is none.

    Args:
        mask: As in `LangfuseSpanExporter`.
        transport: Replaces HTTP, for tests.
        settings: Fields of `Settings`.
    """

    def __init__(self, mask: Masks | None, transport: Transport | None, settings: dict[str, object]) -> None:
        self.mask: Mask | None
        self.settings, self.mask = settings_with(mask, settings)
        self._transport = transport
        self._counters = Counters()
        self._may_log = OncePerInterval(60.0)
        self._lock = threading.Lock()
        self._masker: TextMasker | None = None
        self._delivery: Delivery | None = None
        self._media: MediaUploader | None = None
        self._warned = False

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """Whether Langfuse has the batch; what it does not take in time stays queued."""
        try:
            return self._export(spans)
        except Exception as error:  # noqa: BLE001  # border to the host
            if self._may_log("export"):
                logger.warning("otel-langfuse: %s in export; %d spans are lost", type(error).__name__, len(spans))
            self._counters.drop("mapping_failed", len(spans))
            return False

    def _export(self, spans: Sequence[ReadableSpan]) -> bool:
        self._warn_once()
        if not self.settings.configured:
            return True
        with self._lock:
            if self._delivery is None or self._media is None:
                self._masker = masker_of(self.settings, self.mask, self._counters)
                self._delivery = delivery_of(self.settings, self._counters, self._transport)
                self._media = media_of(self.settings, self._counters, self._transport)
            delivery, media = self._delivery, self._media
        # One of its own for each batch: several threads may export at once.
        copy = LangfuseCopy(self._masker, inline_bytes=self.settings.media_inline_bytes)
        encoded: list[EncodedSpan] = []

        def sink(row: Row) -> None:
            done = copy.finish(row)
            if isinstance(done, EncodedSpan):
                encoded.append(done)
            else:
                media.submit(done, lambda span: delivery.offer([span]))

        views = [view for span in spans if (view := span_view(span)) is not None]
        pipeline = Pipeline(sink, Options.of(self.settings), counters=self._counters)
        lost = sum(self._counters.drops.values())
        replay(pipeline, views, on_error=self._one_failed)
        delivery.offer(encoded)
        settled = self.force_flush(self.settings.timeout)
        return settled and sum(self._counters.drops.values()) == lost

    def _one_failed(self, _: SpanView, error: Exception) -> None:
        """One span could not be mapped; the others of its batch go on."""
        self._counters.drop("mapping_failed", 1, f"{type(error).__name__}: a bug in otel-langfuse; please report it.")

    def _warn_once(self) -> None:
        if self._warned:
            return
        self._warned = True
        problem = self.settings.problem
        if problem:
            logger.warning("otel-langfuse: %s", problem)
        elif self.settings.configured:
            logger.warning(
                "otel-langfuse: LangfuseSpanExporter works alone, batch by batch: content from log records or hooks, "
                "context from parents in other batches and merging of doubled calls need "
                "provider.add_span_processor(LangfuseSpanProcessor()), or the launcher opentelemetry-instrument."
            )
        if self.settings.fanout == "otlp":
            logger.warning(
                "otel-langfuse: OTEL_LANGFUSE_FANOUT=otlp needs the same; LangfuseSpanExporter alone sends nothing to OTLP."
            )

    def force_flush(self, timeout: float) -> bool:
        """Whether everything queued was delivered or dropped in time; media and spans get ``timeout`` seconds each."""
        uploaded = self._media is None or self._media.force_flush(timeout)
        return (self._delivery is None or self._delivery.force_flush(timeout)) and uploaded

    def shutdown(self) -> None:
        """Delivers what is left within the time that the settings give."""
        deadline = time.monotonic() + self.settings.shutdown_timeout
        if self._media is not None:
            self._media.shutdown(self.settings.shutdown_timeout * MEDIA_SHARE)
        if self._delivery is not None:
            self._delivery.shutdown(max(deadline - time.monotonic(), 0.0))

    def status(self) -> dict[str, object]:
        """Counters and last error; no content, no keys."""
        empty: dict[str, object] = {"queue_bytes": 0, "queued_spans": 0, "last_error": None, "last_success_at": None}
        delivered = self._delivery.status() if self._delivery is not None else empty
        return {"counters": self._counters.counts, "dropped": self._counters.drops, **delivered}

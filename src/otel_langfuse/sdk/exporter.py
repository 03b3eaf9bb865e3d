"""The span exporter: for `OTEL_TRACES_EXPORTER=langfuse`, and for batch processors that only take an exporter.

Alone it maps and places within each batch and holds nothing beyond ``export()``; joining content, spreading context and
merging calls over a whole trace need the processor. Under the launcher it only marks the wish: the complete processor
takes over (`sdk.auto`), and ``export()`` has nothing to do.

This is an entry point, and one that cannot be loaded would cost every other exporter its spans. So the module imports
next to nothing, and the work is in `sdk.batches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_langfuse.sdk import registry

if TYPE_CHECKING:
    from otel_langfuse.langfuse.outlet import Mask
    from otel_langfuse.langfuse.transport import Transport
    from otel_langfuse.sdk.batches import Batches
    from otel_langfuse.sdk.engine import Masks
    from otel_langfuse.settings import Settings

__all__ = ["LangfuseSpanExporter"]


class LangfuseSpanExporter(SpanExporter):
    """Sends batches of spans to Langfuse.

    Args:
        mask: ``mask(value, field) -> value``, applied before anything leaves; or names of built-in masks.
        transport: Replaces HTTP, for tests.
        **settings: Any field of `Settings`; wins over the environment.
    """

    def __init__(self, *, mask: Masks | None = None, transport: Transport | None = None, **settings: object) -> None:
        self.superseded = False
        self._batches: Batches | None = None
        try:
            from otel_langfuse.sdk.batches import Batches
        except Exception as error:  # noqa: BLE001  # border to the host
            registry.report_failed_start(error)
            return
        self._batches = Batches(mask, transport, settings)
        registry.exporters.add(self)

    @property
    def settings(self) -> Settings | None:
        """The settings in force; ``None`` if the exporter could not start."""
        return self._batches.settings if self._batches is not None else None

    @property
    def mask(self) -> Mask | None:
        """The user's masking callable."""
        return self._batches.mask if self._batches is not None else None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Maps the batch and waits until Langfuse has it; what it does not take in time stays queued."""
        if self.superseded or self._batches is None:
            return SpanExportResult.SUCCESS
        return SpanExportResult.SUCCESS if self._batches.export(spans) else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether everything queued was delivered or dropped in time."""
        return self._batches is None or self._batches.force_flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Delivers what is left, for ``OTEL_LANGFUSE_SHUTDOWN_TIMEOUT`` seconds at the most."""
        if self._batches is not None:
            self._batches.shutdown()

    def status(self) -> dict[str, object]:
        """Counters and last error; no content, no keys."""
        return self._batches.status() if self._batches is not None else {}

"""Recorded OTLP, converted: the bytes that would be sent to Langfuse if everything came in time.

Nothing is uploaded: notes stand for large media, as they do when upload is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.copy import LangfuseCopy
from otel_langfuse.langfuse.media_upload import MediaUploader
from otel_langfuse.langfuse.wire import EncodedSpan, assemble
from otel_langfuse.model import LogView, ObservationType, SpanView
from otel_langfuse.pipeline import Options, Pipeline, Row
from otel_langfuse.pipeline.masking import Masker
from otel_langfuse.pipeline.replay import replay
from otel_langfuse.settings import Settings
from otel_langfuse.views.otlp import parse_logs, parse_traces

__all__ = ["Conversion", "convert", "convert_views"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """The outcome of a conversion.

    Attributes:
        payload: One ``ExportTraceServiceRequest``.
        spans_in: Valid spans read.
        spans_out: Rows written.
        generations: Rows that are model calls.
        notes: Counts of what happened on the way.
    """

    payload: bytes
    spans_in: int
    spans_out: int
    generations: int
    notes: Mapping[str, int]


def convert(traces: bytes, logs: bytes | None = None, settings: Settings | None = None) -> Conversion:
    """Converts concatenated ``ExportTraceServiceRequest`` and, beside them, ``ExportLogsServiceRequest`` messages.

    Raises:
        PayloadError: The bytes are no OTLP.
    """
    counters = Counters()
    views: list[SpanView] = []
    for view in parse_traces(traces):
        if view is None:
            counters.count("invalid_spans")
        else:
            views.append(view)
    return convert_views(views, list(parse_logs(logs)) if logs else [], settings, counters)


def convert_views(
    views: list[SpanView], records: list[LogView], settings: Settings | None = None, counters: Counters | None = None
) -> Conversion:
    """Converts spans and records that have been read already, from either road."""
    settings = settings if settings is not None else Settings.resolve({})
    counters = counters if counters is not None else Counters()
    masker = Masker.from_settings(settings.mask, None, counters=counters)
    copy = LangfuseCopy(masker, inline_bytes=settings.media_inline_bytes)
    media = MediaUploader(None, counters=counters)
    spans: list[EncodedSpan] = []
    generations = 0

    def sink(row: Row) -> None:
        nonlocal generations
        generations += row.facts.type in (ObservationType.GENERATION, ObservationType.EMBEDDING)
        done = copy.finish(row)
        if isinstance(done, EncodedSpan):
            spans.append(done)
        else:
            media.submit(done, spans.append)

    pipeline = Pipeline(sink, Options.of(settings), counters=counters)
    replay(
        pipeline,
        views,
        records,
        on_error=lambda _, error: counters.drop("mapping_failed", 1, f"{type(error).__name__}: a bug; please report it."),
    )
    notes = {**counters.counts, **{f"dropped_{reason}": n for reason, n in counters.drops.items()}}
    return Conversion(assemble(spans), len(views), len(spans), generations, notes)

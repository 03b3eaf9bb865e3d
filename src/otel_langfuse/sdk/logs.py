"""Content that travels in log records, in process: taken when it is emitted, before its span ends."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs import LogRecordProcessor

from otel_langfuse.model import weigh
from otel_langfuse.pipeline import Pipeline
from otel_langfuse.sdk import registry
from otel_langfuse.sdk.processor import report
from otel_langfuse.views.sdk import log_view, plain

__all__ = ["LangfuseLogRecordProcessor"]


class LangfuseLogRecordProcessor(LogRecordProcessor):
    """Hands ``gen_ai.*`` events to the engines of this process; other log records are not looked at."""

    def on_emit(self, log_record: Any) -> None:
        """Queues the record if it carries content for a span."""
        try:
            record = log_record.log_record
            name = record.event_name or (record.attributes or {}).get("event.name")
            if isinstance(name, str) and name.startswith("gen_ai."):
                scope = log_record.instrumentation_scope
                size = 256 + weigh(plain(record.body)) + weigh(plain(record.attributes))
                job = _Content(record, scope.name if scope is not None else "")
                for engine in registry.engines:
                    engine.submit(job, size)
        except Exception as error:  # noqa: BLE001  # border to the host
            report("on_emit", error)

    def shutdown(self) -> None:
        """Does nothing: the span processor drains the engine."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Does nothing: the span processor flushes the engine."""
        return True


class _Content:
    """A content record, for the worker."""

    __slots__ = ("_record", "_scope")

    def __init__(self, record: Any, scope: str) -> None:
        self._record = record
        self._scope = scope

    def __call__(self, pipeline: Pipeline) -> None:
        record = log_view(self._record, self._scope)
        if record is not None:
            pipeline.content(record)

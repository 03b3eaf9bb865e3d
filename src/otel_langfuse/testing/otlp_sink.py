"""A receiver of plain OTLP over HTTP, as Tempo or a Collector is one."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_langfuse.testing.http_server import Handler, HttpEndpoint, Received

__all__ = ["OtlpSink"]

_PROTOBUF = {"content-type": "application/x-protobuf"}


def spans_of(exports: Iterable[ExportTraceServiceRequest]) -> list[Span]:
    """Every span of the requests, in order."""
    return [
        span for export in exports for group in export.resource_spans for scoped in group.scope_spans for span in scoped.spans
    ]


class OtlpSink(HttpEndpoint):
    """Takes protobuf, gzip or not, at any path that ends in ``/v1/traces`` or ``/v1/logs``; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._traces: list[ExportTraceServiceRequest] = []
        self._logs: list[ExportLogsServiceRequest] = []

    @property
    def exports(self) -> list[ExportTraceServiceRequest]:
        """The trace requests that came."""
        with self._changed:
            return list(self._traces)

    @property
    def spans(self) -> list[Span]:
        """Every span that came, in order of arrival."""
        return spans_of(self.exports)

    @property
    def log_records(self) -> list[LogRecord]:
        """Every log record that came, in order of arrival."""
        with self._changed:
            exports = list(self._logs)
        return [
            record
            for export in exports
            for group in export.resource_logs
            for scoped in group.scope_logs
            for record in scoped.log_records
        ]

    def wait_for(self, n_spans: int, timeout: float = 10.0) -> bool:
        """Whether ``n_spans`` spans have come within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.spans) >= n_spans, timeout)

    def handle(self, handler: Handler, request: Received) -> None:
        """Keeps the request and answers an empty success."""
        try:
            answer = self._keep(request)
        except (DecodeError, ValueError):
            self._note(request)
            handler.reply(400, {}, b"")
            return
        self._note(request)
        if answer is None:
            handler.reply(404, {}, b"")
        else:
            handler.reply(200, _PROTOBUF, answer)

    def _keep(self, request: Received) -> bytes | None:
        if request.path.endswith("/v1/traces"):
            traces = ExportTraceServiceRequest.FromString(request.payload)
            with self._changed:
                self._traces.append(traces)
            return bytes(ExportTraceServiceResponse().SerializeToString())
        if request.path.endswith("/v1/logs"):
            logs = ExportLogsServiceRequest.FromString(request.payload)
            with self._changed:
                self._logs.append(logs)
            return bytes(ExportLogsServiceResponse().SerializeToString())
        return None

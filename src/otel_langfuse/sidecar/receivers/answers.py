"""What a sender is told: the one table from outcomes to gRPC codes and HTTP statuses, and the bytes of the answers.

Rule of OTLP/gRPC: ``RESOURCE_EXHAUSTED`` means "never again" unless a ``RetryInfo`` comes with it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess, ExportTraceServiceResponse

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.entry import Receipt, RefusedError, Signal
from otel_langfuse.sidecar.receivers.bodies import TooLargeError
from otel_langfuse.sidecar.receivers.wire import length_delimited, tag, varint

__all__ = ["NO_TOKEN", "Code", "Verdict", "accepted", "judge", "status_bytes"]


class Code:
    """The gRPC status codes that are used."""

    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """A request that was not accepted.

    Attributes:
        code: gRPC status code.
        status: HTTP status.
        message: What happened and what to do.
        retry_after: Seconds after which the same request is welcome; ``None``: never.
        counter: The count that it belongs to.
    """

    code: int
    status: int
    message: str
    retry_after: float | None
    counter: str


NO_TOKEN = Verdict(Code.UNAUTHENTICATED, 401, "the token is missing or wrong", None, "unauthenticated")


def judge(error: Exception) -> Verdict:
    """What an error means to the sender. Whatever is not known here may pass, so that the sender keeps its data."""
    if isinstance(error, TooLargeError):
        return Verdict(Code.RESOURCE_EXHAUSTED, 413, f"{error}", None, "too_large")
    if isinstance(error, PayloadError):
        return Verdict(Code.INVALID_ARGUMENT, 400, f"{error}", None, "bad_requests")
    if isinstance(error, RefusedError):
        code, status = (Code.UNAVAILABLE, 503) if error.reason == "shutdown" else (Code.RESOURCE_EXHAUSTED, 429)
        return Verdict(code, status, f"{error}", error.retry_after, "requests_told_to_wait")
    message = f"the sidecar failed to take this request ({type(error).__name__}); its log says more; send it again"
    return Verdict(Code.UNAVAILABLE, 503, message, 1.0, "receiver_errors")


def accepted(signal: Signal, receipt: Receipt, *, as_json: bool = False) -> bytes:
    """The body of a success: empty, or with the partial success if something was left out."""
    if not receipt.rejected:
        return b"{}" if as_json else b""
    count = "rejectedSpans" if signal is Signal.TRACES else "rejectedLogRecords"
    if as_json:
        partial = {count: str(receipt.rejected), "errorMessage": receipt.message}
        return json.dumps({"partialSuccess": partial}).encode()
    if signal is Signal.TRACES:
        spans = ExportTracePartialSuccess(rejected_spans=receipt.rejected, error_message=receipt.message)
        return ExportTraceServiceResponse(partial_success=spans).SerializeToString()
    records = ExportLogsPartialSuccess(rejected_log_records=receipt.rejected, error_message=receipt.message)
    return ExportLogsServiceResponse(partial_success=records).SerializeToString()


def status_bytes(code: int, message: str, *, retry_after: float | None = None, as_json: bool = False) -> bytes:
    """A ``google.rpc.Status``, with a ``RetryInfo`` if the request may come again.

    Written by hand: its generated classes are in a package that the sidecar does not need otherwise.
    """
    if as_json:
        return json.dumps({"code": code, "message": message}).encode()
    status = tag(1, 0) + varint(code) + length_delimited(2, message.encode())
    if retry_after is None:
        return status
    nanos, seconds = math.modf(max(retry_after, 0.0))
    delay = tag(1, 0) + varint(int(seconds)) + tag(2, 0) + varint(int(nanos * 1e9))
    info = length_delimited(1, delay)
    return status + length_delimited(
        3, length_delimited(1, b"type.googleapis.com/google.rpc.RetryInfo") + length_delimited(2, info)
    )

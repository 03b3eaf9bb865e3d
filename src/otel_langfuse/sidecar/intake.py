"""The way in: one request, checked, journaled, and owed to every destination of its pipelines.

Rules:

- A request is acknowledged after the journal has it, and not before.
- One invalid span never costs its batch: it is left out, counted, and named in the partial success.
- A destination whose queue is full loses this request, counted; the others get it. Only when all of them are full, or
  the journal is, is the sender told to come again.
- Bytes that need no change go on as they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.counters import Counters
from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.entry import Destination, Journal, Receipt, RefusedError, Signal

__all__ = ["Intake"]

_KIND = {Signal.TRACES: "spans", Signal.LOGS: "log_records"}
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_FULL_REMEDY = "Its queue is full: it takes data more slowly than they come, or not at all; raise its queue_size or mend it."


class Intake:
    """Takes requests from any receiver's thread.

    Args:
        journal: Keeps what is acknowledged.
        destinations: By signal and receiver id, who gets what.
        counters: Takes ``requests_received``, ``spans_received``, ``log_records_received``, ``..._accepted`` and
            ``..._refused``, ``invalid_spans``.
    """

    def __init__(
        self, journal: Journal, destinations: Mapping[tuple[Signal, str], Sequence[Destination]], counters: Counters
    ) -> None:
        self._journal = journal
        self._destinations = destinations
        self._counters = counters
        self._closed = False
        self.refusing = False
        """Whether the last request was told to come again."""

    def close(self) -> None:
        """Refuses everything from now on."""
        self._closed = True

    def take(self, receiver: str, signal: Signal, payload: bytes) -> Receipt:
        """Accepts one export request; returns when the journal has it.

        Args:
            receiver: The id of the receiver that it came to.
            signal: What it should hold.
            payload: The protobuf bytes of an export request.

        Raises:
            PayloadError: It is no such request; coming again is useless.
            RefusedError: It cannot be taken now.
        """
        self._counters.count("requests_received")
        kind = _KIND[signal]
        if self._closed:
            self._counters.count("requests_refused")
            raise RefusedError("the sidecar is shutting down; send to the next one", reason="shutdown")
        try:
            payload, items, rejected = _checked(signal, payload)
        except PayloadError:
            self._counters.count("requests_invalid")
            raise
        self._counters.count(f"{kind}_received", items + rejected)
        self._counters.count("invalid_spans", rejected)
        destinations = self._destinations.get((signal, receiver), ())
        if items and destinations:
            try:
                self._keep(signal, payload, items, destinations)
            except RefusedError as error:
                self.refusing = True
                self._counters.count("requests_refused")
                self._counters.count(f"{kind}_refused_{error.reason}", items)
                raise
        self.refusing = False
        self._counters.count(f"{kind}_accepted", items)
        return Receipt(rejected, _complaint(rejected) if rejected else "")

    def _keep(self, signal: Signal, payload: bytes, items: int, destinations: Sequence[Destination]) -> None:
        size = len(payload)
        open_to = [destination for destination in destinations if destination.has_room(size)]
        if not open_to:
            names = ", ".join(destination.name for destination in destinations)
            raise RefusedError(f"the queues of all destinations are full ({names}); come again", reason="queue_full")
        entry = self._journal.append(signal, payload, items, [destination.name for destination in open_to])
        for destination in open_to:
            destination.offer(entry)
        for destination in _without(destinations, open_to):
            destination.refuse(entry, "queue_full", _FULL_REMEDY)


def _without(all_of: Sequence[Destination], some: Iterable[Destination]) -> list[Destination]:
    taken = {destination.name for destination in some}
    return [destination for destination in all_of if destination.name not in taken]


def _checked(signal: Signal, payload: bytes) -> tuple[bytes, int, int]:
    """The payload without invalid spans, the number of items left in it, and of those left out."""
    if signal is Signal.LOGS:
        logs = _parse(ExportLogsServiceRequest, payload, signal)
        return payload, sum(len(s.log_records) for group in logs.resource_logs for s in group.scope_logs), 0
    request = _parse(ExportTraceServiceRequest, payload, signal)
    good = bad = 0
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            well = sum(map(_identified, scoped.spans))
            good += well
            bad += len(scoped.spans) - well
    if not bad:
        return payload, good, 0
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            kept = [span for span in scoped.spans if _identified(span)]
            if len(kept) < len(scoped.spans):
                copies = [type(span).FromString(span.SerializeToString()) for span in kept]
                del scoped.spans[:]
                scoped.spans.extend(copies)
    return request.SerializeToString(), good, bad


def _identified(span: Any) -> bool:
    trace_id, span_id = span.trace_id, span.span_id
    return len(trace_id) == 16 and len(span_id) == 8 and trace_id != _NO_TRACE and span_id != _NO_SPAN


def _parse(kind: Any, payload: bytes, signal: Signal) -> Any:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise PayloadError(f"{len(payload)} bytes are no OTLP {signal} export request: {error}") from None


def _complaint(rejected: int) -> str:
    return (
        f"{rejected} {'span was' if rejected == 1 else 'spans were'} left out: trace ids must have 16 bytes and span ids 8, "
        "not all zero"
    )

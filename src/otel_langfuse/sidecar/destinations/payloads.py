"""Export requests as protobuf: reading them, going through their items, and taking a range of items out.

An item is a span or a log record. Its position counts over the whole request, in the order of the bytes, so that a range
names the same items each time it is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.entry import Signal

__all__ = ["amount", "groups_of", "parse", "remove_items", "scopes_of", "take_items"]

_REQUESTS: dict[Signal, Any] = {Signal.TRACES: ExportTraceServiceRequest, Signal.LOGS: ExportLogsServiceRequest}
_GROUPS = {Signal.TRACES: "resource_spans", Signal.LOGS: "resource_logs"}
_SCOPES = {Signal.TRACES: "scope_spans", Signal.LOGS: "scope_logs"}
_ITEMS = {Signal.TRACES: "spans", Signal.LOGS: "log_records"}
_NOUNS = {Signal.TRACES: "span", Signal.LOGS: "log record"}


def amount(signal: Signal, items: int) -> str:
    """The number of items in words, for example ``3 spans``."""
    return f"{items} {_NOUNS[signal]}{'' if items == 1 else 's'}"


def parse(signal: Signal, payload: bytes) -> Any:
    """The request in ``payload``.

    Raises:
        PayloadError: It is no such request.
    """
    try:
        return _REQUESTS[signal].FromString(payload)
    except DecodeError:
        raise PayloadError(f"{len(payload)} bytes are no OTLP {signal} export request") from None


def groups_of(signal: Signal, request: Any) -> Any:
    """The request's groups, one for each resource."""
    return getattr(request, _GROUPS[signal])


def scopes_of(signal: Signal, request: Any) -> Iterator[tuple[Any, Any]]:
    """Each scope of the request with its items."""
    for group in groups_of(signal, request):
        for scoped in getattr(group, _SCOPES[signal]):
            yield scoped.scope, getattr(scoped, _ITEMS[signal])


def remove_items(signal: Signal, request: Any, unwanted: Callable[[Any], bool]) -> tuple[int, int]:
    """Removes items, and the scopes and resources that are left empty; returns how many stay and how many went."""
    stay = gone = 0
    groups = groups_of(signal, request)
    for g in range(len(groups) - 1, -1, -1):
        scopes = getattr(groups[g], _SCOPES[signal])
        for s in range(len(scopes) - 1, -1, -1):
            items = getattr(scopes[s], _ITEMS[signal])
            for i in [i for i in range(len(items) - 1, -1, -1) if unwanted(items[i])]:
                del items[i]
                gone += 1
            stay += len(items)
            if not items:
                del scopes[s]
        if not scopes:
            del groups[g]
    return stay, gone


def take_items(signal: Signal, payload: bytes, start: int, stop: int) -> bytes:
    """A request with the items from ``start`` to ``stop``, each under its own resource and scope.

    Raises:
        PayloadError: The payload is no such request.
    """
    request = parse(signal, payload)
    out = _REQUESTS[signal]()
    position = 0
    for group in groups_of(signal, request):
        target = None
        for scoped in getattr(group, _SCOPES[signal]):
            items = getattr(scoped, _ITEMS[signal])
            first, last = max(start - position, 0), min(stop - position, len(items))
            position += len(items)
            if first >= last:
                continue
            if target is None:
                target = groups_of(signal, out).add(schema_url=group.schema_url)
                target.resource.CopyFrom(group.resource)
            inner = getattr(target, _SCOPES[signal]).add(schema_url=scoped.schema_url)
            inner.scope.CopyFrom(scoped.scope)
            getattr(inner, _ITEMS[signal]).extend(items[first:last])
    return bytes(out.SerializeToString())

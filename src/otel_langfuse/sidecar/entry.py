"""What moves through the sidecar: one accepted export request, and the parts that hand it on.

An entry is accepted once and owed to each destination that its pipelines name. A destination settles its claim when
every item of the entry has been delivered, dropped with a reason, or is held elsewhere on disk; the journal forgets the
entry when no claim is left. Between acceptance and that moment the entry survives, as far as the journal does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from otel_langfuse.errors import OtelLangfuseError

__all__ = [
    "EXPORT_METHODS",
    "Destination",
    "EncodedRequest",
    "Entry",
    "Journal",
    "Receipt",
    "Recovered",
    "RefusedError",
    "Signal",
    "SpanKey",
]

SpanKey = tuple[bytes, bytes]
"""Trace id and span id."""


class Signal(StrEnum):
    """The OTLP signals that are taken."""

    TRACES = "traces"
    LOGS = "logs"


EXPORT_METHODS = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
"""OTLP over gRPC: the method that exports a signal."""


@dataclass(slots=True, eq=False)
class Entry:
    """One accepted export request: concatenable protobuf bytes of ``Export{Trace,Logs}ServiceRequest``.

    Attributes:
        id: Ascending over the life of a journal.
        signal: What it holds.
        items: Number of spans or log records in it.
        size: Bytes of its payload.
        received_at: Seconds since the epoch.
        payload: The bytes while they are held in memory; ask ``Journal.payload`` for them.
    """

    id: int
    signal: Signal
    items: int
    size: int
    received_at: float
    payload: bytes | None = field(default=None, repr=False)


class RefusedError(OtelLangfuseError):
    """New data cannot be taken now; the sender keeps it and comes again.

    Attributes:
        reason: A drop reason such as ``queue_full``, ``journal_full``, ``disk_full`` or ``shutdown``.
        retry_after: Seconds after which the sender should come again.
    """

    def __init__(self, message: str, *, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to an accepted request.

    Attributes:
        rejected: Items that were left out because they are invalid; goes into the partial success.
        message: Why; empty when nothing was rejected.
    """

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request to Langfuse that was journaled before its first send.

    Attributes:
        id: Names it in the journal.
        body: The bytes to send, compressed if ``compressed``.
        spans: Number of spans in it.
        attempted: Whether it may have been sent before.
    """

    id: int
    body: bytes = field(repr=False)
    compressed: bool
    spans: int
    attempted: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a journal held when it was opened.

    Attributes:
        entries: By destination, the entries still owed to it, oldest first, each with whether a send was begun.
        requests: By destination, the encoded requests that were not settled, oldest first.
        encoded: By destination and entry id, the spans that stand in journaled or delivered requests already.
        promises: By destination, the spans that were promised and have not come, each with its start in nanoseconds since
            the epoch, oldest promise first.
    """

    entries: Mapping[str, Sequence[tuple[Entry, bool]]] = field(default_factory=dict)
    requests: Mapping[str, Sequence[EncodedRequest]] = field(default_factory=dict)
    encoded: Mapping[str, Mapping[int, frozenset[SpanKey]]] = field(default_factory=dict)
    promises: Mapping[str, Sequence[tuple[SpanKey, int]]] = field(default_factory=dict)


class Journal(Protocol):
    """Keeps entries until every destination is done with them. All methods may be called from any thread.

    What says "durable" has been committed when the method returns (in memory: is held). The others are committed soon
    after, in order.
    """

    @property
    def durable(self) -> bool:
        """Whether entries survive the end of the process."""
        ...

    def append(self, signal: Signal, payload: bytes, items: int, owed: Sequence[str]) -> Entry:
        """Durable. Takes a request that is owed to the destinations named.

        Raises:
            RefusedError: The bound is reached, the disk is full or the journal cannot be written.
        """
        ...

    def payload(self, entry: Entry) -> bytes | None:
        """The entry's bytes; ``None`` if they are lost (a damaged file), which the journal has counted, or it is settled.

        Raises:
            RefusedError: They cannot be read now (``journal_failed``), or not any more in this process (``shutdown``). The
                entry stays: ask again later, and do not settle it for that.
        """
        ...

    def attempt(self, entries: Sequence[Entry], destination: str) -> None:
        """Durable. Notes that the entries' bytes are about to be sent for the first time."""
        ...

    def done(self, entry: Entry, destination: str) -> None:
        """Settles a destination's claim; the entry goes when it was the last one. Idempotent."""
        ...

    def put_request(
        self, destination: str, body: bytes, *, compressed: bool, spans: int, keys: Mapping[int, Sequence[SpanKey]]
    ) -> int:
        """Durable. Keeps an encoded request, and which spans of which entries (by entry id) stand in it; returns its id."""
        ...

    def replace_request(self, request_id: int, parts: Sequence[tuple[bytes, bool, int]]) -> Sequence[int]:
        """Durable. Puts ``(body, compressed, spans)`` parts in the place of a request that was split; returns their ids."""
        ...

    def attempt_request(self, request_id: int) -> None:
        """Durable. Notes that a request is about to be sent for the first time."""
        ...

    def request_done(self, request_id: int) -> None:
        """Forgets a request that was delivered or dropped; its spans stay in the ledger while their entry is owed."""
        ...

    def promise(self, destination: str, key: SpanKey, start_ns: int) -> None:
        """Remembers that a destination was told of a span that has not come; ``start_ns`` since the epoch. Idempotent."""
        ...

    def fulfil(self, destination: str, keys: Iterable[SpanKey]) -> None:
        """Forgets promises: the spans came, or are waited for no more. Idempotent."""
        ...

    def recover(self) -> Recovered:
        """What was held when the journal was opened; asked once, before anything is appended."""
        ...

    def status(self) -> dict[str, Any]:
        """``directory`` (or None), ``entries``, ``requests``, ``bytes``, ``oldest_seconds``, ``durable``."""
        ...

    def close(self) -> None:
        """Commits what is outstanding and lets go; later calls raise ``RefusedError`` (append) or do nothing."""
        ...


class Destination(Protocol):
    """Where entries go. ``offer`` never waits, and what happens to one destination never holds up another."""

    @property
    def name(self) -> str:
        """The exporter's id in the configuration, for example ``otlp_http/tempo``."""
        ...

    @property
    def signals(self) -> frozenset[Signal]:
        """What it takes."""
        ...

    def has_room(self, size: int) -> bool:
        """Whether an entry of ``size`` bytes fits into its queue."""
        ...

    def offer(self, entry: Entry, *, attempted: bool = False) -> None:
        """Queues an entry, which it settles with the journal later. ``attempted``: a send was begun before a crash."""
        ...

    def refuse(self, entry: Entry, reason: str, remedy: str) -> None:
        """Counts an entry that did not come here, as dropped for ``reason``."""
        ...

    def start(self) -> None:
        """Starts threads; before it, ``offer`` only queues."""
        ...

    def flush(self, timeout: float) -> bool:
        """Whether everything offered before is delivered or dropped within ``timeout`` seconds."""
        ...

    def shutdown(self, timeout: float) -> bool:
        """Drains for ``timeout`` seconds and stops. What is left stays in a durable journal, else it is dropped and counted."""
        ...

    def status(self) -> dict[str, Any]:
        """How it stands; no content, no secrets.

        ``queue_bytes``, ``queue_items`` (entries), ``oldest_seconds``, ``sent`` (items), ``dropped`` (items by reason),
        ``counters`` (all counts by name), ``last_error`` (``message``, ``at``) or None.
        """
        ...

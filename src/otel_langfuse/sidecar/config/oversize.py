"""Whether the largest request that a listener takes fits into what has to hold it."""

from __future__ import annotations

from collections.abc import Sequence

from otel_langfuse.sidecar.config.plan import LangfuseEnd, Listener, OtlpEnd
from otel_langfuse.sidecar.config.problems import Problems, Where
from otel_langfuse.sidecar.config.schema import MIB, DebugExporter, GrpcProtocol, JournalExtension

__all__ = ["warn_oversize"]


def warn_oversize(
    listeners: Sequence[Listener], ends: Sequence[LangfuseEnd | OtlpEnd], journal: JournalExtension, problems: Problems
) -> None:
    """Warns of requests that are taken by a listener and never by the journal, or by a queue behind it.

    Args:
        listeners: What receives.
        ends: What sends.
        journal: Holds all of it.
        problems: Takes the warnings, one for each bound that is too small.
    """
    for listener in listeners:
        where, size = _largest(listener)
        if size > journal.max_bytes:
            text = f"the journal holds {journal.max_bytes} bytes (extensions.journal.max_bytes); lower this, or raise that"
            problems.warn(where, f"{_never_fits(size)}: {text}")
    for end in ends:
        if isinstance(end.exporter, DebugExporter):
            continue
        ids = frozenset().union(*end.receivers.values())
        size = max((_largest(listener)[1] for listener in listeners if listener.receiver in ids), default=0)
        bound = end.exporter.sending_queue.queue_size
        if MIB <= bound < size:  # Less than that is warned of for itself.
            text = f"it would be dropped for {end.name}; raise this, or lower the largest message of its receivers"
            problems.warn(("exporters", end.name, "sending_queue", "queue_size"), f"{_never_fits(size)}: {text}")


def _largest(listener: Listener) -> tuple[Where, int]:
    """The key that bounds a listener's requests, and its bytes."""
    protocol = listener.protocol
    if isinstance(protocol, GrpcProtocol):
        return (
            "receivers",
            listener.receiver,
            "protocols",
            "grpc",
            "max_recv_msg_size_mib",
        ), protocol.max_recv_msg_size_mib * MIB
    return ("receivers", listener.receiver, "protocols", "http", "max_request_body_size"), protocol.max_request_body_size


def _never_fits(size: int) -> str:
    return f"a request of up to {size} bytes would never fit"

"""What a configuration comes to: the listeners, the ways through the sidecar, and their ends. Made by ``resolve``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from otel_langfuse.sidecar.config.schema import (
    Admin,
    DebugExporter,
    GrpcProtocol,
    HttpProtocol,
    JournalExtension,
    LangfuseExporter,
    LangfuseProcessor,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    Service,
)
from otel_langfuse.sidecar.entry import Signal

__all__ = ["LangfuseEnd", "Listener", "OtlpEnd", "Plan"]


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener of a receiver, with the token that its senders must show."""

    receiver: str
    protocol: GrpcProtocol | HttpProtocol
    token: str | None
    scheme: str
    signals: frozenset[Signal]
    """What any pipeline takes from it; the other signal is answered as unimplemented."""

    def __repr__(self) -> str:
        return f"Listener({self.receiver!r}, {self.protocol.endpoint!r})"


@dataclass(frozen=True, slots=True)
class LangfuseEnd:
    """A Langfuse project: its exporter behind its processor.

    Attributes:
        receivers: By signal, the receivers whose data it gets.
        values: With routing, the values of the routing attribute that lead here; ``None`` without routing.
        is_default: With routing, whether spans without a route come here.
        counts_unrouted: Whether this end counts spans that no route and no default takes (one end per processor does).
    """

    name: str
    exporter: LangfuseExporter
    processor: LangfuseProcessor
    receivers: Mapping[Signal, frozenset[str]]
    values: frozenset[str] | None = None
    is_default: bool = False
    counts_unrouted: bool = False

    @property
    def signals(self) -> frozenset[Signal]:
        """What comes here."""
        return frozenset(self.receivers)


@dataclass(frozen=True, slots=True)
class OtlpEnd:
    """An OTLP backend or the debug log."""

    name: str
    exporter: OtlpGrpcExporter | OtlpHttpExporter | DebugExporter
    receivers: Mapping[Signal, frozenset[str]]

    @property
    def signals(self) -> frozenset[Signal]:
        """What comes here."""
        return frozenset(self.receivers)


@dataclass(frozen=True, slots=True)
class Plan:
    """The resolved configuration."""

    listeners: tuple[Listener, ...]
    langfuse: tuple[LangfuseEnd, ...]
    otlp: tuple[OtlpEnd, ...]
    admin: Admin | None
    journal: JournalExtension
    service: Service
    warnings: tuple[str, ...] = ()
    """What deserves a word at start, one line each; whoever runs the plan logs them."""

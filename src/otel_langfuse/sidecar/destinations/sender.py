"""What a destination needs of a way out: one attempt, and what became of it."""

from __future__ import annotations

from typing import Protocol

from otel_langfuse.sidecar.destinations.verdicts import Verdict
from otel_langfuse.sidecar.entry import Signal

__all__ = ["Sender"]


class Sender(Protocol):
    """Sends one request once. Called by several threads at a time."""

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        """Sends the bytes and says what the answer, or its absence within ``timeout`` seconds, means. Never raises."""
        ...

    def close(self) -> None:
        """Lets connections go; a later ``send`` opens new ones."""
        ...

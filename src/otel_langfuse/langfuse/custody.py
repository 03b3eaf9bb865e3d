"""Who answers for a request besides the queue: in the sidecar a journal, in process nobody.

A request is sealed once. From then on a custodian that is durable has its bytes, so that a crash resends exactly these
and maps nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from otel_langfuse.langfuse.request import Request
from otel_langfuse.langfuse.wire import EncodedSpan

__all__ = ["NOBODY", "Custodian"]


class Custodian(Protocol):
    """Told of every step of a request, before what it says happens. Called from any thread; must not raise."""

    @property
    def durable(self) -> bool:
        """Whether requests that are left at shutdown will be sent by a later process."""
        ...

    def sealed(self, request: Request, spans: Sequence[EncodedSpan]) -> None:
        """``request`` holds these spans from now on."""
        ...

    def sending(self, request: Request) -> None:
        """``request`` is about to be sent for the first time."""
        ...

    def split(self, request: Request, parts: Sequence[Request]) -> None:
        """``parts`` stand for ``request`` from now on."""
        ...

    def settled(self, request: Request) -> None:
        """``request`` was delivered, or dropped and counted."""
        ...

    def lost(self, spans: Sequence[EncodedSpan]) -> None:
        """Spans were dropped and counted before they were sealed."""
        ...


class _Nobody:
    """No custodian."""

    durable = False

    def sealed(self, request: Request, spans: Sequence[EncodedSpan]) -> None:
        """Nothing to note."""

    def sending(self, request: Request) -> None:
        """Nothing to note."""

    def split(self, request: Request, parts: Sequence[Request]) -> None:
        """Nothing to note."""

    def settled(self, request: Request) -> None:
        """Nothing to note."""

    def lost(self, spans: Sequence[EncodedSpan]) -> None:
        """Nothing to note."""


NOBODY: Custodian = _Nobody()

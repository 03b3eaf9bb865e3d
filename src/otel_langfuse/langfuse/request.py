"""A sealed request: the bytes that are sent, once or many times, and what counting needs.

Sealing assembles and compresses; after it the spans themselves are gone, so that a queue holds what the wire takes and
a resend cannot differ from the first send.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from otel_langfuse.langfuse.compression import compress, pack
from otel_langfuse.langfuse.wire import EncodedSpan, assemble

__all__ = ["Request", "seal", "unpack"]

_GZIP = 31  # zlib's window bits for a gzip header


@dataclass(slots=True, eq=False)
class Request:
    """Bytes for one POST.

    Attributes:
        body: What is sent, compressed if ``compressed``.
        spans: Number of spans in it.
        ticket: The batch that it comes from; parts of a split share it.
        attempts: Times that these bytes were sent.
        outcome_unknown: Whether the last attempt may have been stored although no success was seen.
        since: When these bytes first failed, on the delivery's clock.
        refused_since: When the batch was first refused for one of its spans; parts share it.
        not_before: Earliest time of the next attempt.
        id: Its name in a journal, ``None`` if no journal holds it.
    """

    body: bytes = field(repr=False)
    compressed: bool
    spans: int
    ticket: int = 0
    attempts: int = 0
    outcome_unknown: bool = False
    since: float | None = None
    refused_since: float | None = None
    not_before: float = 0.0
    id: int | None = None

    def part(self, payload: bytes, spans: int) -> Request:
        """A request of its own for ``payload``, with this one's ticket."""
        body = compress(payload) if self.compressed else payload
        return Request(body, self.compressed, spans, self.ticket, refused_since=self.refused_since)


def seal(spans: Sequence[EncodedSpan], *, compressed: bool, ticket: int = 0) -> Request:
    """Assembles and compresses ``spans``."""
    return Request(pack(spans) if compressed else assemble(spans), compressed, len(spans), ticket)


def unpack(request: Request) -> bytes:
    """The uncompressed payload."""
    return zlib.decompress(request.body, _GZIP) if request.compressed else request.body

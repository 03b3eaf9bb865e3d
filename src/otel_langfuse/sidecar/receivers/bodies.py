"""Bodies within bounds: how much of them is held at once, and what compressed ones become.

A body never expands beyond its limit: not even for a moment, and not over many small gzip members either.
"""

from __future__ import annotations

import zlib

from otel_langfuse.errors import PayloadError

__all__ = ["BODIES_AT_ONCE", "ENCODINGS", "Room", "TooLargeError", "expand"]

ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""The content encodings that are taken; the empty one means none."""

BODIES_AT_ONCE = 16
"""Bodies of the largest size that a listener may hold at the same time; smaller ones in proportion."""

_GZIP = 16 + zlib.MAX_WBITS
_SLICE = 64 * 1024
# A gzip file may have several members; senders that flush make a few. Each costs some work beyond its bytes.
_MEMBER_LIMIT = 1000


class TooLargeError(PayloadError):
    """A body is over its limit."""

    def __init__(self, limit: int, *, what: str = "the body") -> None:
        super().__init__(f"{what} is larger than {limit} bytes; send less in one request")


class Room:
    """Bytes of bodies that a listener holds, from their coming to the answer; used in its event loop only.

    Args:
        largest: Bytes of the largest body that is taken.
    """

    def __init__(self, largest: int) -> None:
        self._limit = largest * BODIES_AT_ONCE
        self._held = 0

    def hold(self, size: int) -> bool:
        """Counts bytes that are held now; whether that is within the bound."""
        self._held += size
        return self._held <= self._limit

    def release(self, size: int) -> None:
        """Counts bytes that are held no more."""
        self._held -= size


def expand(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before compression.

    Args:
        body: What came.
        encoding: One of ``ENCODINGS``.
        limit: Bytes that it may have afterwards.

    Raises:
        TooLargeError: It has more.
        PayloadError: It is cut off or no such compression.
    """
    if encoding in ("", "identity"):
        if len(body) > limit:
            raise TooLargeError(limit)
        return body
    try:
        return _expand(body, zlib.MAX_WBITS if encoding == "deflate" else _GZIP, limit)
    except zlib.error:
        raise PayloadError(f"the body is said to be {encoding} and is not, or is damaged") from None


def _expand(body: bytes, window: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window)
    parts: list[bytes] = []
    size = 0
    members = 1
    # In slices, because what a finished member leaves over is copied each time.
    for start in range(0, len(body), _SLICE):
        rest = body[start : start + _SLICE]
        while rest:
            if stream.eof:
                members += 1
                if window != _GZIP or members > _MEMBER_LIMIT:
                    raise PayloadError("bytes follow the end of the compressed body, or it has too many gzip members")
                stream = zlib.decompressobj(window)
            part = stream.decompress(rest, limit + 1 - size)
            size += len(part)
            if size > limit:
                raise TooLargeError(limit, what="the decompressed body")
            parts.append(part)
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        raise PayloadError("the compressed body is cut off")
    return b"".join(parts)

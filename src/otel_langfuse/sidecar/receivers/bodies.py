"""Bodies within bounds: how much of them is held at once, and what compressed ones become.

A body never expands beyond its limit: not even for a moment, and not over many small gzip members
or zstd frames either.
"""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from otel_langfuse.errors import PayloadError
from otel_langfuse.langfuse.compression import library

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["BODIES_AT_ONCE", "ENCODINGS", "Room", "TooLargeError", "Workspace", "expand"]

ENCODINGS = ("gzip", "zstd", "deflate", "identity")
"""The compressions that are taken, as HTTP and gRPC name them."""

BODIES_AT_ONCE = 16
"""Bodies of the largest size that a listener may hold at the same time; smaller ones in proportion."""

_GZIP = 16 + zlib.MAX_WBITS
_SLICE = 64 * 1024
# A gzip file may have several members, zstd frames; senders that flush make a few. Each costs some work beyond its bytes.
_MEMBER_LIMIT = 1000
# Of the window of zstd, in powers of two: what every decoder should have (RFC 8878, section 3.1.1.1.2), and what any can.
_LEAST_WINDOW, _MOST_WINDOW = 23, 30


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


class Workspace:
    """Bytes that bodies may have after decompression, in all of a listener's threads; who finds too few waits for others.

    What a body becomes is known afterwards, so that each begins with the largest.

    Args:
        largest: Bytes of the largest body that is taken.
    """

    def __init__(self, largest: int) -> None:
        self._free = largest * BODIES_AT_ONCE
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Waits until so many bytes are free, and holds them."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size

    def give(self, size: int) -> None:
        """Gives back bytes that are not held any more."""
        with self._changed:
            self._free += size
            self._changed.notify_all()


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
    if encoding == "identity":
        if len(body) > limit:
            raise TooLargeError(limit)
        return body
    try:
        if encoding == "zstd":
            return _expand(body, partial(_zstd, limit), limit)
        if encoding == "deflate":
            return _expand(body, library().decompressobj, limit, members=1)
        return _expand(body, partial(library().decompressobj, _GZIP), limit)
    except (zlib.error, library().error, zstd.ZstdError):
        raise PayloadError(f"the body is said to be {encoding} and is not, or is damaged") from None


class _Stream(Protocol):
    """A decompressor of one member."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _zstd(limit: int) -> zstd.ZstdDecompressor:
    """A decompressor whose memory is bounded by the body's limit, and by what every decoder should have."""
    window = min(max((limit - 1).bit_length(), _LEAST_WINDOW), _MOST_WINDOW)
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})


def _expand(body: bytes, begin: Callable[[], _Stream], limit: int, members: int = _MEMBER_LIMIT) -> bytes:
    stream = begin()
    parts: list[bytes] = []
    size = 0
    # In slices, because what a finished member leaves over is copied each time.
    for start in range(0, len(body), _SLICE):
        rest = body[start : start + _SLICE]
        while rest:
            if stream.eof:
                members -= 1
                if not members:
                    raise PayloadError("bytes follow the end of the compressed body, or it has too many members")
                stream = begin()
            part = stream.decompress(rest, limit + 1 - size)
            size += len(part)
            if size > limit:
                raise TooLargeError(limit, what="the decompressed body")
            parts.append(part)
            rest = stream.unused_data if stream.eof else b""  # all was read: less came out than might have
    if not stream.eof:
        raise PayloadError("the compressed body is cut off")
    return b"".join(parts)

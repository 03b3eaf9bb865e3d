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

_DAMAGED = "the body is said to be {} and is not, or is damaged"
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
    """Bytes that expanded bodies take in all of a listener's threads; who finds too few waits for others.

    What a body becomes is known afterwards, so that each begins with the largest, twice: in parts and whole.

    Args:
        largest: Bytes of the largest body that is taken.
    """

    def __init__(self, largest: int) -> None:
        self._share = largest * 2
        self._free = largest * BODIES_AT_ONCE
        self._changed = threading.Condition()

    def take(self) -> int:
        """Waits until there is room to expand a body, and holds its bytes; how many these are."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= self._share)
            self._free -= self._share
        return self._share

    def give(self, size: int) -> None:
        """Gives back bytes that are not held any more, at the most those of one body."""
        with self._changed:
            self._free += size
            self._changed.notify()  # all wait for the same size, and no more than that comes back at once


def expand(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before compression.

    Args:
        body: What came.
        encoding: One of ``ENCODINGS``.
        limit: Bytes that it may have afterwards.

    Raises:
        TooLargeError: It has more.
        PayloadError: It is cut off or no such compression, or needs a window that is too large.
        MemoryError: There is not enough for it.
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
    except zstd.ZstdError as error:
        raise _meaning(error, body, limit) from None
    except (zlib.error, library().error):
        raise PayloadError(_DAMAGED.format(encoding)) from None


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


def _meaning(error: zstd.ZstdError, body: bytes, limit: int) -> Exception:
    """What zstd's words stand for; it has one error for all."""
    words = f"{error}"
    if "not enough memory" in words:
        return MemoryError("for the window of a zstd frame")
    if "too much memory" not in words:
        return PayloadError(_DAMAGED.format("zstd"))
    if (zstd.get_frame_info(body).decompressed_size or 0) > limit:
        return TooLargeError(limit, what="the decompressed body")
    return PayloadError("the body's zstd window is larger than a body may be here; compress it at a lower level")


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
    del stream  # with its window, before the parts are there twice
    return b"".join(parts)

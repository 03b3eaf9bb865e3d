"""Header blocks (RFC 9113, section 4.3; RFC 7541): written without a table, read with the connection's.

Blocks are sent as literals outside of the compression's table: no secret enters it, and a block can be used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hpack import Decoder, HPACKError

from otel_langfuse.sidecar.http2.frames import END_HEADERS, END_STREAM, PRIORITY, ErrorCode, Kind, ViolationError, unpadded

__all__ = ["NO_TABLE", "HeaderBlock", "HeaderBlocks", "header_block"]

NO_TABLE = b"\x20"
"""At the beginning of a header block: the compression's table, which is not used, has no size."""
_HEADERS, _CONTINUATION = int(Kind.HEADERS), int(Kind.CONTINUATION)
_PRIORITY_BYTES = 5


@dataclass(frozen=True, slots=True)
class HeaderBlock:
    """A block that has come.

    Attributes:
        stream: Its stream's number.
        fields: Names and values; of those that come twice the last one.
        ended: Whether nothing comes after it on its stream.
        size: Bytes that it had.
    """

    stream: int
    fields: Mapping[bytes, bytes] = field(repr=False)
    ended: bool
    size: int


class HeaderBlocks:
    """Those that the other end of a connection sends.

    Args:
        limit: Bytes of a block at most, as it comes and as what it says.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._decoder = Decoder(max_header_list_size=limit)
        self._begun: tuple[int, int, bytearray] | None = None  # stream, flags, and fragments so far

    @property
    def halfway(self) -> bool:
        """Whether a block goes on with the next frame."""
        return self._begun is not None

    def expect(self, kind: int) -> None:
        """Checks that a frame of this kind may come now.

        Raises:
            ViolationError: A block goes on, and this is no part of it.
        """
        if self._begun is not None and kind != _CONTINUATION:
            raise ViolationError(ErrorCode.PROTOCOL, "a header block was interrupted")

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> HeaderBlock | None:
        """Reads a frame that begins a block, or goes on with one; the block if it is whole.

        Raises:
            ViolationError: It is none that may come now, or the block is too large or cannot be read.
        """
        if kind == _HEADERS:
            fragment = unpadded(payload, flags)[_PRIORITY_BYTES if flags & PRIORITY else 0 :]
            self._begun = (stream, flags, bytearray(fragment))
        elif self._begun is None or self._begun[0] != stream:
            raise ViolationError(ErrorCode.PROTOCOL, "a header block without beginning")
        elif not payload and not flags & END_HEADERS:
            raise ViolationError(ErrorCode.CALM, "a header block goes on with nothing")
        else:
            self._begun[2].extend(payload)
        _, begun, block = self._begun
        if len(block) > self._limit:
            raise ViolationError(ErrorCode.CALM, "the header fields are too large")
        if not flags & END_HEADERS:
            return None
        self._begun = None
        try:
            # Of streams that nobody cares about, too: the table is the connection's.
            fields = {bytes(name): bytes(value) for name, value in self._decoder.decode(bytes(block), raw=True)}
        except HPACKError:
            raise ViolationError(ErrorCode.COMPRESSION, "the header fields cannot be read") from None
        return HeaderBlock(stream, fields, bool(begun & END_STREAM), len(block))


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Fields as literals that are never indexed (RFC 7541, 6.2.3), without Huffman's code."""
    out = bytearray()
    for name, value in fields:
        out.append(0x10)
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            out += _length(len(text)) + text
    return bytes(out)


def _length(size: int) -> bytes:
    """A number with a prefix of seven bits."""
    if size < 127:
        return bytes((size,))
    out, size = bytearray((127,)), size - 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)

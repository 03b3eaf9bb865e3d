"""HTTP/2's wire: frames, and how a request or a connection can fail."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "HEAD",
    "HIGHEST",
    "OUR_FRAME",
    "OUR_HEADERS",
    "PADDED",
    "PREFACE",
    "PRIORITY",
    "BrokenError",
    "ErrorCode",
    "Kind",
    "Reply",
    "ResetError",
    "Setting",
    "UnprocessedError",
    "ViolationError",
    "frame",
    "head",
    "unpadded",
]


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RESET = 3
    SETTINGS = 4
    PUSH = 5
    PING = 6
    GOAWAY = 7
    WINDOW = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """Settings that matter here."""

    PUSH = 2
    STREAMS = 3
    INITIAL_WINDOW = 4
    MAX_FRAME = 5
    MAX_HEADERS = 6


END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HIGHEST = (1 << 31) - 1
"""Of streams' numbers and of windows."""
OUR_FRAME = 16_384
"""Bytes at most of a frame that is taken."""
OUR_HEADERS = 64 * 1024
"""Bytes at most of a header block that is taken."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first."""
HEAD = struct.Struct(">HBBBI")
"""A frame's head: 24 bits of length as 16 and 8, type, flags, stream."""


class ErrorCode:
    """Error codes (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL = 1
    FLOW_CONTROL = 3
    CLOSED = 5
    SIZE = 6
    REFUSED = 7
    CANCEL = 8
    COMPRESSION = 9
    CALM = 11


class UnprocessedError(Exception):
    """The server says that it did nothing with the request, or cannot have."""


class BrokenError(Exception):
    """The connection ended, or can be used no more, while the request was under way: an unknown outcome."""


class ViolationError(Exception):
    """The other end did what it may not: the connection cannot go on.

    Attributes:
        code: Of ``ErrorCode``.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ResetError(Exception):
    """The server ended the request's stream.

    Attributes:
        code: HTTP/2's error code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"received RST_STREAM with error code {code}")
        self.code = code


@dataclass(slots=True)
class Reply:
    """An answer.

    Attributes:
        headers: The first block.
        trailers: The last block; empty if the answer was only one.
        body: Its first bytes.
    """

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    trailers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytearray = field(default_factory=bytearray, repr=False)


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def head(size: int, kind: Kind, flags: int, stream: int) -> bytes:
    """The head of a frame with ``size`` bytes after it."""
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def unpadded(payload: bytes, flags: int) -> bytes:
    """A payload without its padding.

    Raises:
        ViolationError: There is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ViolationError(ErrorCode.PROTOCOL, "a frame's padding is too long")
    return payload[1 : len(payload) - payload[0]]

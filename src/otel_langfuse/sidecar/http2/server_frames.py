"""What a client sends, cut into what it means: requests' header fields, parts of bodies, settings, numbers.

Bodies are handed on as they come, never waiting for the end of a frame; what else there is, is small and read whole.
Sections named here are those of RFC 9113.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from otel_langfuse.sidecar.http2.frames import (
    ACK,
    END_STREAM,
    HEAD,
    HIGHEST,
    PADDED,
    PREFACE,
    ErrorCode,
    Kind,
    ViolationError,
)
from otel_langfuse.sidecar.http2.header_blocks import HeaderBlocks

__all__ = ["MAX_BLOCK", "MAX_FRAME", "FrameReader", "Meaning"]

MAX_FRAME = 1 << 20
"""Bytes of a frame that a client may send: those that can do so put a request into few, each of which costs something."""

MAX_BLOCK = 16 * 1024
"""Bytes of a request's header block."""

_TURN = 512  # of work at a time: a frame is one, a header block one more for each 64 bytes
# Enumerations are slow to ask.
_DATA, _HEADERS, _CONTINUATION = int(Kind.DATA), int(Kind.HEADERS), int(Kind.CONTINUATION)
_SETTINGS, _PING, _PUSH = int(Kind.SETTINGS), int(Kind.PING), int(Kind.PUSH)
_NUMBERS = frozenset({int(Kind.RESET), int(Kind.WINDOW)})
_SIZES = {_PING: 8, int(Kind.PRIORITY): 5} | dict.fromkeys(_NUMBERS, 4)
_READ_WHOLE = _NUMBERS | {_HEADERS, _CONTINUATION, _SETTINGS, _PING}
_OF_STREAMS = frozenset({_DATA, _HEADERS, _CONTINUATION, int(Kind.PRIORITY), int(Kind.RESET)})
_OF_CONNECTIONS = frozenset({_SETTINGS, _PING, int(Kind.GOAWAY)})


class Meaning(Protocol):
    """What is done with what the frames say; each may raise a ``ViolationError``."""

    def on_fields(self, number: int, fields: Mapping[bytes, bytes], *, ended: bool) -> None:
        """A stream's header fields, or those after its body."""

    def on_body(self, number: int, size: int) -> None:
        """A frame of a body begins; ``size`` is what counts against the windows."""

    def on_part(self, number: int, part: memoryview) -> None:
        """A part of that frame; the view is good during the call only."""

    def on_end(self, number: int) -> None:
        """The stream's last frame has ended."""

    def on_settings(self, payload: bytes) -> None:
        """The client's settings."""

    def on_ping(self, payload: bytes) -> None:
        """The client wants the payload back."""

    def on_number(self, kind: int, number: int, value: int) -> None:
        """A stream's reset, with its code; or a window, with what it grows by."""


class FrameReader:
    """Reads one connection.

    Args:
        meaning: Gets what was read, while ``take`` runs.

    Attributes:
        greeted: Whether the client has said that it speaks HTTP/2.
        behind: Whether what came has not all been read, because many small frames are much work: ``take`` goes on,
            without new bytes, when others had their turn.
        progress: A number that grows with each frame that is not of a header block which goes on.
    """

    def __init__(self, meaning: Meaning) -> None:
        self.greeted = False
        self.behind = False
        self.progress = 0
        self._work = 0
        self._meaning = meaning
        self._blocks = HeaderBlocks(MAX_BLOCK)
        self._rest = b""  # of what came: less than a frame
        # The body's frame that is being read: bytes of it to come, padding after them, its stream, whether that ends.
        self._left = self._padding = self._stream = 0
        self._ending = False

    def take(self, data: memoryview) -> None:
        """Reads what came.

        Raises:
            ViolationError: It is nothing that a client may send. The connection is to be ended.
        """
        if self._rest:
            data = memoryview(self._rest + data)
            self._rest = b""
        at, size = 0, len(data)
        self._work, self.behind = 0, False
        if not self.greeted:
            if not PREFACE.startswith(bytes(data[: len(PREFACE)])):
                raise ViolationError(ErrorCode.PROTOCOL, "it does not begin as HTTP/2 does")
            if size < len(PREFACE):
                self._rest = bytes(data)
                return
            self.greeted, at = True, len(PREFACE)
        while at < size:
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                self._meaning.on_part(self._stream, part)
            elif self._padding:
                passed = min(self._padding, size - at)
                at += passed
                self._padding -= passed
            else:
                self.behind = self._work >= _TURN
                length = 0 if self.behind else self._begin(data, at, size)
                if not length:
                    self._rest = bytes(data[at:])
                    return
                at += length
                self._work += 1
                self.progress += not self._blocks.halfway
            if self._ending and not self._left and not self._padding:
                self._ending = False
                self._meaning.on_end(self._stream)

    @property
    def halfway(self) -> bool:
        """Whether bytes are held that are not a frame, or a header block, yet."""
        return bool(self._rest) or self._blocks.halfway

    def _begin(self, data: memoryview, at: int, end: int) -> int:
        """Begins the frame at ``at``; the length of what was read, 0 if more has to come first."""
        start = at + HEAD.size
        if start > end:
            return 0
        high, low, kind, flags, number = HEAD.unpack_from(data, at)
        size: int = high << 8 | low
        number &= HIGHEST
        self._blocks.expect(kind)
        if size > (MAX_BLOCK if kind in _READ_WHOLE else MAX_FRAME):
            raise ViolationError(ErrorCode.SIZE, "a frame is too large")
        if kind in (_OF_CONNECTIONS if number else _OF_STREAMS):
            raise ViolationError(ErrorCode.PROTOCOL, "a frame of the connection names a stream, or one of a stream none")
        if size != _SIZES.get(kind, size):
            raise ViolationError(ErrorCode.SIZE, "a frame has the wrong size")
        if kind == _DATA:
            return self._begin_body(data, start, end, size, flags, number)
        if kind not in _READ_WHOLE:  # priorities, and what extensions may add (section 5.5)
            if kind == _PUSH:
                raise ViolationError(ErrorCode.PROTOCOL, "a client cannot push")
            self._padding = size
            return HEAD.size
        if end - start < size:
            return 0
        self._whole(kind, flags, number, bytes(data[start : start + size]))
        return HEAD.size + size

    def _begin_body(self, data: memoryview, start: int, end: int, size: int, flags: int, number: int) -> int:
        left, padding, length = size, 0, HEAD.size
        if flags & PADDED and size:
            if start == end:
                return 0
            padding, length = data[start], HEAD.size + 1
            left -= padding + 1
        if left < 0 or (flags & PADDED and not size):
            raise ViolationError(ErrorCode.PROTOCOL, "a frame's padding is too long")
        self._meaning.on_body(number, size)
        self._stream, self._left, self._padding, self._ending = number, left, padding, bool(flags & END_STREAM)
        return length

    def _whole(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind in (_HEADERS, _CONTINUATION):
            block = self._blocks.take(kind, flags, number, payload)
            if block is not None:
                self._work += block.size // 64
                self._meaning.on_fields(number, block.fields, ended=block.ended)
                self._stream, self._ending = number, block.ended
        elif kind == _SETTINGS:
            if len(payload) % 6 or (flags & ACK and payload):
                raise ViolationError(ErrorCode.SIZE, "settings have the wrong form")
            if not flags & ACK:
                self._meaning.on_settings(payload)
        elif kind == _PING:
            if not flags & ACK:
                self._meaning.on_ping(payload)
        else:
            self._meaning.on_number(kind, number, int.from_bytes(payload, "big"))

"""What a server has said on a connection: its settings and windows, the answer so far, and what is owed in return.

Only bytes come in and go out here; ``client.py`` has the socket. What the server sends is bounded: a frame by the
protocol, a header block and the kept part of a body here.
"""

from __future__ import annotations

import struct

from otel_langfuse.sidecar.http2.frames import (
    ACK,
    END_STREAM,
    HEAD,
    HIGHEST,
    OUR_FRAME,
    OUR_HEADERS,
    BrokenError,
    ErrorCode,
    Kind,
    Reply,
    Setting,
    ViolationError,
    frame,
    unpadded,
)
from otel_langfuse.sidecar.http2.header_blocks import HeaderBlock, HeaderBlocks

__all__ = ["State"]

_WINDOW_SIZE = 65_535  # bytes, in both directions until somebody says otherwise
# Enumerations are slow to ask, and frames of these kinds are many.
_DATA, _WINDOW, _CONTINUATION = int(Kind.DATA), int(Kind.WINDOW), int(Kind.CONTINUATION)
_HEADERS = frozenset({int(Kind.HEADERS), _CONTINUATION})
_CONTROL = {_WINDOW: 4, int(Kind.RESET): 4, int(Kind.PING): 8, int(Kind.GOAWAY): 8}
"""Frames of a fixed form, with their least size."""


class State:
    """A connection as its server's frames have made it.

    Args:
        keep: Bytes of an answer's body that are kept.

    Attributes:
        stream: The request's stream; 0 if there is none.
        reply: Its answer so far.
        ended: Whether nothing more comes of it.
        reset: The code with which the server ended it.
        last: The last stream that a server which goes away took on.
        settled: Whether its settings have come.
        frame_size: Bytes at most of a frame that it takes.
        owed: Frames to send with the next write.
    """

    def __init__(self, keep: int) -> None:
        self.stream = 0
        self.reply = Reply()
        self.ended = True
        self.reset: int | None = None
        self.last: int | None = None
        self.settled = False
        self.frame_size = 16_384
        self.owed = bytearray()
        self._keep = keep
        self._blocks = HeaderBlocks(OUR_HEADERS)
        self._received = bytearray()
        self._window = self._stream_window = self._stream_start = _WINDOW_SIZE
        self._unacknowledged = 0

    def begin(self, stream: int) -> None:
        """A request begins."""
        self.stream, self.reply, self.ended, self.reset = stream, Reply(), False, None
        self._stream_window = self._stream_start

    def room(self) -> int:
        """Bytes of the request's body that the server takes now."""
        return max(min(self._window, self._stream_window), 0)

    def worth(self) -> int:
        """Bytes of room that are worth a write of their own, if there is more to send."""
        return self._stream_start // 2

    def sent(self, size: int) -> None:
        """So many bytes of it were sent."""
        self._window -= size
        self._stream_window -= size

    def leaving(self) -> bool:
        """Whether the server goes away."""
        return self.last is not None

    def take(self, data: bytes) -> None:
        """Reads what came.

        Raises:
            BrokenError: It is the end, or nothing that a server may send.
        """
        if not data:
            raise BrokenError("Socket closed")
        received = self._received
        received += data
        if not self.settled and received.startswith((b"\x15\x03", b"\x16\x03")):
            raise BrokenError("Socket closed: it speaks TLS")
        at = 0
        while len(received) - at >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(received, at)
            size, start = high << 8 | low, at + HEAD.size
            if not self.settled and kind != Kind.SETTINGS:
                raise BrokenError("GOAWAY came at once" if kind == Kind.GOAWAY else "what came is not HTTP/2")
            if size > OUR_FRAME:
                raise BrokenError("Transport closed: a frame is too large")
            if len(received) - start < size:
                break
            at = start + size
            try:
                self._on_frame(kind, flags, stream & HIGHEST, bytes(received[start:at]))
            except ViolationError as error:
                raise BrokenError(f"Transport closed: {error}") from None
        del received[:at]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._blocks.expect(kind)
        if kind in _CONTROL:
            if len(payload) < _CONTROL[kind]:
                raise ViolationError(ErrorCode.SIZE, "a frame is too short")
            self._on_control(kind, flags, stream, payload)
        elif kind == _DATA:
            self._on_data(flags, stream, payload)
        elif kind in _HEADERS:
            block = self._blocks.take(kind, flags, stream, payload)
            if block is not None and block.stream == self.stream and not self.ended:
                self._on_fields(block)
        elif kind == Kind.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == Kind.PUSH:
            raise ViolationError(ErrorCode.PROTOCOL, "a push that nobody asked for")

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        number = int.from_bytes(payload[:4], "big")
        if kind == _WINDOW:
            if stream == 0:
                self._window += number & HIGHEST
            elif stream == self.stream:
                self._stream_window += number & HIGHEST
            if max(self._window, self._stream_window) > HIGHEST:
                raise ViolationError(ErrorCode.FLOW_CONTROL, "a window is too large")
        elif kind == Kind.PING and not flags & ACK:
            self._owe(frame(Kind.PING, ACK, 0, payload))
        elif kind == Kind.RESET and stream == self.stream and not self.ended:
            self.reset, self.ended = number, True
        elif kind == Kind.GOAWAY:
            self.last = number & HIGHEST
            if self.stream > self.last:
                self.ended = True

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise ViolationError(ErrorCode.SIZE, "settings are cut off")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == Setting.INITIAL_WINDOW and value <= HIGHEST:
                self._stream_window += value - self._stream_start
                self._stream_start = value
            elif key == Setting.MAX_FRAME and 16_384 <= value < 1 << 24:
                self.frame_size = value
        self.settled = True
        self._owe(frame(Kind.SETTINGS, ACK, 0))

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        ours = stream == self.stream and not self.ended
        self._unacknowledged += len(payload)
        if self._unacknowledged >= _WINDOW_SIZE // 2:
            more = self._unacknowledged.to_bytes(4, "big")
            self._unacknowledged = 0
            self._owe(frame(Kind.WINDOW, 0, 0, more))
            if ours and not flags & END_STREAM:
                self._owe(frame(Kind.WINDOW, 0, stream, more))
        if not ours:
            return
        body = unpadded(payload, flags)
        room = self._keep - len(self.reply.body)
        self.reply.body += body[:room]
        self.ended = bool(flags & END_STREAM)

    def _on_fields(self, block: HeaderBlock) -> None:
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in block.fields.items()}
        if fields.get(":status", "").startswith("1"):
            return
        if self.reply.headers:
            self.reply.trailers = fields
        else:
            self.reply.headers = fields
        self.ended = block.ended

    def _owe(self, data: bytes) -> None:
        self.owed += data
        if len(self.owed) > OUR_HEADERS:
            raise ViolationError(ErrorCode.CALM, "it asks for too many acknowledgements")

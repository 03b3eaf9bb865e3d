"""What a client wants on a connection, and what it is told: HTTP/2 as far as a server of short calls needs it.

Only bytes come in and go out here; whoever has the socket gives ``take`` what came and sends what is in ``out``.

Rules:

- What a client may make the server hold is bounded: a header block by ``header_blocks``, bodies by the room that the
  application gives each stream, answers by the number of streams. The socket's owner stops reading while the client does
  not read.
- Our header blocks are literals outside of the compression's table.

Sections named here are those of RFC 9113.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from otel_langfuse.sidecar.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HIGHEST,
    ErrorCode,
    Kind,
    Setting,
    ViolationError,
    frame,
)
from otel_langfuse.sidecar.http2.header_blocks import NO_TABLE
from otel_langfuse.sidecar.http2.server_frames import MAX_BLOCK, MAX_FRAME, FrameReader

__all__ = ["CONNECTION_ROOM", "STREAM_ROOM", "Application", "Server", "Stream"]

STREAM_ROOM = 1 << 20
"""Bytes that a client may send on a new stream before the application gives it more room."""
CONNECTION_ROOM = 1 << 24
"""Bytes that may be under way on all streams of a connection."""

_ROOM_AT_FIRST = 65_535
_LEAST_FRAME = 16_384


class Stream:
    """One request of a client. Applications keep what they know of it in a class of their own.

    Attributes:
        number: The stream's.
        complete: Whether the client has sent all of it.
        room: Bytes that the client may send.
        window: Bytes that may be sent to the client, beyond what its settings say.
        answer: Header fields, body and trailers that the client has no room for yet.
    """

    __slots__ = ("answer", "complete", "number", "room", "window")

    def __init__(self, number: int) -> None:
        self.number = number
        self.complete = False
        self.room = STREAM_ROOM
        self.window = 0
        self.answer: tuple[bytes, bytes, bytes] | None = None


S = TypeVar("S", bound=Stream)


class Application(Protocol[S]):
    """What is done with requests; called while ``Server.take`` runs."""

    def make(self, number: int) -> S:
        """A stream that begins."""

    def begun(self, stream: S, fields: Mapping[bytes, bytes]) -> None:
        """Its header fields have come."""

    def received(self, stream: S, data: memoryview) -> None:
        """A part of its body has come; the view is only good during the call."""

    def completed(self, stream: S) -> None:
        """All of it has come."""

    def abandoned(self, stream: S) -> None:
        """The client has given it up."""

    def pinged(self) -> None:
        """The client wants to know whether we are there; it has its answer."""


class Server(Generic[S]):
    """One connection of a client.

    Args:
        application: Gets the requests.
        streams: How many may be open at once. Further ones are refused, which tells a client to try them again.

    Attributes:
        out: Bytes to send; ``pending`` takes them.
        reader: What reads the client's frames.
        open: By number, the streams whose answer has not been sent.
    """

    def __init__(self, application: Application[S], *, streams: int) -> None:
        settings = {
            Setting.STREAMS: streams,
            Setting.INITIAL_WINDOW: STREAM_ROOM,
            Setting.MAX_FRAME: MAX_FRAME,
            Setting.MAX_HEADERS: MAX_BLOCK,
        }
        self.open: dict[int, S] = {}
        self.out = bytearray(frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings.items())))
        self._application = application
        self._limit = streams
        self.reader = FrameReader(self)
        self._last = 0  # the last stream that was begun
        self._leaving = False
        self._room = CONNECTION_ROOM
        self._grant(0, CONNECTION_ROOM - _ROOM_AT_FIRST)
        self._window = self._window_of_streams = _ROOM_AT_FIRST
        self._waiting: dict[int, S] = {}  # streams with an answer that the client has no room for
        self._no_table = NO_TABLE

    def take(self, data: memoryview) -> None:
        """Reads what came, and tells the application.

        Raises:
            ViolationError: It is nothing that a client may send. The connection is to be ended.
        """
        self.reader.take(data)

    # ------------------------------------------------------------------------------------------- to the client

    def pending(self) -> bytearray:
        """What is to be sent now."""
        out, self.out = self.out, bytearray()
        return out

    def answer(self, stream: S, block: bytes, body: bytes = b"", trailers: bytes = b"") -> None:
        """Answers a request, whether or not all of it has come; waits until the client has room for the body.

        Args:
            stream: Nothing happens if it is open no more, or has its answer.
            block: Header fields, from ``header_blocks``; the whole answer if there are no trailers.
            body: Less than 16 KiB.
            trailers: Header fields.
        """
        if stream.number in self.open and stream.answer is None:
            stream.answer = (block, body, trailers)
            if not self._sent(stream):
                self._waiting[stream.number] = stream

    def reset(self, stream: S, code: int) -> None:
        """Ends a request without an answer."""
        if self._forgotten(stream.number) is not None:
            self._reset(stream.number, code)

    def expect(self, stream: S, size: int) -> None:
        """Gives the client room to send ``size`` bytes more."""
        if size > stream.room:
            self._grant(stream.number, size - stream.room)
            stream.room = size

    def ping(self) -> None:
        """Asks whether the client is there; any bytes are an answer."""
        self.out += frame(Kind.PING, 0, 0, bytes(8))

    def leave(self, code: int = ErrorCode.NO_ERROR, words: str = "") -> None:
        """Tells the client to send new requests elsewhere; those that are open go on. Said again only with an error."""
        if not self._leaving or code:
            self._leaving = True
            self.out += frame(Kind.GOAWAY, 0, 0, struct.pack(">II", self._last, code) + words.encode())

    def _sent(self, stream: S) -> bool:
        """Sends a stream's answer, if the client has room for it."""
        assert stream.answer is not None
        block, body, trailers = stream.answer
        if len(body) > min(self._window, self._window_of_streams + stream.window):
            return False
        out, number = self.out, stream.number
        del self.open[number]
        if self._no_table:
            block, self._no_table = self._no_table + block, b""
        if trailers:
            self._window -= len(body)
            out += frame(Kind.HEADERS, END_HEADERS, number, block)
            out += frame(Kind.DATA, 0, number, body)
            out += frame(Kind.HEADERS, END_HEADERS | END_STREAM, number, trailers)
        else:
            out += frame(Kind.HEADERS, END_HEADERS | END_STREAM, number, block)
        if not stream.complete:  # the rest of the request is not wanted (section 8.1)
            self._reset(number, ErrorCode.NO_ERROR)
        return True

    def _send_waiting(self) -> None:
        if self._waiting and self._window > 0:
            for number in [number for number, stream in self._waiting.items() if self._sent(stream)]:
                del self._waiting[number]

    def _forgotten(self, number: int) -> S | None:
        """Lets go of a stream; what it was, if it was open."""
        self._waiting.pop(number, None)
        return self.open.pop(number, None)

    def _reset(self, number: int, code: int) -> None:
        self.out += frame(Kind.RESET, 0, number, code.to_bytes(4, "big"))

    def _grant(self, number: int, size: int) -> None:
        self.out += frame(Kind.WINDOW, 0, number, size.to_bytes(4, "big"))

    # ----------------------------------------------------------------------------------------- from the client

    def on_fields(self, number: int, fields: Mapping[bytes, bytes], *, ended: bool) -> None:
        """A request begins, or its trailers come, which say nothing to us."""
        if number <= self._last:
            if not ended:
                raise ViolationError(ErrorCode.PROTOCOL, "trailers that end nothing")
            self._unended(number)
        elif not number & 1:
            raise ViolationError(ErrorCode.PROTOCOL, "a client's streams have odd numbers")
        elif not self._leaving:
            self._last = number
            if len(self.open) >= self._limit:
                self._reset(number, ErrorCode.REFUSED)
                return
            stream = self.open[number] = self._application.make(number)
            stream.complete = ended
            self._application.begun(stream, fields)

    def on_body(self, number: int, size: int) -> None:
        """Counts a frame of a body against the windows."""
        stream = self._unended(number)
        if stream is not None:
            stream.room -= size
            if stream.room < 0:
                raise ViolationError(ErrorCode.FLOW_CONTROL, "more came than there is room for")
        self._room -= size
        if self._room < CONNECTION_ROOM // 2:  # so that it is never used up, whatever a frame brings
            self._grant(0, CONNECTION_ROOM - self._room)
            self._room = CONNECTION_ROOM

    def on_part(self, number: int, part: memoryview) -> None:
        """Hands on what belongs to a request that has no answer yet."""
        stream = self.open.get(number)
        if stream is not None:
            self._application.received(stream, part)

    def on_end(self, number: int) -> None:
        """The request is complete."""
        stream = self.open.get(number)
        if stream is not None:
            stream.complete = True
            self._application.completed(stream)

    def on_settings(self, payload: bytes) -> None:
        """Keeps the windows that streams begin with."""
        for key, value in struct.iter_unpack(">HI", payload):
            if key == Setting.INITIAL_WINDOW:
                if value > HIGHEST:
                    raise ViolationError(ErrorCode.FLOW_CONTROL, "a window is too large")
                self._window_of_streams = value
            elif key == Setting.PUSH and value > 1:
                raise ViolationError(ErrorCode.PROTOCOL, "a setting that is neither on nor off")
            elif key == Setting.MAX_FRAME and not _LEAST_FRAME <= value < 1 << 24:
                raise ViolationError(ErrorCode.PROTOCOL, "a size of frames that cannot be")
        self.out += frame(Kind.SETTINGS, ACK, 0)
        self._send_waiting()

    def on_ping(self, payload: bytes) -> None:
        """Says that we are there."""
        self.out += frame(Kind.PING, ACK, 0, payload)
        self._application.pinged()

    def on_number(self, kind: int, number: int, value: int) -> None:
        """A reset, or a window that grows."""
        if kind == Kind.RESET:
            stream = self._still_open(number)
            if stream is not None:
                self._forgotten(number)
                self._application.abandoned(stream)
            return
        value &= HIGHEST
        highest = value
        if not number:
            self._window += value
            highest = self._window
        else:
            stream = self._still_open(number)
            if stream is not None:
                stream.window += value
                highest = self._window_of_streams + stream.window
        if not value or highest > HIGHEST:
            raise ViolationError(ErrorCode.FLOW_CONTROL, "a window cannot grow like that")
        self._send_waiting()

    def _still_open(self, number: int) -> S | None:
        """The stream of that number; ``None`` if it is over, or was begun after we said that we leave."""
        if not number & 1 or (number > self._last and not self._leaving):
            raise ViolationError(ErrorCode.PROTOCOL, "a frame for a stream that nobody opened")
        return self.open.get(number)

    def _unended(self, number: int) -> S | None:
        """As ``_still_open``, for what only a request that is not complete may bring."""
        stream = self._still_open(number)
        if stream is not None and stream.complete:
            raise ViolationError(ErrorCode.CLOSED, "a request goes on after its end")
        return stream

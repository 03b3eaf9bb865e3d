"""HTTP/2 as far as a client needs it that sends one request at a time: a connection, a request, its answer.

Rules:

- Blocking, within the deadline of the call. A connection belongs to one thread at a time.
- Nothing is sent before the server's settings have come, so that a port which speaks something else is a known outcome.
- A server that goes away finishes what it took on: an answer is waited for, unless it said that it took no notice of us.
- A request's bytes are not copied (with TLS once), and writes are as large as the server's windows allow.

The error says whether the outcome is known: after an ``UnprocessedError`` it is.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time

from otel_langfuse.sidecar.http2.client_state import State
from otel_langfuse.sidecar.http2.frames import (
    END_HEADERS,
    END_STREAM,
    OUR_HEADERS,
    PREFACE,
    BrokenError,
    ErrorCode,
    Kind,
    Reply,
    ResetError,
    Setting,
    UnprocessedError,
    frame,
    head,
)
from otel_langfuse.sidecar.http2.header_blocks import NO_TABLE

__all__ = ["Connection"]

_READ = 64 * 1024
_BATCH = 512 * 1024  # bytes of a body that one write hands over
_PARTS = 512  # of a write; the system takes 1024
_PAUSE = 0.002  # seconds that a larger window is waited for
_LAST_STREAM = 1 << 30


class Connection:
    """One connection to a server.

    Args:
        sock: Connected; this object closes it.
        keep: Bytes of an answer's body that are kept.
    """

    def __init__(self, sock: socket.socket, *, keep: int) -> None:
        self._sock = sock
        self._state = State(keep)
        self._next = 1
        self._usable = True

    def open(self, deadline: float) -> None:
        """Exchanges settings.

        Raises:
            BrokenError: The other end speaks something else, or ended it.
            TimeoutError: It says nothing.
        """
        ours = struct.pack(">HIHI", Setting.PUSH, 0, Setting.MAX_HEADERS, OUR_HEADERS)
        try:
            self._write([PREFACE + frame(Kind.SETTINGS, 0, 0, ours)], deadline)
            while not self._state.settled:
                self._read(deadline)
            self._flush(deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise BrokenError(f"Socket closed ({_name(error)})") from None

    def ready(self) -> bool:
        """Whether another request may be sent: takes in what came meanwhile, which may be the connection's end."""
        if not self._usable or self._next > _LAST_STREAM:
            return False
        self._sock.settimeout(0)
        try:
            while not self._state.leaving():
                self._state.take(self._sock.recv(_READ))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except (BrokenError, OSError):
            pass
        return False

    def call(self, block: bytes, prefix: bytes, body: bytes, deadline: float) -> Reply:
        """Sends a request and waits for its answer.

        Args:
            block: The request's header fields, from ``header_blocks``.
            prefix: What comes before the body.
            body: The body.
            deadline: On the monotonic clock.

        Raises:
            UnprocessedError: It was not taken on.
            ResetError: The server ended it.
            BrokenError: The connection broke.
            TimeoutError: No answer came in time.
        """
        state = self._state
        state.begin(self._next)
        self._next += 2
        try:
            complete = self._exchange(block, prefix, memoryview(body), deadline)
        except TimeoutError:
            self._usable = False
            self._cancel()
            raise
        except OSError as error:
            self._usable = False
            complete = self._salvaged(error, deadline)
        except BrokenError:
            self._usable = False
            raise
        return self._finish(complete=complete, deadline=deadline)

    def abort(self) -> None:
        """Ends it from another thread, whose call then breaks."""
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # of the socket below TLS, which another thread uses
        except OSError:
            pass

    def close(self) -> None:
        """Ends it."""
        self._usable = False
        self._sock.close()

    # A request.

    def _exchange(self, block: bytes, prefix: bytes, view: memoryview, deadline: float) -> bool:
        """Sends and reads until the answer has ended; whether all was sent by then."""
        state = self._state
        out = self._header_frames(block)
        total, at = len(prefix) + len(view), 0
        while not state.ended:
            room = min(total - at, state.room(), _BATCH)
            if room and not out and room < min(total - at, state.worth()) and self._heard(deadline):
                continue  # A small window may be a larger one by now: a write for each step costs more than it gains.
            if room:
                self._data_frames(out, prefix, view, at, at + room)
                at += room
                state.sent(room)
            if out:
                self._write(out, deadline)
                out = []
            else:
                self._read(deadline)
        return at == total

    def _header_frames(self, block: bytes) -> list[bytes | memoryview]:
        state, size = self._state, self._state.frame_size
        if state.stream == 1:
            block = NO_TABLE + block
        out: list[bytes | memoryview] = []
        for at in range(0, len(block), size):
            flags = END_HEADERS if at + size >= len(block) else 0
            out.append(frame(Kind.CONTINUATION if at else Kind.HEADERS, flags, state.stream, block[at : at + size]))
        return out

    def _data_frames(self, out: list[bytes | memoryview], prefix: bytes, view: memoryview, at: int, end: int) -> None:
        """Frames of the bytes from ``at`` to ``end`` of prefix and body; the last one ends the request."""
        total, stream, first, size = len(prefix) + len(view), self._state.stream, len(prefix), self._state.frame_size
        if at < first:
            stop = min(at + size, end)
            out.append(head(stop - at, Kind.DATA, END_STREAM if stop == total else 0, stream))
            out.append(prefix[at:stop])
            out.append(view[: max(stop - first, 0)])
            at = stop
        # Whole frames, of which there are many, share their head; what is left is the last one.
        last = at + max(end - at - 1, 0) // size * size
        full = head(size, Kind.DATA, 0, stream)
        for begin in range(at - first, last - first, size):
            out.append(full)
            out.append(view[begin : begin + size])
        if last < end:
            out.append(head(end - last, Kind.DATA, END_STREAM if end == total else 0, stream))
            out.append(view[last - first : end - first])

    def _finish(self, *, complete: bool, deadline: float) -> Reply:
        """The answer, or the error that the server gave instead of one."""
        state = self._state
        stream, reply, state.stream = state.stream, state.reply, 0
        if state.reset == ErrorCode.REFUSED:
            raise UnprocessedError("the server refused the stream")
        if state.last is not None and stream > state.last and not reply.headers:
            raise UnprocessedError("the server was about to go away")
        if state.reset is not None:
            raise ResetError(state.reset)
        if not complete:  # answered before all was sent: the rest is not wanted
            state.owed += frame(Kind.RESET, 0, stream, ErrorCode.CANCEL.to_bytes(4, "big"))
        try:
            self._flush(deadline)
        except OSError:
            self._usable = False
        return reply

    def _salvaged(self, error: OSError, deadline: float) -> bool:
        """After a write that failed, reads on: an answer may have come before the connection broke."""
        self._state.owed.clear()
        try:
            while not self._state.ended:
                self._patient(deadline)
                self._state.take(self._sock.recv(_READ))
                self._state.owed.clear()
        except (OSError, BrokenError):
            raise BrokenError(f"Socket closed ({_name(error)})") from None
        return True

    def _cancel(self) -> None:
        """Tells the server, if that takes no time, that nobody waits any more."""
        try:
            self._sock.settimeout(0)
            self._sock.send(frame(Kind.RESET, 0, self._state.stream, ErrorCode.CANCEL.to_bytes(4, "big")))
        except OSError:
            pass

    # The socket.

    def _write(self, parts: list[bytes | memoryview], deadline: float) -> None:
        if self._state.owed:
            parts.insert(0, bytes(self._state.owed))
            self._state.owed.clear()
        if isinstance(self._sock, ssl.SSLSocket):
            view = memoryview(b"".join(parts))
            while view:
                self._patient(deadline)
                view = view[self._sock.send(view) :]
            return
        while parts:
            self._patient(deadline)
            batch = parts[:_PARTS]
            taken = self._sock.sendmsg(batch)
            if taken == sum(map(len, batch)):
                del parts[:_PARTS]
                continue
            whole = 0
            while whole < len(parts) and taken >= len(parts[whole]):
                taken -= len(parts[whole])
                whole += 1
            del parts[:whole]
            if taken:
                parts[0] = memoryview(parts[0])[taken:]

    def _flush(self, deadline: float) -> None:
        if self._state.owed:
            self._write([], deadline)

    def _read(self, deadline: float) -> None:
        self._flush(deadline)
        self._patient(deadline)
        self._state.take(self._sock.recv(_READ))

    def _heard(self, deadline: float) -> bool:
        """Whether the server said something within a moment."""
        self._flush(deadline)
        try:
            self._patient(min(deadline, time.monotonic() + _PAUSE))
            self._state.take(self._sock.recv(_READ))
        except TimeoutError:
            return False
        return True

    def _patient(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)


def _name(error: OSError) -> str:
    return error.strerror or type(error).__name__

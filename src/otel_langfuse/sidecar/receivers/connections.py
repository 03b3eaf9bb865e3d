"""The connections of the HTTP listener: how many, how long, how patient.

uvicorn parses and answers, but waits for a request for ever, lets any number of connections in, and with httptools takes
heads of any size. Here each connection gets a ``Connection`` in front of uvicorn's protocol, which knows the time by
which the client must have done its part; one task looks at all of them.

A connection is idle, or reads the head of a request, or is in the hands of the application (which calls ``begin`` and
``end``, and reads the body before ``deadline``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from typing import Any, cast

from otel_langfuse.counters import Counters, OncePerInterval

__all__ = ["Connection", "Connections", "current_connection"]

current_connection: ContextVar[Connection] = ContextVar("current_connection")
"""The connection that a request came over; set for the application's task."""

_HEAD_LIMIT = 64 * 1024
# Requests that one connection may send before the first is answered. OTLP senders do not do it at all.
_AHEAD_LIMIT = 100
# How long a client that is one too many may take to read its answer.
_REFUSED_SECONDS = 2.0
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 77\r\n\r\n{"code": 14, "message": "too many connections (max_connections); come again"}'
)
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_protocol_logger = logging.getLogger(f"{__name__}.protocol")
# uvicorn compares the level itself; unset it would take it for its trace level.
_protocol_logger.setLevel(logging.WARNING)


class _OncePerMinute(logging.Filter):
    """A client that sends rubbish gets its answer each time, but the log says so once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._may_log = OncePerInterval()

    def filter(self, record: logging.LogRecord) -> bool:
        return self._may_log(str(record.msg))


_protocol_logger.addFilter(_OncePerMinute())


class _State(Enum):
    IDLE = "idle"
    HEAD = "head"
    BUSY = "busy"
    REFUSED = "refused"


class Connection(asyncio.Protocol):
    """One connection; passes everything on to uvicorn's protocol, unless it is one too many."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._state = _State.IDLE
        self._served = False
        self._head_bytes = 0
        self._write_deadline = math.inf
        self.deadline = math.inf
        """Reading of ``time.monotonic`` by which the client must have done what is its turn."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets the connection in, or keeps it out."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so.
        self._served = self._connections.admit(self)
        if self._served:
            self.deadline = time.monotonic() + self._connections.idle_timeout
            self._inner.connection_made(transport)
        else:
            self._state = _State.REFUSED
            self.deadline = time.monotonic() + _REFUSED_SECONDS

    def data_received(self, data: bytes) -> None:
        """Passes bytes on; those of a refused connection are answered and thrown away."""
        if self._state is _State.REFUSED:
            self._refuse()
            return
        if self._state is _State.IDLE:
            self._state = _State.HEAD
            self._head_bytes = 0
            self.deadline = time.monotonic() + self._connections.read_timeout
        elif self._state is _State.HEAD and self._head_bytes > _HEAD_LIMIT:
            # Had the head been complete, the application would have begun since the last bytes came.
            self._end_with(_HEAD_TOO_LARGE)
            return
        self._head_bytes += len(data)
        token = current_connection.set(self)
        try:
            self._inner.data_received(data)
        finally:
            current_connection.reset(token)
        # With httptools, requests that were sent ahead are queued without bound.
        if len(getattr(self._inner, "pipeline", ())) > _AHEAD_LIMIT:
            self._connections.too_many_ahead()
            self.abort()

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return None if self._state is _State.REFUSED else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._connections.discard(self)
        if self._served:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read; it may not for ever."""
        self._write_deadline = time.monotonic() + self._connections.read_timeout
        if self._served:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._write_deadline = math.inf
        if self._served:
            self._inner.resume_writing()

    def begin(self) -> None:
        """The application has the request; its body must be there by ``deadline``."""
        self._state = _State.BUSY

    def end(self) -> None:
        """The application has answered."""
        self._state = _State.IDLE
        self.deadline = time.monotonic() + self._connections.idle_timeout

    def check(self, now: float) -> None:
        """Ends the connection if its client took too long."""
        assert self._transport is not None
        if self._write_deadline <= now:
            self._connections.too_slow()
            self._transport.abort()
        elif self.deadline <= now and self._state is not _State.BUSY:
            if self._state is _State.HEAD:
                self._connections.too_slow()
                self._transport.abort()
            else:
                self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self) -> None:
        if self._head_bytes:
            return
        self._head_bytes = 1
        assert self._transport is not None
        self._transport.write(_TOO_MANY)
        # Not closed yet: with bytes unread the system would reset the connection and take the answer back.
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _end_with(self, answer: bytes) -> None:
        self._connections.too_large()
        self._state = _State.REFUSED
        self.deadline = time.monotonic() + _REFUSED_SECONDS
        self._head_bytes = 1
        assert self._transport is not None
        self._transport.write(answer)


class Connections:
    """All connections of one listener; used in its event loop only.

    Args:
        limit: How many are served at once. As many again are told to come later; further ones are closed at once.
        read_timeout: Seconds for the head of a request, and for reading an answer.
        idle_timeout: Seconds without a request.
        counters: Takes ``connections_refused``, ``slow_clients`` and ``too_large``.
    """

    def __init__(self, *, limit: int, read_timeout: float, idle_timeout: float, counters: Counters) -> None:
        self._limit = limit
        self.read_timeout = read_timeout or math.inf
        self.idle_timeout = idle_timeout or math.inf
        self._counters = counters
        self._served: set[Connection] = set()
        self._refused: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._served)

    def factory(self, protocol: Callable[..., asyncio.Protocol]) -> Callable[..., Connection]:
        """What makes a protocol for each connection, as uvicorn wants it."""

        def make(**arguments: Any) -> Connection:
            inner: Any = protocol(**arguments)
            inner.logger = _protocol_logger
            return Connection(self, inner)

        return make

    def admit(self, connection: Connection) -> bool:
        """Whether the connection is served."""
        if len(self._served) < self._limit:
            self._served.add(connection)
            return True
        self._counters.count("connections_refused")
        self._refused.add(connection)
        if len(self._refused) > self._limit:
            connection.abort()
        return False

    def discard(self, connection: Connection) -> None:
        """The connection has ended."""
        self._served.discard(connection)
        self._refused.discard(connection)

    def too_slow(self) -> None:
        """Counts a client that took too long."""
        self._counters.count("slow_clients")

    def too_many_ahead(self) -> None:
        """Counts a client that sends requests without waiting for answers."""
        self._counters.count("connections_refused")

    def too_large(self) -> None:
        """Counts a request whose head is too large."""
        self._counters.count("too_large")

    async def watch(self) -> None:
        """Ends what takes too long, until it is cancelled."""
        pause = max(0.02, min(1.0, self.read_timeout / 4, self.idle_timeout / 4, _REFUSED_SECONDS / 4))
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for connection in [*self._served, *self._refused]:
                connection.check(now)

    def abort_all(self) -> None:
        """Ends all connections at once."""
        for connection in [*self._served, *self._refused]:
            connection.abort()

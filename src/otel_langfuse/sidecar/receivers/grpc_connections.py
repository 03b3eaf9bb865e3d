"""The connections of the gRPC listener: sockets and time. ``grpc_exports`` has the calls.

The event loop only moves bytes. While a client does not read its answers, it is not read from.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import cast

from otel_langfuse.counters import OncePerInterval
from otel_langfuse.errors import place_of
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import GrpcProtocol
from otel_langfuse.sidecar.http2.frames import ViolationError
from otel_langfuse.sidecar.receivers.grpc_exports import Exports, GrpcService
from otel_langfuse.sidecar.receivers.grpc_vigil import Due, Vigil, shortest

__all__ = ["GrpcConnection", "GrpcConnections"]

logger = logging.getLogger(__name__)

_READ = 256 * 1024  # bytes at once
_WATCH_SECONDS = 1.0
_HTTP_1 = re.compile(rb"[A-Z]{3,7} /")
_HTTP_1_WORDS = b"This port takes OTLP over gRPC; send OTLP over HTTP to the port of the receiver's http.\n"
_HTTP_1_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_HTTP_1_WORDS), _HTTP_1_WORDS)
)


class GrpcConnections:
    """All connections of one listener; used in its event loop only.

    Args:
        listener: Its protocol is a ``GrpcProtocol``.
        service: Takes the calls.
    """

    def __init__(self, listener: Listener, service: GrpcService) -> None:
        assert isinstance(listener.protocol, GrpcProtocol)
        self.service = service
        self._receiver = listener.receiver
        self._limit = listener.protocol.max_connections
        self._keepalive = listener.protocol.keepalive
        self._open: set[GrpcConnection] = set()
        self._leaving = False
        self._emptied = asyncio.Event()
        self._may_log = OncePerInterval()
        self.buffer = memoryview(bytearray(_READ))
        """What is read into: reads are worked off at once, so that all connections share it."""

    def make(self) -> GrpcConnection:
        """A protocol for a new connection."""
        return GrpcConnection(self, Vigil(self._keepalive, self.service.message_timeout, time.monotonic()))

    def admit(self, connection: GrpcConnection) -> bool:
        """Whether a connection is served; one that is closed instead makes its sender come again later."""
        if self._leaving:
            return False
        if len(self._open) >= self._limit:
            self.service.counters.count("connections_refused")
            return False
        self._open.add(connection)
        return True

    def discard(self, connection: GrpcConnection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if not self._open:
            self._emptied.set()

    async def watch(self) -> None:
        """Does what is due on each connection, until it is cancelled."""
        pause = max(0.02, min(_WATCH_SECONDS, self.service.message_timeout / 4, shortest(self._keepalive) / 4))
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for connection in [*self._open]:
                try:
                    connection.check(now)
                except Exception as error:  # noqa: BLE001 - border: nobody else would watch over the other connections
                    self.broken(error)
                    connection.abort()

    async def leave(self, grace: float, last_answers: float) -> None:
        """Lets the calls that are open end within ``grace`` seconds, answers the others, and ends all connections.

        Args:
            grace: Seconds.
            last_answers: Seconds that answers to those others may take.
        """
        self._leaving = True
        for connection in [*self._open]:
            connection.leave(at_once=True)
        if await self._empty(grace):
            return
        for connection in [*self._open]:
            connection.give_up()
        if not await self._empty(last_answers):
            for connection in [*self._open]:
                connection.abort()
            await asyncio.sleep(0)  # Transports close in the next round.

    async def _empty(self, timeout: float) -> bool:
        """Whether no connection is left in time."""
        self._emptied.clear()
        if self._open:
            try:
                await asyncio.wait_for(self._emptied.wait(), timeout)
            except TimeoutError:
                return False
        return True

    def complain(self, what: str) -> None:
        """Says once a minute that a client did something that it should mend."""
        if self._may_log(what):
            logger.warning("Receiver %s ended a connection: %s.", self._receiver, what)

    def broken(self, error: Exception) -> None:
        """Counts and logs an error that was not foreseen."""
        self.service.counters.count("receiver_errors")
        if self._may_log(type(error).__name__):
            logger.error(
                "Receiver %s ended a connection after %s at %s; its sender comes again. Please report this.",
                self._receiver,
                type(error).__name__,
                place_of(error),
            )


class GrpcConnection(asyncio.BufferedProtocol):
    """One connection, as asyncio sees it."""

    def __init__(self, connections: GrpcConnections, vigil: Vigil) -> None:
        self._connections = connections
        self._vigil = vigil
        self._exports = Exports(connections.service, vigil, self._send)
        self._server = self._exports.server
        self._transport: asyncio.Transport | None = None
        self._greeting = b""
        self._close_when_idle = False
        self._blocked = False  # the client does not read
        self._turn: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets the connection in, unless it is one too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so.
        if not self._connections.admit(self):
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        data = self._connections.buffer[:nbytes]
        self._vigil.heard(time.monotonic())
        if not self._server.reader.greeted:
            self._greeting = (self._greeting + data[:16])[:16]
        self._take(data)

    def _take(self, data: memoryview) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # With TLS, bytes come after that, too.
        try:
            self._server.take(data)
        except ViolationError as error:
            self._violated(error)
        except Exception as error:  # noqa: BLE001 - border: asyncio would log it with its own words
            self._connections.broken(error)
            self.abort()
        self._send()
        if not transport.is_closing():
            self._read_on(transport)

    def _read_on(self, transport: asyncio.Transport) -> None:
        """Reads while the client does, too. What is left of much work comes first, when others had their turn."""
        if self._blocked or self._server.reader.behind:
            transport.pause_reading()
            if not self._blocked and self._turn is None:
                self._turn = asyncio.get_running_loop().call_soon(self._go_on)
        else:
            transport.resume_reading()

    def _go_on(self) -> None:
        self._turn = None
        if not self._blocked:
            self._take(memoryview(b""))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._connections.discard(self)
        self._exports.lost()

    def pause_writing(self) -> None:
        """The client does not read; until it does, it is not read from."""
        assert self._transport is not None
        self._vigil.waits_for_reader(time.monotonic())
        self._blocked = True
        if not self._transport.is_closing():
            self._read_on(self._transport)

    def resume_writing(self) -> None:
        """The client reads again."""
        assert self._transport is not None
        self._vigil.waits_no_more()
        self._blocked = False
        if not self._transport.is_closing():
            self._read_on(self._transport)

    def check(self, now: float) -> None:
        """Does what is due at this time, be it to end what takes too long."""
        reader, transport = self._server.reader, self._transport
        if transport is None or transport.is_closing():
            if self._vigil.closing_too_long(now):
                self.abort()
            return
        self._exports.end_slow(now)
        half = reader.progress if reader.halfway else None
        due = self._vigil.due(now, greeted=reader.greeted, half=half, busy=bool(self._server.open))
        if due is Due.PING:
            self._server.ping()
        elif due is Due.LEAVE:
            self.leave()
        elif due is Due.CLOSE:
            self._close_when_idle = True
        elif due is Due.ABORT:
            self._connections.service.counters.count("slow_clients")
            self.abort()
        self._send()

    def leave(self, *, at_once: bool = False) -> None:
        """Tells the client to go elsewhere; with ``at_once`` the connection is closed as soon as nothing is open."""
        self._vigil.left(time.monotonic())
        self._server.leave()
        self._close_when_idle |= at_once
        self._send()

    def give_up(self) -> None:
        """Answers all that is open: it was not finished in time."""
        self._exports.give_up()
        self._send()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _violated(self, error: ViolationError) -> None:
        """Ends the connection of a client that does not speak as it should."""
        assert self._transport is not None
        self._connections.service.counters.count("unsupported_requests")
        if self._server.reader.greeted:
            self._connections.complain(f"{error}")
            self._server.leave(error.code, f"{error}")
            self._send()
        elif _HTTP_1.match(self._greeting):
            self._connections.complain("a client speaks HTTP/1.1 to the gRPC port; OTLP over HTTP has a port of its own")
            self._transport.write(_HTTP_1_ANSWER)
        elif self._greeting.startswith(b"\x16\x03"):
            self._connections.complain("a client speaks TLS, and this receiver has no tls")
        else:
            self._connections.complain("what came is not HTTP/2")
        self._transport.close()

    def _send(self) -> None:
        transport, server = self._transport, self._server
        if transport is None or transport.is_closing():
            return
        if server.out and server.reader.greeted:  # a client that speaks something else should get an answer that it can read
            transport.write(server.pending())
        if self._close_when_idle and not server.open:
            transport.close()

"""OTLP over HTTP: the listener and its thread. ``exports`` has the application that answers.

Rules:

- uvicorn runs in a thread of its own with its own event loop; it touches neither signals nor the logging configuration.
- The event loop only moves bytes. Decompression, conversion and the wait for the journal happen in one of ``THREADS``
  threads, except, with ``inline``, for small protobuf bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import HttpProtocol
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers.connections import Connections
from otel_langfuse.sidecar.receivers.exports import ExportApplication
from otel_langfuse.sidecar.receivers.listening import bind, host_and_port, key_of, tls_context

__all__ = ["THREADS", "HttpReceiver"]

logger = logging.getLogger(__name__)

THREADS = 32
"""Requests that are worked on at once; also the largest group that a journal can commit together."""

_START_SECONDS = 30.0
# How long answers that are ready may take to leave after the end of the grace.
_LAST_ANSWERS_SECONDS = 0.5


class HttpReceiver:
    """An HTTP listener: starts with ``start``, ends with ``stop``; not to be started again.

    Args:
        listener: What to listen on; its protocol is an ``HttpProtocol``.
        intake: Gets the requests, from the listener's threads.
        counters: See the package.
        inline: Whether small requests are handed over in the event loop's thread. It saves a change of threads for each
            and is only right while ``Intake.take`` does not wait for a disk.
    """

    def __init__(self, listener: Listener, intake: Intake, counters: Counters, *, inline: bool = False) -> None:
        assert isinstance(listener.protocol, HttpProtocol)
        self._listener = listener
        self._protocol = listener.protocol
        self._connections = Connections(
            limit=self._protocol.max_connections,
            read_timeout=self._protocol.read_timeout,
            idle_timeout=self._protocol.idle_timeout,
            counters=counters,
        )
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="otel-langfuse-http")
        self._application = ExportApplication(listener, intake, counters, self._pool, inline=inline)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host as configured and port as bound; the port is 0 before ``start`` if it is to be chosen."""
        host, port = host_and_port(self._protocol.endpoint)
        return host, self._port or port

    def start(self) -> None:
        """Begins to listen; returns when requests are taken.

        Raises:
            ConfigError: The address or a TLS file cannot be used.
        """
        key = key_of(self._listener, "http", "endpoint")
        files = self._protocol.tls
        tls = tls_context(files, key_of(self._listener, "http", "tls"), "http/1.1") if files is not None else None
        server = _Server(_configuration(self._application, self._connections, self._protocol, tls), self._connections)
        sockets = bind(self._protocol.endpoint, key)
        self._port = sockets[0].getsockname()[1]
        self._server = server
        self._thread = threading.Thread(target=self._run, args=(server, sockets), name="otel-langfuse-http", daemon=True)
        self._thread.start()
        if not server.ready.wait(_START_SECONDS) or not server.started:
            self.stop(0)
            raise ConfigError(f"{key}: the HTTP listener did not start; the log says why", field=key)
        logger.info("Receiver %s listens on %s:%d (OTLP over HTTP).", self._listener.receiver, *self.address)

    def stop(self, grace: float) -> None:
        """Takes no new requests, lets those in progress end within ``grace`` seconds, ends the rest. Idempotent."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.leave(grace)
            self._thread.join(grace + 5.0)
            if self._thread.is_alive():
                logger.warning("Receiver %s did not end in time.", self._listener.receiver)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, server: _Server, sockets: list[socket.socket]) -> None:
        try:
            server.run(sockets)
        except BaseException:
            logger.exception("The HTTP listener of receiver %s has failed; it takes nothing more.", self._listener.receiver)
        finally:
            server.ready.set()
            for sock in sockets:
                sock.close()


class _Server(uvicorn.Server):
    """uvicorn, with the watch over its connections beside it."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections
        self.ready = threading.Event()
        """Set when connections are accepted, or never will be."""

    def leave(self, grace: float) -> None:
        """Ends within about ``grace`` seconds; from any thread."""
        settings: Any = self.config  # The type says int; it is handed to asyncio, which takes fractions.
        settings.timeout_graceful_shutdown = grace
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until ``leave``."""
        watch = asyncio.create_task(self._connections.watch())
        try:
            await super().serve(sockets)
            tasks: Sequence[asyncio.Task[None]] = list(self.server_state.tasks)
            if tasks:
                await asyncio.wait(tasks, timeout=_LAST_ANSWERS_SECONDS)
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            self._connections.abort_all()
            await asyncio.sleep(0)  # Transports close in the next round.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept."""
        await super().startup(sockets=sockets)
        self.ready.set()


def _configuration(
    application: ExportApplication, connections: Connections, protocol: HttpProtocol, tls: ssl.SSLContext | None
) -> uvicorn.Config:
    make: Any = connections.factory(AutoHTTPProtocol)
    config = uvicorn.Config(
        application,
        http=make,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=1,
        timeout_keep_alive=math.ceil(protocol.idle_timeout) or 10**8,
    )
    config.load()
    config.ssl = tls
    return config

"""OTLP over gRPC: the listener and its thread. ``grpc_connections`` has what happens on a connection.

The listener has an event loop of its own, in a thread of its own: uvloop's where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import GrpcProtocol
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers.grpc_connections import GrpcConnections
from otel_langfuse.sidecar.receivers.grpc_exports import GrpcService
from otel_langfuse.sidecar.receivers.listening import BACKLOG, bind, host_and_port, key_of, tls_context

__all__ = ["THREADS", "GrpcReceiver"]

logger = logging.getLogger(__name__)

THREADS = 32
"""Requests that are worked on at once; also the largest group that a journal can commit together."""

_START_SECONDS = 30.0
# How long answers that are ready may take to leave after the end of the grace.
_LAST_ANSWERS_SECONDS = 0.5


class GrpcReceiver:
    """A gRPC listener: starts with ``start``, ends with ``stop``; not to be started again.

    Args:
        listener: What to listen on; its protocol is a ``GrpcProtocol``.
        intake: Gets the requests, from the listener's threads.
        counters: See the package.
        inline: Whether plain requests that are not large are handed over in the event loop's thread. It saves a change of
            threads for each and is only right while ``Intake.take`` does not wait for a disk.
        message_timeout: Seconds that a call's message may take to arrive.
    """

    def __init__(
        self,
        listener: Listener,
        intake: Intake,
        counters: Counters,
        *,
        inline: bool = False,
        message_timeout: float = 30.0,
    ) -> None:
        assert isinstance(listener.protocol, GrpcProtocol)
        self._listener = listener
        self._protocol = listener.protocol
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="otel-langfuse-grpc")
        self._service = GrpcService(listener, intake, counters, self._pool, inline=inline, message_timeout=message_timeout)
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._stopped = False
        self._grace = 0.0
        self._port = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host as configured and port as bound; the port is 0 before ``start`` if it is to be chosen."""
        host, port = host_and_port(self._protocol.endpoint)
        return host, self._port or port

    def start(self) -> None:
        """Begins to listen; returns when calls are taken.

        Raises:
            ConfigError: The address or a TLS file cannot be used.
        """
        key = key_of(self._listener, "grpc", "endpoint")
        files = self._protocol.tls
        tls = tls_context(files, key_of(self._listener, "grpc", "tls"), "h2") if files is not None else None
        sockets = bind(self._protocol.endpoint, key)
        self._port = sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(sockets, tls), name="otel-langfuse-grpc", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or self._ending is None:
            self.stop(0)
            raise ConfigError(f"{key}: the gRPC listener did not start; the log says why", field=key)
        logger.info("Receiver %s listens on %s:%d (OTLP over gRPC).", self._listener.receiver, *self.address)

    def stop(self, grace: float) -> None:
        """Takes no new calls, lets those in progress end within ``grace`` seconds, ends the rest. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._grace, self._stopped = grace, True
            if self._loop is not None and self._ending is not None:
                with contextlib.suppress(RuntimeError):  # It has ended by itself.
                    self._loop.call_soon_threadsafe(self._ending.set)
            thread.join(grace + 5.0)
            if thread.is_alive():
                logger.warning("Receiver %s did not end in time.", self._listener.receiver)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---------------------------------------------------------------------------------- in the listener's thread

    def _run(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve(sockets, tls))
        except BaseException:
            logger.exception("The gRPC listener of receiver %s has failed; it takes nothing more.", self._listener.receiver)
        finally:
            self._ready.set()
            for sock in sockets:
                sock.close()

    async def _serve(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        loop = self._loop = asyncio.get_running_loop()
        connections = GrpcConnections(self._listener, self._service)
        servers = [
            await loop.create_server(
                connections.make,
                sock=sock,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=self._service.message_timeout if tls else None,
            )
            for sock in sockets
        ]
        ending = self._ending = asyncio.Event()
        if self._stopped:  # before the loop was up
            ending.set()
        watch = asyncio.create_task(connections.watch())
        self._ready.set()
        try:
            await ending.wait()
        finally:
            # asyncio lets a connection hang that is accepted just when its server closes: first no more are accepted.
            for sock in sockets:
                loop.remove_reader(sock)
            await asyncio.sleep(0)
            for server in servers:
                server.close()
            await connections.leave(self._grace, _LAST_ANSWERS_SECONDS)
            watch.cancel()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        uvloop: Any = import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory

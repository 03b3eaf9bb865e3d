"""OTLP over gRPC.

Rules:

- grpcio's synchronous server: a call holds one of ``THREADS`` threads from its start to its answer. A message is only
  read by such a thread, so ``THREADS`` messages are held at the most; more calls wait in flow control.
- A token is checked before the message is read.
- gRPC's own decompression is switched off and done here: many of its releases expand a message as a whole and only
  then compare it with the limit.
- A sender that does not send its message within ``message_timeout`` is cancelled, so that it cannot hold a thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import GrpcProtocol, ServerTls
from otel_langfuse.sidecar.entry import Receipt, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers.answers import Verdict, accepted, status_bytes
from otel_langfuse.sidecar.receivers.bodies import encoding_of_message
from otel_langfuse.sidecar.receivers.listening import Gate, bind, host_and_port, key_of, tls_context
from otel_langfuse.sidecar.receivers.reception import Reception

__all__ = ["THREADS", "GrpcReceiver"]

logger = logging.getLogger(__name__)

THREADS = 32
"""Calls in progress at once; also the largest group that a journal can commit together."""

# Calls at once over one connection, if the configuration does not say: further ones wait at the sender.
_STREAMS = 128
_MIB = 1 << 20
_MAX_INT = (1 << 31) - 1
_SERVICES = {
    Signal.TRACES: "opentelemetry.proto.collector.trace.v1.TraceService",
    Signal.LOGS: "opentelemetry.proto.collector.logs.v1.LogsService",
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcReceiver:
    """A gRPC listener: starts with ``start``, ends with ``stop``; not to be started again.

    Args:
        listener: What to listen on; its protocol is a ``GrpcProtocol``.
        intake: Gets the requests, from the listener's threads.
        counters: See the package.
        message_timeout: Seconds that a call's message may take to arrive.
    """

    def __init__(self, listener: Listener, intake: Intake, counters: Counters, *, message_timeout: float = 30.0) -> None:
        assert isinstance(listener.protocol, GrpcProtocol)
        self._listener = listener
        self._protocol = listener.protocol
        self._pool = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="otel-langfuse-grpc")
        self._patience = _Patience(message_timeout)
        reception = Reception(listener.receiver, intake, counters, self._protocol.max_recv_msg_size_mib * _MIB)
        self._exports = _Exports(listener, reception, counters, self._patience)
        self._server: grpc.Server | None = None
        self._port = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host as configured and port as bound; the port is 0 before ``start`` if it is to be chosen."""
        host, port = host_and_port(self._protocol.endpoint)
        return host, self._port or port

    def start(self) -> None:
        """Begins to listen.

        Raises:
            ConfigError: The address or a TLS file cannot be used.
        """
        key = key_of(self._listener, "grpc", "endpoint")
        credentials = _credentials(self._protocol.tls, key_of(self._listener, "grpc", "tls")) if self._protocol.tls else None
        handlers = [self._exports.handler_of(signal) for signal in self._listener.signals]
        server = grpc.server(self._pool, handlers=handlers, options=_options(self._protocol))
        endpoint = self._protocol.endpoint
        try:
            if credentials is not None:
                self._port = server.add_secure_port(endpoint, credentials)
            else:
                self._port = server.add_insecure_port(endpoint)
        except RuntimeError:
            self._port = 0
        if not self._port:
            server.stop(None)
            # gRPC does not say why; a plain socket does.
            for sock in bind(endpoint, key):
                sock.close()
            raise ConfigError(f"{key}: cannot listen on {endpoint}: gRPC refuses the address", field=key, source=endpoint)
        self._patience.start()
        server.start()
        self._server = server
        logger.info("Receiver %s listens on %s:%d (OTLP over gRPC).", self._listener.receiver, *self.address)

    def stop(self, grace: float) -> None:
        """Takes no new calls, lets those in progress end within ``grace`` seconds, cancels the rest. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            ended = server.stop(grace)
            if not ended.wait(grace + 5.0):
                logger.warning("Receiver %s did not end in time.", self._listener.receiver)
        self._patience.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Exports:
    """Answers calls of ``Export``; whatever else is called gRPC itself answers with ``UNIMPLEMENTED``."""

    def __init__(self, listener: Listener, reception: Reception, counters: Counters, patience: _Patience) -> None:
        self._gate = Gate(listener)
        self._reception = reception
        self._counters = counters
        self._patience = patience

    def handler_of(self, signal: Signal) -> Any:
        """What gRPC calls for a signal. As a stream of requests, a call gets here before its message is read."""
        export: Any = grpc.stream_unary_rpc_method_handler(partial(self._export, signal))
        return grpc.method_handlers_generic_handler(_SERVICES[signal], {"Export": export})

    def _export(self, signal: Signal, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._counters.count("grpc_requests")
        if not self._gate.admits(_authorization(context)):
            self._counters.count("unauthenticated")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        message = self._read(messages, context)
        outcome = self._reception.take(signal, message, encoding=encoding_of_message(message))
        if isinstance(outcome, Receipt):
            return accepted(signal, outcome)
        return self._refuse(outcome, context)

    def _read(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        waits = self._patience.begin(context)
        try:
            message = next(messages, None)
            if message is not None:
                return message
        except grpc.RpcError:
            pass
        finally:
            self._patience.end(waits)
        # The sender gave up or sent nothing, our patience ended, or gRPC refused the message for its size and has
        # answered. Which of the two ways an ended call comes here is a matter of chance.
        self._counters.count("slow_clients" if waits.expired else "incomplete_requests")
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
        raise AssertionError  # abort() does not return.

    @staticmethod
    def _refuse(verdict: Verdict, context: grpc.ServicerContext) -> bytes:
        if verdict.retry_after is not None:
            details = status_bytes(verdict.code, verdict.message, retry_after=verdict.retry_after)
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(_CODES[verdict.code], verdict.message)
        raise AssertionError  # abort() does not return.


class _Wait:
    """One call whose message has not come yet."""

    __slots__ = ("context", "expired", "since")

    def __init__(self, context: grpc.ServicerContext) -> None:
        self.context = context
        self.since = time.monotonic()
        self.expired = False


class _Patience:
    """Cancels calls whose message does not come in time. Holds one entry per thread that waits."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waits: dict[int, _Wait] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otel-langfuse-grpc-patience", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def begin(self, context: grpc.ServicerContext) -> _Wait:
        """The time from here to ``end`` counts."""
        wait = _Wait(context)
        with self._lock:
            self._waits[id(wait)] = wait
        return wait

    def end(self, wait: _Wait) -> None:
        with self._lock:
            del self._waits[id(wait)]

    def _run(self) -> None:
        while not self._stopping.wait(min(1.0, self._timeout / 4)):
            before = time.monotonic() - self._timeout
            with self._lock:
                late = [wait for wait in self._waits.values() if wait.since <= before]
            for wait in late:
                wait.expired = True
                wait.context.cancel()


def _authorization(context: grpc.ServicerContext) -> bytes | None:
    for name, value in context.invocation_metadata():
        if name == "authorization":
            return value.encode() if isinstance(value, str) else value
    return None


def _options(protocol: GrpcProtocol) -> list[tuple[str, int]]:
    keepalive = protocol.keepalive.server_parameters
    enforcement = protocol.keepalive.enforcement_policy
    options = {
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": protocol.max_recv_msg_size_mib * _MIB,
        "grpc.per_message_decompression": 0,
        # Otherwise streams that have just ended count as well, and calls within the limit are refused by chance.
        "grpc.http.overload_protection": 0,
        # Senders that can do so put a request into a few large frames, each of which costs something.
        "grpc.http2.max_frame_size": _MIB,
        "grpc.max_concurrent_streams": protocol.max_concurrent_streams or _STREAMS,
        "grpc.keepalive_time_ms": _milliseconds(keepalive.time),
        "grpc.keepalive_timeout_ms": _milliseconds(keepalive.timeout),
        "grpc.http2.min_ping_interval_without_data_ms": _milliseconds(enforcement.min_time),
        "grpc.keepalive_permit_without_calls": int(enforcement.permit_without_stream),
    }
    for name, seconds in (
        ("grpc.max_connection_idle_ms", keepalive.max_connection_idle),
        ("grpc.max_connection_age_ms", keepalive.max_connection_age),
        ("grpc.max_connection_age_grace_ms", keepalive.max_connection_age_grace),
    ):
        if seconds is not None:
            options[name] = _milliseconds(seconds)
    return list(options.items())


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), _MAX_INT)


def _credentials(tls: ServerTls, key: str) -> grpc.ServerCredentials:
    tls_context(tls, key)  # gRPC accepts any bytes and fails at the first handshake.
    try:
        pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
        roots = Path(tls.client_ca_file).read_bytes() if tls.client_ca_file is not None else None
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {error.filename}: {error.strerror}", field=key) from None
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)

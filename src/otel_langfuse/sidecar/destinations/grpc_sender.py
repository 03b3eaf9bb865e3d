"""OTLP over gRPC: one unary call, the request's bytes as they are.

Rules:

- The channel is made at the first call, by the process that makes it.
- gRPC's own retries are off: a request leaves once for each ``send``.
- Connecting ends before the call's deadline does, so that "never connected", whose outcome is known, differs from "no
  answer", whose is not.
- A connection on which several calls in a row got no answer may be dead without knowing it (a host that vanished): the
  next call opens a new one, the old one closes when its last call has ended.
- The proxy comes from gRPC's own variables: ``https_proxy``, ``http_proxy``, ``no_proxy``.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from otel_langfuse.langfuse.transport import uninstrumented
from otel_langfuse.sidecar.config.schema import ClientTls
from otel_langfuse.sidecar.destinations.verdicts import Sent, Target, Verdict, judge_call, judge_response
from otel_langfuse.sidecar.entry import Signal

__all__ = ["GrpcSender", "address_of"]

_METHODS = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
_PATIENCE = 3  # calls without an answer, in a row, after which a connection is given up
_LONGEST_RECONNECT = 5_000  # ms between attempts to connect: gRPC's own 120 s would outlast the outage
_CONNECT_SHARE = 0.8  # of the timeout


class _Line:
    """A channel, and how its calls went."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.calls = {signal: channel.unary_unary(method) for signal, method in _METHODS.items()}
        self.users = 0
        self.silent = 0
        self.retired = False


class GrpcSender:
    """Calls one server.

    Args:
        target: What sentences say.
        endpoint: Host and port, or a URL whose scheme decides on TLS.
        tls: Files and name, and whether an endpoint without scheme has no TLS.
        headers: Metadata.
        compressed: Whether messages are compressed with gzip.
        timeout: Seconds of a call at most, which connecting has to stay below.
        user_agent: What the server is told.
    """

    def __init__(
        self,
        target: Target,
        endpoint: str,
        *,
        tls: ClientTls,
        headers: Mapping[str, str],
        compressed: bool,
        timeout: float,
        user_agent: str = "otel-langfuse",
    ) -> None:
        self._target = target
        self._address, self._secure = address_of(endpoint, tls)
        self._tls = tls
        self._metadata = tuple(
            (name.lower(), value.encode("latin-1") if name.lower().endswith("-bin") else value)
            for name, value in headers.items()
        )
        self._compression = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        self._options = [
            ("grpc.enable_retries", 0),
            ("grpc.primary_user_agent", user_agent),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 250),
            ("grpc.min_reconnect_backoff_ms", max(int(timeout * 1000 * _CONNECT_SHARE), 100)),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT),
            # Two senders to one address share no connection: a retired one would come back.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if tls.server_name_override:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name_override))
        self._lock = threading.Lock()
        self._line: _Line | None = None

    def __repr__(self) -> str:
        return f"GrpcSender({self._target.host})"

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        """See ``Sender``."""
        sent = Sent(signal, items)
        try:
            with self._using() as line, uninstrumented():
                return self._call(line, sent, payload, timeout)
        except _UnusableError as error:
            return Verdict("retry", "expired", f"{self._target.name}: {sent} cannot be sent: {error}.")

    def _call(self, line: _Line, sent: Sent, payload: bytes, timeout: float) -> Verdict:
        try:
            response = line.calls[sent.signal](payload, timeout=timeout, metadata=self._metadata, compression=self._compression)
        except grpc.RpcError as error:
            code, details, trailers = _told(error)
            line.silent = line.silent + 1 if code == "DEADLINE_EXCEEDED" else 0
            return judge_call(code, details, sent, self._target, trailers)
        line.silent = 0
        return judge_response(response, sent, self._target)

    def close(self) -> None:
        """See ``Sender``."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.channel.close()

    @contextmanager
    def _using(self) -> Iterator[_Line]:
        with self._lock:
            line = self._line
            if line is not None and line.silent >= _PATIENCE:
                line.retired, line = True, None
            if line is None:
                line = self._line = _Line(self._channel())
            line.users += 1
        try:
            yield line
        finally:
            with self._lock:
                line.users -= 1
                over = not line.users and (line.retired or line.silent >= _PATIENCE)
                if over and self._line is line:
                    self._line = None
            if over:
                line.channel.close()

    def _channel(self) -> Any:
        if not self._secure:
            return grpc.insecure_channel(self._address, options=self._options)
        tls = self._tls
        authorities = tls.ca_file or ssl.get_default_verify_paths().cafile
        credentials = grpc.ssl_channel_credentials(
            _read(authorities), _read(tls.key_file) if tls.cert_file else None, _read(tls.cert_file)
        )
        return grpc.secure_channel(self._address, credentials, options=self._options)


class _UnusableError(Exception):
    """A file that the channel needs cannot be read."""


def _read(path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _UnusableError(f"the file {path} cannot be read ({type(error).__name__})") from None


def _told(error: Any) -> tuple[str, str, tuple[tuple[str, str | bytes], ...]]:
    """Name of the status, its words, and the trailing metadata of a failed call."""
    if not hasattr(error, "code"):  # every error of a call is a call too, but its type does not say so
        return "UNKNOWN", type(error).__name__, ()
    code = error.code()
    trailers = tuple((name, value) for name, value in error.trailing_metadata() or ())
    return (code.name if code is not None else "UNKNOWN"), error.details() or "", trailers


def address_of(endpoint: str, tls: ClientTls) -> tuple[str, bool]:
    """The address that gRPC dials, and whether by TLS: as the scheme says, else unless ``tls.insecure`` is set."""
    scheme, sign, rest = endpoint.partition("://")
    if sign and scheme.lower() in ("http", "https"):
        return rest.partition("/")[0].rpartition("@")[2], scheme.lower() == "https"
    return endpoint, not tls.insecure

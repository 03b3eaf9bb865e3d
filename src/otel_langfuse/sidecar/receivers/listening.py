"""What both listeners need before the first request: an address, a certificate, a token.

What cannot be used raises ``ConfigError``, with the key in the configuration, the value and the cause.
"""

from __future__ import annotations

import errno
import hmac
import socket
import ssl
from typing import Literal
from urllib.parse import urlsplit

from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import ServerTls

__all__ = ["BACKLOG", "Gate", "bind", "host_and_port", "key_of", "tls_context"]

BACKLOG = 2048
"""Connections that wait to be accepted."""


class Gate:
    """Who may send: everybody, or who shows the listener's token. The comparison takes the same time for every guess."""

    def __init__(self, listener: Listener) -> None:
        self._token = listener.token.encode() if listener.token is not None else None
        self._scheme = listener.scheme
        self.challenge = listener.scheme or "Bearer"
        """What ``WWW-Authenticate`` says."""

    def __repr__(self) -> str:
        return f"Gate(open={self._token is None})"

    def admits(self, authorization: bytes | None) -> bool:
        """Whether this ``Authorization`` header opens."""
        if self._token is None:
            return True
        shown = authorization or b""
        if self._scheme:
            scheme, _, shown = shown.partition(b" ")
            if scheme.decode("latin-1").lower() != self._scheme.lower():
                shown = b""
        return hmac.compare_digest(shown.strip(), self._token)


def key_of(listener: Listener, protocol: Literal["grpc", "http"], key: str) -> str:
    """The place of one of the listener's keys in the configuration."""
    return f"receivers.{listener.receiver}.protocols.{protocol}.{key}"


def host_and_port(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port."""
    parts = urlsplit(f"//{address}")
    return parts.hostname or "", parts.port or 0


def bind(address: str, key: str) -> list[socket.socket]:
    """Listening sockets on every address that the host's name has; with port 0 on one free port.

    Raises:
        ConfigError: There is none, or one is taken.
    """
    host, port = host_and_port(address)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, proto, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            sock = socket.socket(family, kind, proto)
            try:
                _listen(sock, (target[0], port, *target[2:]))
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                missing = error  # "localhost" has an IPv6 address even where the machine has no IPv6.
            else:
                sockets.append(sock)
                port = sock.getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except OSError as error:
        for sock in sockets:
            sock.close()
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"{key}: cannot listen on {address}: {reason}; stop what uses the address or choose another",
            field=key,
            source=address,
        ) from None
    return sockets


def _listen(sock: socket.socket, target: tuple[object, ...]) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # "[::]" takes IPv4 as well, as it does for gRPC; a name with both kinds of addresses gets a socket for each.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if target[0] == "::" else 1)
    sock.bind(target)
    sock.listen(BACKLOG)
    sock.setblocking(False)


def tls_context(tls: ServerTls, key: str, protocol: Literal["http/1.1", "h2"]) -> ssl.SSLContext:
    """A server's context from the listener's files; ``protocol`` is what it tells clients that it speaks.

    Raises:
        ConfigError: One of them cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    try:
        # Without a callback an encrypted key would ask for its passphrase on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise _unusable(key, f"the certificate {tls.cert_file} with the key {tls.key_file}", error) from None
    if tls.client_ca_file is not None:
        try:
            context.load_verify_locations(tls.client_ca_file)
        except (OSError, ValueError) as error:
            raise _unusable(key, f"the authorities in {tls.client_ca_file}", error) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _unusable(key: str, what: str, error: Exception) -> ConfigError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    return ConfigError(f"{key}: cannot use {what}: {reason}; both are PEM files, and the key has no passphrase", field=key)

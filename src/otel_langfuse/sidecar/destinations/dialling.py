"""From host and port to a socket that HTTP/2 can be spoken on: names, proxy, TLS, all within one deadline.

Rules:

- Whatever fails here fails before a byte of a request has left: an ``UnsentError``, whose outcome is known.
- The proxy is that of gRPC's own variables, in lower case: ``grpc_proxy``, ``https_proxy`` or ``http_proxy``, unless
  ``no_grpc_proxy`` or ``no_proxy`` names the host. It is asked to connect through, and told nothing else.
- Files are read for each connection, so that a renewed certificate is used by the next one.
- The resolver has a timeout of its own.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from otel_langfuse.sidecar.config.schema import ClientTls

__all__ = ["UnsentError", "dial"]

_PORT = 443  # gRPC's own, of addresses without one
_PROXY_ANSWER = 16 * 1024  # bytes
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPT = ("no_grpc_proxy", "no_proxy")
_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class UnsentError(Exception):
    """Nothing of a request left."""


def dial(address: str, tls: ClientTls | None, deadline: float) -> socket.socket:
    """A connected socket, encrypted if ``tls`` is given.

    Args:
        address: ``host:port`` or ``[v6]:port``.
        tls: Files and the expected name.
        deadline: On the monotonic clock.

    Raises:
        UnsentError: There is no connection.
    """
    host, port = _split(address)
    context = _context(tls) if tls is not None else None
    proxy = _proxy_for(host, port)
    via_host, via_port = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
    sock = _connected(via_host, via_port, deadline)
    try:
        if proxy:
            _pass_through(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy.username, proxy.password)
        if context is not None and tls is not None:
            sock.settimeout(_left(deadline))
            sock = context.wrap_socket(sock, server_hostname=tls.server_name_override or host)
    except BaseException as error:
        sock.close()
        if isinstance(error, (OSError, ValueError)):
            raise UnsentError(_handshake_words(error)) from None
        raise
    return sock


def _split(address: str) -> tuple[str, int]:
    """Host and port."""
    try:
        parts = urlsplit(f"//{address}")
        return parts.hostname or "", parts.port or _PORT
    except ValueError:
        raise UnsentError("failed to connect: host and port cannot be read") from None


def _context(tls: ClientTls) -> ssl.SSLContext:
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        if path:
            _check(path)
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ValueError) as error:
        message = f"failed to connect: {tls.ca_file or 'the authorities'} or {tls.cert_file} cannot be used"
        raise UnsentError(f"{message} ({type(error).__name__})") from None
    context.set_alpn_protocols(["h2"])
    return context


def _check(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise UnsentError(f"failed to connect: the file {path} cannot be read ({type(error).__name__})") from None


def _proxy_for(host: str, port: int) -> ProxyUrl | None:
    for name in _PROXIES:
        if value := os.environ.get(name):
            break
    else:
        return None
    if any(_names(entry, host, port) for name in _EXEMPT for entry in os.environ.get(name, "").split(",")):
        return None
    try:
        return ProxyUrl(value)
    except ValueError:
        raise UnsentError("failed to connect: the proxy's address in the environment cannot be read") from None


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of ``no_proxy`` means a host: a name or address, with or without port, or a domain."""
    entry = entry.strip().lstrip(".").lower()
    return bool(entry) and (entry in ("*", host, f"{host}:{port}") or host.endswith("." + entry))


class ProxyUrl:
    """What a proxy's URL says; its ``repr`` says nothing."""

    def __init__(self, value: str) -> None:
        parts = urlsplit(value if "://" in value else f"//{value}")
        self.hostname, self.port = parts.hostname, parts.port
        self.username = unquote(parts.username) if parts.username is not None else None
        self.password = unquote(parts.password or "")


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "no host name"
        raise UnsentError(f"DNS resolution failed for {host}: {words}") from None
    last = ""
    for family, kind, protocol, _, where in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(where)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _ALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        except OSError as error:
            sock.close()
            last = _words(error)  # the error itself would hold this frame, and all that it was to send
        else:
            return sock
    raise UnsentError(f"failed to connect: {last or _words(None)}")


def _pass_through(sock: socket.socket, authority: str, user: str | None, password: str) -> None:
    """Asks a proxy to connect on; what comes after its answer is left in the socket."""
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if user is not None:
        request += f"Proxy-Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}\r\n"
    sock.sendall(f"{request}\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)  # once for each connection, and nothing beyond may be taken
        if not byte or len(answer) > _PROXY_ANSWER:
            raise UnsentError("failed to connect: the proxy gave no proper answer")
        answer += byte
    status = answer.split(b" ", 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        shown = status[0][:3].decode("ascii", "replace") if status else "nothing"
        raise UnsentError(f"failed to connect: the proxy answered {shown}; check https_proxy")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _handshake_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"failed to connect: CERTIFICATE_VERIFY_FAILED: {error.verify_message}"
    return f"failed to connect: Handshake failed: {_words(error)}"


def _words(error: Exception | None) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__ if error is not None else "no address"

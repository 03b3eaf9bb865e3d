"""The urllib3 side of ``transport.py``; imported at the first request only.

urllib3 bounds each read, not the answer: a server that sends one byte a second would hold a request forever. Here the
response reads through a socket whose timeout is always what is left until the request's deadline.
"""

from __future__ import annotations

import http.client
import io
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url

from otel_langfuse.langfuse.transport import BODY_LIMIT, Answer, ErrorKind, TransportError

__all__ = ["Connections"]

# What is read beyond the kept part of a body, to be able to keep the connection.
_DRAIN_LIMIT = 64 * 1024


class _Attempt(threading.local):
    """The request that the current thread is making; urllib3 offers no way to hand it to a connection."""

    deadline: float = 0.0
    sent: bool = False


_attempt = _Attempt()


class _DeadlineReader(io.RawIOBase):
    """Reads a socket, each time with the time that is left."""

    def __init__(self, sock: Any, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _attempt.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the request has passed")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach()))


class _Plain(HTTPConnection):
    response_class = _DeadlineResponse

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)
        # Set only here: a body that the kernel did not take to the end cannot have been stored.
        _attempt.sent = True


class _Tls(HTTPSConnection):
    response_class = _DeadlineResponse

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)
        _attempt.sent = True


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Tls


class Connections:
    """A pool of kept-alive connections, one for each host, direct or through a proxy.

    Args:
        proxy: URL of the proxy, or ``None``.
        ca_file: PEM file of the certificate authorities to trust instead of the system's.
        hosts: Hosts whose connections are kept.
        certificate: PEM files of a client certificate and its key; one file may hold both.

    Raises:
        TransportError: The CA file, the client certificate or the proxy's URL cannot be used.
    """

    def __init__(
        self,
        *,
        proxy: str | None,
        ca_file: str | None,
        hosts: int = 1,
        certificate: tuple[str, str | None] | None = None,
    ) -> None:
        context = _trust(ca_file)
        if certificate is not None:
            _show(context, *certificate)
        self._manager: urllib3.PoolManager
        if proxy is None:
            self._manager = urllib3.PoolManager(num_pools=hosts, maxsize=1, ssl_context=context)
        else:
            self._manager = _proxy_manager(proxy, context, hosts)
        self._manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout: float, deadline: float) -> Answer:
        """Sends ``body`` once; ``deadline`` is a reading of ``time.monotonic``."""
        return self.request("POST", url, body, headers, timeout=timeout, deadline=deadline)

    def request(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout: float,
        deadline: float,
        keep: int = BODY_LIMIT,
    ) -> Answer:
        """Sends ``body`` once and keeps ``keep`` bytes of the answer's body at the most."""
        _attempt.deadline = deadline
        _attempt.sent = False
        try:
            response = self._manager.urlopen(
                method,
                url,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(total=timeout),
                preload_content=False,
                decode_content=False,
            )
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _translate(error, timeout=timeout, sent=_attempt.sent) from None
        kept = _read(response, keep)
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, kept)

    def close(self) -> None:
        """Closes the idle connections."""
        self._manager.clear()


def _trust(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        message = f"the CA file {ca_file} cannot be used ({type(error).__name__})"
        raise TransportError("tls", message) from None


def _show(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        message = f"the client certificate {certificate} cannot be used ({type(error).__name__})"
        raise TransportError("tls", message) from None


def _proxy_manager(proxy: str, context: ssl.SSLContext, hosts: int) -> urllib3.ProxyManager:
    try:
        auth = parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(auth)) if auth else None
        return urllib3.ProxyManager(
            proxy, num_pools=hosts, maxsize=1, proxy_headers=headers, ssl_context=context, proxy_ssl_context=context
        )
    except (exceptions.HTTPError, ValueError):
        message = "the proxy's URL cannot be used: only http:// and https:// proxies are supported"
        raise TransportError("proxy", message) from None


def _read(response: urllib3.BaseHTTPResponse, keep: int) -> bytes:
    """The kept part of the body. The connection goes back to the pool if the body ended in time, else it closes."""
    kept = bytearray()
    total = 0
    try:
        while total <= _DRAIN_LIMIT:
            piece = response.read1(BODY_LIMIT)
            if not piece:
                response.release_conn()
                return bytes(kept)
            total += len(piece)
            kept += piece[: keep - len(kept)]
    except (exceptions.HTTPError, http.client.HTTPException, OSError):
        pass  # The status is known, so the outcome is: the rest of the body has nothing to add.
    response.close()
    return bytes(kept)


def _translate(error: Exception, *, timeout: float, sent: bool) -> TransportError:
    """The error in this package's words; urllib3's own texts may hold a proxy's password."""
    kind, message = _name(error, timeout)
    if sent and kind in ("tls", "other"):
        # The handshake was over: this is a connection that broke.
        kind, message = "reset", "the connection broke before an answer came"
    return TransportError(kind, message, sent=sent)


def _name(error: Exception, timeout: float) -> tuple[ErrorKind, str]:
    if isinstance(error, exceptions.ProxyError):
        return "proxy", f"the proxy cannot be used ({_proxy_reason(error)})"
    if isinstance(error, exceptions.NameResolutionError):
        return "dns", "the host's name cannot be resolved"
    if isinstance(error, exceptions.NewConnectionError):
        return "refused", "the connection was refused or the host cannot be reached"
    if isinstance(error, exceptions.ConnectTimeoutError):
        return "connect_timeout", f"no connection within {timeout:g} s"
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
        return "timeout", f"no answer within {timeout:g} s"
    if isinstance(error, (exceptions.SSLError, ssl.SSLError)):
        return "tls", _tls_reason(error)
    if isinstance(error, (exceptions.ProtocolError, http.client.HTTPException, OSError)):
        return "reset", "the connection broke before an answer came"
    return "other", f"the request could not be made ({type(error).__name__})"


def _tls_reason(error: Exception) -> str:
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"the server's certificate was not accepted: {inner.verify_message}"
    reason = getattr(inner, "reason", None)
    return f"the TLS handshake failed ({reason if isinstance(reason, str) else type(inner).__name__})"


def _proxy_reason(error: exceptions.ProxyError) -> str:
    """``407`` and its like from a refused tunnel, else the kind of the error below."""
    inner = error.original_error
    for word in str(inner).replace(":", " ").split():
        if len(word) == 3 and word.isdigit():
            return f"it answered {word}"
    if isinstance(inner, exceptions.NameResolutionError):
        return "its name cannot be resolved"
    if isinstance(inner, (exceptions.NewConnectionError, OSError)):
        return "it refused the connection"
    return type(inner).__name__

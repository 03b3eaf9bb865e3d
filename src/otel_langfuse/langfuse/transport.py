"""One POST to one URL, and what came back.

This module owns the connection: TLS, proxy, authentication, keep-alive and the deadline of a request as a whole. It
never retries, never follows a redirect and never judges an answer (``answers.py`` does). Its errors and its ``repr``
carry no key, no header and no payload. urllib3 and ssl are imported at the first request, which keeps imports cheap.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

from otel_langfuse.errors import DeliveryError

if TYPE_CHECKING:
    from otel_langfuse.langfuse.connections import Connections

__all__ = [
    "BODY_LIMIT",
    "Answer",
    "ErrorKind",
    "HttpPost",
    "HttpTransport",
    "Transport",
    "TransportError",
    "plain_headers",
    "proxy_for",
    "sdk_headers",
    "uninstrumented",
]

BODY_LIMIT = 4096
"""Bytes of an answer's body that are kept."""

ErrorKind = Literal["dns", "refused", "connect_timeout", "timeout", "reset", "tls", "proxy", "other"]

# Instrumentations from before the keys lived in the API read this plain name.
_PLAIN_SUPPRESS_KEY = "suppress_instrumentation"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered.

    Attributes:
        status: The HTTP status.
        headers: Names in lower case.
        body: The first ``BODY_LIMIT`` bytes at most, fewer if the rest did not come in time.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class TransportError(DeliveryError):
    """No answer came.

    Attributes:
        kind: What failed.
        sent: Whether the whole request had left, so that the server may have acted on it.
    """

    def __init__(self, kind: ErrorKind, message: str, *, sent: bool = False) -> None:
        super().__init__(message, retryable=True, ambiguous=sent)
        self.kind: ErrorKind = kind
        self.sent = sent


class Transport(Protocol):
    """Where request bytes go. One method, so that a test can stand in for the network."""

    def post(self, body: bytes, *, compressed: bool, timeout: float) -> Answer:
        """Sends ``body`` once and returns the answer.

        Raises:
            TransportError: No answer came within ``timeout`` seconds.
        """
        ...


class HttpPost:
    """HTTP/1.1 with keep-alive to one URL.

    Connections belong to one process: after a fork the child opens its own. The proxy comes from ``HTTPS_PROXY``,
    ``HTTP_PROXY`` and ``NO_PROXY``, read when the first request of a process is made. Requests run with
    OpenTelemetry's instrumentation suppressed, so that an instrumented urllib3 makes no spans of them.

    The answer must be in ``timeout`` seconds after the call, however it trickles; connecting and sending may each take
    as long before that is noticed, and the resolver has its own timeout. Once the status line has been read the outcome
    is known: a body that dawdles past the deadline is cut, not an error.

    Args:
        url: The full URL of the traces endpoint.
        headers: What every request says; names in lower case. The encoding is told per request.
        ca_file: PEM file of the certificate authorities to trust instead of the system's.
        certificate: PEM files of a client certificate and its key, if the server asks for one.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        ca_file: str | None = None,
        certificate: tuple[str, str | None] | None = None,
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._certificate = certificate
        self._headers = dict(headers) | {"content-type": "application/x-protobuf"}
        self._lock = threading.Lock()
        self._connections: Connections | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        parts = urlsplit(self._url)
        return f"{type(self).__name__}({parts.scheme}://{parts.hostname}{parts.path})"

    def post(self, body: bytes, *, compressed: bool, timeout: float) -> Answer:
        """Sends ``body`` once; see ``Transport.post``."""
        deadline = time.monotonic() + timeout
        headers = dict(self._headers)
        if compressed:
            headers["content-encoding"] = "gzip"
        with uninstrumented():
            return self._pool().post(self._url, body, headers, timeout=timeout, deadline=deadline)

    def close(self) -> None:
        """Closes idle connections; a later ``post`` opens new ones."""
        with self._lock:
            connections, self._connections = self._connections, None
        if connections is not None and self._pid == os.getpid():
            connections.close()

    def _pool(self) -> Connections:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._connections = None
        with self._lock:
            if self._connections is None:
                from otel_langfuse.langfuse.connections import Connections

                self._connections = Connections(
                    proxy=proxy_for(self._url), ca_file=self._ca_file, certificate=self._certificate
                )
            return self._connections


class HttpTransport(HttpPost):
    """The way to a Langfuse project.

    Args:
        url: The full URL of the traces endpoint.
        public_key: The project's public key.
        secret_key: The project's secret key.
        ca_file: PEM file of the certificate authorities to trust instead of the system's.
        headers: Further headers; those that this class sets itself win.
    """

    def __init__(
        self,
        url: str,
        *,
        public_key: str,
        secret_key: str,
        ca_file: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        ours = sdk_headers(public_key, secret_key, headers) | {"x-langfuse-ingestion-version": "4"}
        super().__init__(url, headers=ours, ca_file=ca_file)


def sdk_headers(public_key: str, secret_key: str, more: Mapping[str, str] | None) -> dict[str, str]:
    """What every request to Langfuse says; names in lower case, ``more`` loses to what is set here."""
    token = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode("ascii")
    return plain_headers(more) | {
        "authorization": f"Basic {token}",
        "x-langfuse-sdk-name": "otel-langfuse",
        "x-langfuse-sdk-version": _version(),
    }


def plain_headers(more: Mapping[str, str] | None) -> dict[str, str]:
    """What every request says to anybody; names in lower case, ``more`` loses to what is set here."""
    headers = {name.lower(): value for name, value in (more or {}).items()} | {
        "accept-encoding": "identity",
        "user-agent": f"otel-langfuse/{_version()}",
    }
    # The encoding is told per request, and the length is the body's.
    for name in ("content-encoding", "content-length", "transfer-encoding"):
        headers.pop(name, None)
    return headers


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for ``url``, or ``None``.

    Only the environment is asked (``proxy_bypass`` does likewise when it names a proxy): macOS' system configuration
    must not be read in a forked child.
    """
    from urllib.request import getproxies_environment, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


@contextmanager
def uninstrumented() -> Iterator[None]:
    """Requests made meanwhile in this thread make no spans of an instrumented HTTP client."""
    context = otel_context.get_current()
    for key in (_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _PLAIN_SUPPRESS_KEY):
        context = otel_context.set_value(key, True, context)
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


def _version() -> str:
    from importlib import metadata  # a fifth of this package's import time, and often loaded by then

    try:
        return metadata.version("otel-langfuse")
    except metadata.PackageNotFoundError:
        return "unknown"

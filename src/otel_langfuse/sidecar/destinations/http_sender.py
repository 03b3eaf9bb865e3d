"""OTLP over HTTP: one POST, protobuf, by kept-alive connections.

The connection's rules are those of ``langfuse/connections.py``: a deadline for the whole request, no redirect, no retry.
The proxy comes from ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, read at the first request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from otel_langfuse.langfuse.compression import compress
from otel_langfuse.langfuse.connections import Connections
from otel_langfuse.langfuse.transport import TransportError, proxy_for, uninstrumented
from otel_langfuse.sidecar.config.schema import ClientTls
from otel_langfuse.sidecar.destinations.verdicts import Sent, Target, Verdict, judge_answer, judge_silence
from otel_langfuse.sidecar.entry import Signal

__all__ = ["HttpSender"]

_KEEP = 64 * 1024  # of an answer's body: a partial success with its words
_OURS = ("content-encoding", "content-length", "transfer-encoding", "content-type")


class HttpSender:
    """Posts to one URL for each signal.

    Args:
        target: What sentences say.
        urls: Full URLs, without user and password.
        headers: Further headers. The ones about the body are set here.
        tls: Files and name; the URL's scheme decides whether there is TLS.
        compressed: Whether bodies are compressed with gzip.
        connections: Connections that are kept.
        user_agent: What the server is told.
        wall_clock: Seconds since the epoch, for dates in ``Retry-After``.
    """

    def __init__(
        self,
        target: Target,
        urls: Mapping[Signal, str],
        *,
        headers: Mapping[str, str],
        tls: ClientTls,
        compressed: bool,
        connections: int,
        user_agent: str = "otel-langfuse",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = target.name
        self._urls = dict(urls)
        self._targets = {signal: replace(target, host=urlsplit(url).netloc) for signal, url in urls.items()}
        given = {name.lower(): value for name, value in headers.items() if name.lower() not in _OURS}
        self._headers = {"user-agent": user_agent, "accept-encoding": "identity"} | given
        self._headers["content-type"] = "application/x-protobuf"
        if compressed:
            self._headers["content-encoding"] = "gzip"
        self._compressed = compressed
        self._tls = tls
        self._size = connections
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._pools: dict[Signal, _Pool] = {}

    def __repr__(self) -> str:
        return f"HttpSender({self._name})"

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        """See ``Sender``."""
        sent = Sent(signal, items)
        target = self._targets[signal]
        body = compress(payload) if self._compressed else payload
        deadline = time.monotonic() + timeout
        try:
            with uninstrumented():
                answer = self._pool(signal).request(
                    "POST", self._urls[signal], body, self._headers, timeout=timeout, deadline=deadline, keep=_KEEP
                )
        except TransportError as error:
            return judge_silence(error, sent, target)
        return judge_answer(answer, sent, target, self._wall_clock)

    def close(self) -> None:
        """See ``Sender``."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def _pool(self, signal: Signal) -> _Pool:
        with self._lock:
            pool = self._pools.get(signal)
            if pool is None:
                pool = self._pools[signal] = _Pool(proxy_for(self._urls[signal]), self._tls, self._size)
            return pool


class _Pool(Connections):
    """Connections for several threads, with a client certificate and an expected name."""

    def __init__(self, proxy: str | None, tls: ClientTls, size: int) -> None:
        certificate = (tls.cert_file, tls.key_file) if tls.cert_file else None
        super().__init__(proxy=proxy, ca_file=tls.ca_file, certificate=certificate)
        options: dict[str, Any] = self._manager.connection_pool_kw
        options["maxsize"] = size
        if tls.server_name_override:
            options["server_hostname"] = options["assert_hostname"] = tls.server_name_override

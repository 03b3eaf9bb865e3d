"""OTLP over gRPC: one unary call for each request, by connections that carry one call at a time.

Rules:

- A call takes an idle connection, or opens one, so that there are as many as there are calls at a time.
- A message is compressed here, by the fastest means there is; gRPC's own library would take most of the process' time.
- A request leaves once for each ``send``. It leaves a second time only if the server says that it did nothing with it.
- Connecting ends before the call's deadline does: "never connected", whose outcome is known, differs from "no answer",
  whose is not.
- A connection on which a call got no answer in time is given up: it may be dead without knowing it.
- The proxy comes from gRPC's own variables; see ``dialling.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from otel_langfuse.langfuse.compression import compress
from otel_langfuse.sidecar.config.schema import ClientTls
from otel_langfuse.sidecar.destinations.dialling import UnsentError, dial
from otel_langfuse.sidecar.destinations.grpc_call import KEEP, CallError, call_fields, message_of, prefix_of
from otel_langfuse.sidecar.destinations.verdicts import Sent, Target, Verdict, judge_call, judge_response
from otel_langfuse.sidecar.entry import EXPORT_METHODS, Signal
from otel_langfuse.sidecar.http2.client import Connection
from otel_langfuse.sidecar.http2.frames import BrokenError, Reply, ResetError, UnprocessedError
from otel_langfuse.sidecar.http2.header_blocks import header_block

__all__ = ["GrpcSender", "address_of"]

_CONNECT_SHARE = 0.8  # of the timeout
_OF_RESET = {8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # HTTP/2's code to gRPC's


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
        self._headers = dict(headers)
        self._compressed = compressed
        self._timeout = timeout
        self._user_agent = user_agent
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._blocks: dict[Signal, tuple[float, bytes]] = {}

    def __repr__(self) -> str:
        return f"GrpcSender({self._target.host})"

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        """See ``Sender``."""
        sent = Sent(signal, items)
        deadline = time.monotonic() + timeout
        body = compress(payload) if self._compressed else payload
        try:
            message = message_of(self._call(signal, body, timeout, deadline))
        except CallError as failed:
            return judge_call(failed.code, failed.details, sent, self._target, failed.trailers)
        return judge_response(message, sent, self._target)

    def close(self) -> None:
        """See ``Sender``; calls that are under way break."""
        with self._lock:
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.abort()
            self._busy.clear()
        for connection in idle:
            connection.close()

    def _call(self, signal: Signal, body: bytes, timeout: float, deadline: float) -> Reply:
        """One call, and another if the server says that the first never was."""
        try:
            return self._once(signal, body, timeout, deadline)
        except UnprocessedError:
            pass
        try:
            return self._once(signal, body, timeout, deadline)
        except UnprocessedError as error:
            raise CallError("UNAVAILABLE", str(error)) from None

    def _once(self, signal: Signal, body: bytes, timeout: float, deadline: float) -> Reply:
        """One call.

        Raises:
            CallError: There is no answer, for a reason that has a status.
            UnprocessedError: The server did nothing with it.
        """
        connection = self._take(deadline - timeout * (1 - _CONNECT_SHARE))
        kept = False
        try:
            prefix = prefix_of(len(body), compressed=self._compressed)
            reply = connection.call(self._block(signal, timeout), prefix, body, deadline)
            kept = True
        except ResetError as reset:
            kept = True
            raise CallError(_OF_RESET.get(reset.code, "INTERNAL"), str(reset)) from None
        except TimeoutError:
            raise CallError("DEADLINE_EXCEEDED", "Deadline Exceeded") from None
        except BrokenError as error:
            raise CallError("UNAVAILABLE", str(error)) from None
        finally:
            self._give_back(connection, kept=kept)
        return reply

    def _block(self, signal: Signal, timeout: float) -> bytes:
        """A call's header fields; those of the last timeout are kept, which is nearly always the same."""
        known = self._blocks.get(signal)
        if known is not None and known[0] == timeout:
            return known[1]
        block = header_block(
            call_fields(
                EXPORT_METHODS[signal],
                authority=self._tls.server_name_override or self._address,
                secure=self._secure,
                timeout=timeout,
                compressed=self._compressed,
                user_agent=self._user_agent,
                headers=self._headers,
            )
        )
        self._blocks[signal] = (timeout, block)
        return block

    # Connections.

    def _take(self, deadline: float) -> Connection:
        """A connection that the server has not ended, the one used last if there are several."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
                if connection is not None:
                    self._busy.add(connection)
            if connection is None:
                break
            if connection.ready():
                return connection
            self._give_back(connection, kept=False)
        try:
            connection = Connection(dial(self._address, self._tls if self._secure else None, deadline), keep=KEEP)
        except UnsentError as error:
            raise CallError("UNAVAILABLE", str(error)) from None
        with self._lock:
            self._busy.add(connection)
        try:
            connection.open(deadline)
        except (BrokenError, TimeoutError) as error:
            self._give_back(connection, kept=False)
            raise CallError("UNAVAILABLE", f"failed to connect: {error}") from None
        return connection

    def _give_back(self, connection: Connection, *, kept: bool) -> None:
        with self._lock:
            if kept and connection in self._busy:  # else it was closed meanwhile
                self._idle.append(connection)
            else:
                kept = False
            self._busy.discard(connection)
        if not kept:
            connection.close()


def address_of(endpoint: str, tls: ClientTls) -> tuple[str, bool]:
    """Host and port, and whether by TLS: as the scheme says, else unless ``tls.insecure`` is set."""
    scheme, sign, rest = endpoint.partition("://")
    if sign and scheme.lower() in ("http", "https"):
        return rest.partition("/")[0].rpartition("@")[2], scheme.lower() == "https"
    return endpoint, not tls.insecure

"""The ASGI application that takes OTLP/HTTP exports.

Rules:

- The answer has the encoding of the request: protobuf or JSON; errors are a ``google.rpc.Status`` in it.
- A body that is refused is read to its end within bounds before the answer, because a sender that is still writing
  when the connection closes sees a broken connection and sends the same again. A sender that asks first
  (``Expect: 100-continue``) is answered at once.
- All bodies together are bounded by ``BODIES_AT_ONCE`` times the largest one; beyond, senders are told to come again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import HttpProtocol
from otel_langfuse.sidecar.entry import Receipt, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers.answers import NO_TOKEN, Code, Verdict, accepted, status_bytes
from otel_langfuse.sidecar.receivers.bodies import ENCODINGS, Room, TooLargeError
from otel_langfuse.sidecar.receivers.connections import Connection, current_connection
from otel_langfuse.sidecar.receivers.listening import Gate
from otel_langfuse.sidecar.receivers.reception import Reception

__all__ = ["ExportApplication"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PROTOBUF = b"application/x-protobuf"
_JSON = b"application/json"
_ENCODINGS = ", ".join(ENCODINGS)
# A refused body is read to this multiple of the limit, then the connection is closed over it.
_DRAIN_FACTOR = 4
# The largest body that is handled in the event loop's thread, if any is: about a millisecond's work.
_INLINE_BYTES = 64 * 1024


@dataclass(slots=True)
class _Request:
    """What the head of a request says."""

    headers: dict[bytes, bytes]
    receive: Receive
    connection: Connection
    as_json: bool
    complete: bool = False
    """Whether the body has come to its end."""
    held: int = 0
    """Bytes of the body that are in memory."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _GoneError(Exception):
    """The sender has left."""


class ExportApplication:
    """Answers the requests of one listener; called by uvicorn in its event loop.

    Args:
        listener: Its protocol is an ``HttpProtocol``.
        intake: Gets the requests.
        counters: See the package.
        pool: Where requests are handed to the intake.
        inline: Whether small ones are handed over in the event loop.
    """

    def __init__(self, listener: Listener, intake: Intake, counters: Counters, pool: Executor, *, inline: bool) -> None:
        protocol = listener.protocol
        assert isinstance(protocol, HttpProtocol)
        self._limit = protocol.max_request_body_size
        self._read_timeout = protocol.read_timeout
        self._gate = Gate(listener)
        self._counters = counters
        self._reception = Reception(listener.receiver, intake, counters, self._limit)
        self._pool = pool
        self._inline = inline
        self._room = Room(self._limit)
        paths = {Signal.TRACES: protocol.traces_url_path, Signal.LOGS: protocol.logs_url_path}
        self._signals = {path: signal for signal, path in paths.items() if signal in listener.signals}
        self._paths = ", ".join(f"{signal}: {path}" for path, signal in self._signals.items()) or "none"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        self._counters.count("http_requests")
        connection = current_connection.get()
        headers = dict(scope["headers"])
        media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        request = _Request(headers, receive, connection, as_json=media != _PROTOBUF)
        connection.begin()
        try:
            answer = await self._answer(scope, media, request)
            await self._send(send, request, answer)
        except _GoneError:
            self._counters.count("incomplete_requests")
        except asyncio.CancelledError:
            # The grace of the shutdown is over; whether the request was taken is not known.
            message = "the sidecar is shutting down and did not finish this request; send it to the next one"
            await self._send(send, request, self._later(request, message))
        finally:
            self._room.release(request.held)
            connection.end()

    async def _answer(self, scope: MutableMapping[str, Any], media: bytes, request: _Request) -> _Answer:
        refusal, signal = self._judge_head(scope, media, request)
        if refusal is None:
            length = request.headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self._limit:
                refusal = self._verdict(request, self._reception.failed(TooLargeError(self._limit)))
        try:
            async with asyncio.timeout(self._time_left(request.connection)):
                if refusal is not None:
                    await self._drain(request)
                    return refusal
                body = await self._body(request)
        except TimeoutError:
            self._counters.count("slow_clients")
            return refusal or self._later(request, f"the request did not arrive within {self._read_timeout:g} s")
        if isinstance(body, _Answer):
            return body
        outcome = await self._take(signal, body, request)
        if isinstance(outcome, Verdict):
            return self._verdict(request, outcome)
        return _Answer(200, accepted(signal, outcome, as_json=request.as_json))

    def _judge_head(self, scope: MutableMapping[str, Any], media: bytes, request: _Request) -> tuple[_Answer | None, Signal]:
        """What is wrong with the head, if anything is; and what the request should hold."""
        signal = self._signals.get(scope["path"])
        if signal is None:
            message = f"nothing is taken at this path; this receiver takes {self._paths}"
            verdict = _unsupported(404, Code.UNIMPLEMENTED, message)
            return self._refused(request, verdict, lost=scope["method"] == "POST"), Signal.TRACES
        if scope["method"] != "POST":
            verdict = _unsupported(405, Code.UNIMPLEMENTED, "exports are sent by POST")
            return self._refused(request, verdict, (b"allow", b"POST"), lost=False), signal
        if not self._gate.admits(request.headers.get(b"authorization")):
            return self._refused(request, NO_TOKEN, (b"www-authenticate", self._gate.challenge.encode())), signal
        if media not in (_PROTOBUF, _JSON):
            message = f"send content-type {_PROTOBUF.decode()} or {_JSON.decode()}"
            return self._refused(request, _unsupported(415, Code.INVALID_ARGUMENT, message)), signal
        if _encoding(request) not in ENCODINGS:
            verdict = _unsupported(400, Code.INVALID_ARGUMENT, f"send content-encoding {_ENCODINGS}")
            return self._refused(request, verdict, (b"accept-encoding", _ENCODINGS.encode())), signal
        return None, signal

    async def _take(self, signal: Signal, body: bytes, request: _Request) -> Receipt | Verdict:
        take = partial(self._reception.take, signal, body, encoding=_encoding(request), as_json=request.as_json)
        if self._inline and not request.as_json and len(body) <= _INLINE_BYTES and _encoding(request) == "identity":
            return take()
        return await asyncio.get_running_loop().run_in_executor(self._pool, take)

    async def _body(self, request: _Request) -> bytes | _Answer:
        """The body, or what is wrong with its size."""
        parts: list[bytes] = []
        while not request.complete:
            part = await _next_part(request)
            request.held += len(part)
            fits = self._room.hold(len(part))
            if request.held > self._limit:
                parts.clear()
                await self._drain(request)
                return self._verdict(request, self._reception.failed(TooLargeError(self._limit)))
            if not fits:
                parts.clear()
                await self._drain(request)
                self._counters.count("requests_told_to_wait")
                return self._later(request, "too many large requests at once; come again", status=429)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _drain(self, request: _Request) -> None:
        """Reads and forgets what the sender has yet to say, within bounds."""
        self._room.release(request.held)
        request.held = 0
        if b"expect" in request.headers:
            return
        allowance = self._limit * _DRAIN_FACTOR
        while not request.complete and allowance > 0:
            allowance -= len(await _next_part(request))

    def _time_left(self, connection: Connection) -> float | None:
        left = connection.deadline - time.monotonic()
        return None if math.isinf(left) else left

    def _later(self, request: _Request, message: str, *, status: int = 503) -> _Answer:
        return self._error(request, status, Code.UNAVAILABLE, message, (b"retry-after", b"1"))

    def _verdict(self, request: _Request, verdict: Verdict) -> _Answer:
        if verdict.retry_after is None:
            return self._error(request, verdict.status, verdict.code, verdict.message)
        seconds = str(max(1, math.ceil(verdict.retry_after))).encode()
        return self._error(request, verdict.status, verdict.code, verdict.message, (b"retry-after", seconds))

    def _refused(self, request: _Request, verdict: Verdict, *more: tuple[bytes, bytes], lost: bool = True) -> _Answer:
        self._reception.refused(verdict, lost=lost)
        return self._error(request, verdict.status, verdict.code, verdict.message, *more)

    def _error(self, request: _Request, status: int, code: int, message: str, *more: tuple[bytes, bytes]) -> _Answer:
        return _Answer(status, status_bytes(code, message, as_json=request.as_json), more)

    async def _send(self, send: Send, request: _Request, answer: _Answer) -> None:
        headers = [
            (b"content-type", _JSON if request.as_json else _PROTOBUF),
            (b"content-length", str(len(answer.body)).encode()),
            *answer.headers,
        ]
        if answer.status != 200 and not request.complete:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _encoding(request: _Request) -> str:
    name = request.headers.get(b"content-encoding", b"").strip().lower().decode("latin-1")
    return {"": "identity", "x-gzip": "gzip"}.get(name, name)


def _unsupported(status: int, code: int, message: str) -> Verdict:
    return Verdict(code, status, message, None, "unsupported_requests")


async def _next_part(request: _Request) -> bytes:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise _GoneError
    request.complete = not message.get("more_body", False)
    body: bytes = message.get("body", b"")
    return body

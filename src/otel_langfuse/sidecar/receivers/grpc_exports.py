"""The calls of the gRPC listener's connections: what is taken, what is refused, and what is answered.

Rules:

- A token is checked before the message is read; a message beyond the limit is refused by what it says of its length.
- Decompression and the wait for the journal happen in the listener's threads, except, with ``inline``, for messages that
  are neither compressed nor large.
- All messages together are bounded by ``BODIES_AT_ONCE`` times the largest one; beyond, senders are told to come again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import GrpcProtocol
from otel_langfuse.sidecar.entry import Receipt
from otel_langfuse.sidecar.http2.frames import ErrorCode, ViolationError
from otel_langfuse.sidecar.http2.server import Server
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers.answers import NO_TOKEN, Code, Verdict, accepted, judge
from otel_langfuse.sidecar.receivers.bodies import Room, TooLargeError
from otel_langfuse.sidecar.receivers.grpc_calls import ACCEPTED, SUCCESS, Call, framed, methods, refusal, unsupported
from otel_langfuse.sidecar.receivers.grpc_vigil import Vigil
from otel_langfuse.sidecar.receivers.listening import Gate
from otel_langfuse.sidecar.receivers.reception import Reception

__all__ = ["Exports", "GrpcService"]

_MIB = 1 << 20
# Calls at once over one connection, if the configuration does not say: further ones wait at the sender.
_STREAMS = 128
# What a call costs beside its message, against the same bound.
_CALL_BYTES = 1024
# The largest message that is handled in the event loop's thread, if any is: about a millisecond's work.
_INLINE_BYTES = 512 * 1024


def _later(code: int, message: str) -> Verdict:
    return Verdict(code, 429 if code == Code.RESOURCE_EXHAUSTED else 503, message, 1.0, "requests_told_to_wait")


_TOO_MUCH = _later(Code.RESOURCE_EXHAUSTED, "too many large requests at once; come again")
_SHUTDOWN = _later(Code.UNAVAILABLE, "the sidecar is shutting down and did not finish this request; send it to the next one")
_NO_MESSAGE = Verdict(Code.INVALID_ARGUMENT, 400, "the call has no message", None, "incomplete_requests")


class GrpcService:
    """What all calls of a listener share; used in its event loop only.

    Args:
        listener: Its protocol is a ``GrpcProtocol``.
        intake: Gets the requests.
        counters: See the package.
        pool: Where requests are handed to the intake.
        inline: Whether those that are plain and not large are handed over in the event loop.
        message_timeout: Seconds that a call's message may take to arrive.
    """

    def __init__(
        self, listener: Listener, intake: Intake, counters: Counters, pool: Executor, *, inline: bool, message_timeout: float
    ) -> None:
        protocol = listener.protocol
        assert isinstance(protocol, GrpcProtocol)
        self.counters = counters
        self.pool = pool
        self.inline = inline
        self.message_timeout = message_timeout
        self.streams = protocol.max_concurrent_streams or _STREAMS
        self.limit = protocol.max_recv_msg_size_mib * _MIB
        self.gate = Gate(listener)
        self.methods = methods(listener.signals)
        self.reception = Reception(listener.receiver, intake, counters, self.limit)
        self.room = Room(self.limit)


class Exports:
    """The calls of one connection, as the application of its HTTP/2 server.

    Args:
        service: The listener's.
        vigil: Is told when a call is answered, and asked about pings.
        send: Sends what the server has to say; called after answers that come from other threads.

    Attributes:
        server: The connection as HTTP/2 sees it.
    """

    def __init__(self, service: GrpcService, vigil: Vigil, send: Callable[[], None]) -> None:
        self.server: Server[Call] = Server(self, streams=service.streams)
        self._service = service
        self._vigil = vigil
        self._send = send
        self._loop = asyncio.get_running_loop()

    # ----------------------------------------------------------------------------- for the server, while it reads

    def make(self, number: int) -> Call:
        """A call begins."""
        return Call(number, time.monotonic())

    def begun(self, stream: Call, fields: Mapping[bytes, bytes]) -> None:
        """Its header fields have come."""
        service = self._service
        fits = self._hold(stream, _CALL_BYTES)
        foreign = unsupported(fields)
        if foreign is not None:
            service.reception.refused(foreign[0], lost=fields.get(b":method") == b"POST")
            self._end(stream, foreign[1])
            return
        verdict = stream.judge(fields, service.methods)
        if verdict is None:
            service.counters.count("grpc_requests")
            if not service.gate.admits(fields.get(b"authorization")):
                verdict = NO_TOKEN
            elif not fits:
                verdict = _TOO_MUCH
        if verdict is not None:
            # Health checks and reflection are asked for by people and machines that have nothing to lose.
            self._refuse(stream, verdict, lost=fields.get(b":path", b"").endswith(b"/Export"))

    def received(self, stream: Call, data: memoryview) -> None:
        """A part of its message has come."""
        service = self._service
        fits = self._hold(stream, len(data))
        verdict = stream.feed(data)
        if verdict is None:
            if stream.size is not None and stream.size > service.limit:
                verdict = judge(TooLargeError(service.limit, what="the message"))
            elif not fits:
                verdict = _TOO_MUCH
            else:
                self.server.expect(stream, stream.lacking)
                return
        self._refuse(stream, verdict)

    def completed(self, stream: Call) -> None:
        """All of it has come."""
        service = self._service
        message = stream.message()
        if message is None:
            self._refuse(stream, _NO_MESSAGE)
        elif service.inline and not stream.compressed and len(message) <= _INLINE_BYTES:
            self._answer(stream, service.reception.take(stream.signal, message, encoding="identity"))
        else:
            service.pool.submit(self._work, stream, message)

    def abandoned(self, stream: Call) -> None:
        """The client has given it up: it will come again, so that it is not taken any more if it has not been yet."""
        stream.gone = True
        if not stream.complete:
            self._service.counters.count("incomplete_requests")
            self._release(stream)

    def pinged(self) -> None:
        """The client asks whether we are there; it may not all the time."""
        if self._vigil.too_many_pings(time.monotonic(), busy=bool(self.server.open)):
            raise ViolationError(ErrorCode.CALM, "too_many_pings")

    # ------------------------------------------------------------------------------------------ for the connection

    def end_slow(self, now: float) -> None:
        """Ends the calls whose message does not come in time, and those whose answer the client does not take."""
        begun = now - self._service.message_timeout
        for call in [call for call in self.server.open.values() if not call.complete or call.answer is not None]:
            if call.since <= begun:
                self._service.counters.count("slow_clients")
                self._release(call)
                self.server.reset(call, ErrorCode.CANCEL)

    def give_up(self) -> None:
        """Answers all that has no answer: it was not finished in time."""
        for call in [call for call in self.server.open.values() if call.answer is None]:
            self._refuse(call, _SHUTDOWN)

    def lost(self) -> None:
        """The connection is gone, and with it whatever is open."""
        for call in [*self.server.open.values()]:
            del self.server.open[call.number]
            self.abandoned(call)

    # --------------------------------------------------------------------------------------------------- answers

    def _work(self, call: Call, message: bytes) -> None:
        """Hands a request over, in one of the listener's threads."""
        encoding = call.encoding if call.compressed else "identity"
        outcome = self._service.reception.take(call.signal, message, encoding=encoding, wanted=lambda: not call.gone)
        try:
            self._loop.call_soon_threadsafe(self._worked, call, outcome)
        except RuntimeError:
            pass  # The grace of the shutdown is over, and with it the loop and the connection.

    def _worked(self, call: Call, outcome: Receipt | Verdict) -> None:
        self._answer(call, outcome)
        self._send()

    def _answer(self, call: Call, outcome: Receipt | Verdict) -> None:
        if isinstance(outcome, Receipt):
            self._end(call, ACCEPTED, framed(accepted(call.signal, outcome)), SUCCESS)
        else:
            self._end(call, refusal(outcome))

    def _refuse(self, call: Call, verdict: Verdict, *, lost: bool = True) -> None:
        """Answers a call of which nothing was handed over."""
        self._service.reception.refused(verdict, lost=lost)
        call.gone = True  # should it wait for a thread
        call.forget()
        self._end(call, refusal(verdict))

    def _end(self, call: Call, block: bytes, body: bytes = b"", trailers: bytes = b"") -> None:
        self._release(call)
        call.since = time.monotonic()
        self._vigil.answered(call.since)
        self.server.answer(call, block, body, trailers)

    def _hold(self, call: Call, size: int) -> bool:
        call.held += size
        return self._service.room.hold(size)

    def _release(self, call: Call) -> None:
        self._service.room.release(call.held)
        call.held = 0

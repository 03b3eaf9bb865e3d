"""Unary gRPC calls as a server sees them: who asks for what, the message that comes, and the answer's header fields.

After gRPC's own document "gRPC over HTTP/2".
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from urllib.parse import quote

from otel_langfuse.sidecar.entry import EXPORT_METHODS, Signal
from otel_langfuse.sidecar.http2.header_blocks import header_block
from otel_langfuse.sidecar.http2.server import Stream
from otel_langfuse.sidecar.receivers.answers import Code, Verdict, status_bytes
from otel_langfuse.sidecar.receivers.bodies import ENCODINGS

__all__ = ["ACCEPTED", "SUCCESS", "Call", "framed", "methods", "refusal", "unsupported"]

_PREFIX = 5  # bytes before a message: whether it is compressed, and its length

_ANSWER = ((":status", "200"), ("content-type", "application/grpc"))
_ACCEPTS = ("grpc-accept-encoding", ",".join(ENCODINGS))
ACCEPTED = header_block((*_ANSWER, _ACCEPTS))
"""Header fields before an answer's message."""
SUCCESS = header_block((("grpc-status", "0"),))
"""Those after it."""
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_WORDS = 1024  # characters of a status' message at the most: with its details in one frame, whatever they are
# Small parts are gathered: each of them on its own would take a multiple of its bytes.
_SMALL, _GATHERED = 4 * 1024, 64 * 1024


class Call(Stream):
    """One call.

    Attributes:
        signal: What it exports.
        encoding: How its message is compressed, of ``ENCODINGS``, if the message says that it is.
        since: When it began, and later when it was answered, on the monotonic clock.
        held: Bytes of it that are counted as held.
        size: Bytes that the message has in all; ``None`` while they are not known.
        gone: Whether nobody waits for its answer any more; asked by another thread.
    """

    __slots__ = ("_lacking", "_parts", "_prefix", "compressed", "encoding", "gone", "held", "signal", "since", "size")

    def __init__(self, number: int, since: float) -> None:
        super().__init__(number)
        self.since = since
        self.signal = Signal.TRACES
        self.encoding = "identity"
        self.held = 0
        self.size: int | None = None
        self.compressed = False
        self.gone = False
        self._prefix = b""
        self._parts: list[bytes | bytearray] = []
        self._lacking = 0

    def feed(self, data: memoryview) -> Verdict | None:
        """Takes a part of the body; what is wrong with it, if anything is."""
        if self.size is None:
            lacking = _PREFIX - len(self._prefix)
            self._prefix += data[:lacking]
            if len(self._prefix) < _PREFIX:
                return None
            data = data[lacking:]
            flag, self.size = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
            self._lacking = self.size
            self.compressed = flag == 1
            if flag > 1 or (flag and self.encoding == "identity"):
                return _invalid("the message is said to be compressed, and not how")
        if len(data) > self._lacking:
            return _invalid("the call has more than one message")
        if data:
            self._keep(data)
            self._lacking -= len(data)
        return None

    def _keep(self, data: memoryview) -> None:
        parts = self._parts
        if parts and len(data) < _SMALL and len(parts[-1]) < _GATHERED:
            last = parts[-1]
            if type(last) is not bytearray:
                last = parts[-1] = bytearray(last)
            last += data
        else:
            parts.append(bytes(data))

    @property
    def lacking(self) -> int:
        """Bytes of the message that have yet to come, as far as is known."""
        return self._lacking

    def message(self) -> bytes | None:
        """The message, of which nothing is kept; ``None`` if it is not whole."""
        if self.size is None or self._lacking:
            return None
        parts, self._parts = self._parts, []
        first = parts[0] if parts else b""
        return first if len(parts) < 2 and type(first) is bytes else b"".join(parts)

    def forget(self) -> None:
        """Keeps nothing of what came."""
        self._parts.clear()

    def judge(self, fields: Mapping[bytes, bytes], known: Mapping[bytes, Signal]) -> Verdict | None:
        """Reads the header fields; what is wrong with them, if anything is.

        Args:
            fields: Those of the request.
            known: The methods that are served.
        """
        path = fields.get(b":path", b"")
        signal = known.get(path)
        if signal is None:
            served = ", ".join(sorted(method.decode() for method in known))
            return _unimplemented(f"this receiver has no such method; it has {served}")
        encoding = fields.get(b"grpc-encoding", b"identity").decode("latin-1")
        if encoding not in ENCODINGS:
            return _unimplemented(f"the message's compression is not known here; send {', '.join(ENCODINGS)}")
        self.signal, self.encoding = signal, encoding
        return None


def methods(signals: Collection[Signal]) -> dict[bytes, Signal]:
    """The methods that export these signals."""
    return {EXPORT_METHODS[signal].encode(): signal for signal in signals}


def unsupported(fields: Mapping[bytes, bytes]) -> tuple[Verdict, bytes] | None:
    """What is said of a request that is no gRPC call, and the answer to it in HTTP's terms."""
    if fields.get(b":method") != b"POST":
        return _unimplemented("gRPC calls are sent by POST"), header_block(((":status", "405"), ("allow", "POST")))
    if not fields.get(b"content-type", b"").startswith(b"application/grpc"):
        words = "this port takes OTLP over gRPC, of content-type application/grpc"
        return _unimplemented(words), header_block(((":status", "415"), ("accept", "application/grpc")))
    return None


def refusal(verdict: Verdict) -> bytes:
    """The header fields of an answer that is only a status."""
    words = verdict.message[:_WORDS]
    fields = [*_ANSWER, ("grpc-status", str(verdict.code)), ("grpc-message", quote(words, safe=_PRINTABLE))]
    if verdict.code == Code.UNIMPLEMENTED:
        fields.append(_ACCEPTS)
    if verdict.retry_after is not None:
        details = status_bytes(verdict.code, words, retry_after=verdict.retry_after)
        fields.append(("grpc-status-details-bin", base64.b64encode(details).decode().rstrip("=")))
    return header_block(fields)


def framed(message: bytes) -> bytes:
    """An answer's message with what comes before it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _invalid(message: str) -> Verdict:
    return Verdict(Code.INVALID_ARGUMENT, 400, message, None, "bad_requests")


def _unimplemented(message: str) -> Verdict:
    return Verdict(Code.UNIMPLEMENTED, 404, message, None, "unsupported_requests")

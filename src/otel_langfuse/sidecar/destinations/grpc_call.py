"""A unary gRPC call in HTTP/2's terms: what is said of it, how its message is framed, and what the answer comes to.

Statuses follow gRPC's own documents: the status of the trailers, of an answer without body that of its headers, else one
that follows from HTTP's. Answers are read as far as verdicts need them; the rest of a long one is left out.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from otel_langfuse.sidecar.http2.frames import Reply

__all__ = ["KEEP", "CallError", "call_fields", "message_of", "prefix_of"]

KEEP = 64 * 1024
"""Bytes of an answer's message that are kept: a partial success with its words."""

_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_OF_HTTP = {
    "400": "INTERNAL", "401": "UNAUTHENTICATED", "403": "PERMISSION_DENIED", "404": "UNIMPLEMENTED",
    "429": "UNAVAILABLE", "502": "UNAVAILABLE", "503": "UNAVAILABLE", "504": "UNAVAILABLE",
}  # fmt: skip
_DETAILS = "grpc-status-details-bin"
_MOST_DIGITS = 99_999_999  # of grpc-timeout
_WORDS = 8 * 1024  # characters of grpc-message that are read
_GZIP = 31


@dataclass
class CallError(Exception):
    """A call whose status is not OK.

    Attributes:
        code: The status' name.
        details: Its words.
        trailers: What came with it and is read on.
    """

    code: str
    details: str = ""
    trailers: tuple[tuple[str, str | bytes], ...] = field(default=(), repr=False)


def call_fields(
    method: str,
    *,
    authority: str,
    secure: bool,
    timeout: float,
    compressed: bool,
    user_agent: str,
    headers: Mapping[str, str],
) -> Iterable[tuple[str, str]]:
    """The header fields of a call; ``headers`` are the caller's, those ending in ``-bin`` become base64.

    Args:
        method: The path.
        authority: Host and port.
        secure: Whether by TLS.
        timeout: Seconds that the server is told.
        compressed: Whether the message is in gzip form.
        user_agent: What the server is told.
        headers: Metadata.
    """
    yield ":method", "POST"
    yield ":scheme", "https" if secure else "http"
    yield ":path", method
    yield ":authority", authority
    yield "te", "trailers"
    yield "content-type", "application/grpc"
    yield "user-agent", user_agent
    yield "grpc-timeout", _timeout(timeout)
    yield "grpc-accept-encoding", "identity"
    if compressed:
        yield "grpc-encoding", "gzip"
    for name, value in headers.items():
        lowered = name.lower()
        if lowered.endswith("-bin"):
            value = base64.b64encode(value.encode("latin-1")).decode("ascii").rstrip("=")
        yield lowered, value


def prefix_of(size: int, *, compressed: bool) -> bytes:
    """What comes before a message of ``size`` bytes."""
    return struct.pack(">BI", compressed, size)


def message_of(reply: Reply) -> bytes:
    """The message of an answer; empty if it is too long to be kept, or cannot be read.

    Raises:
        CallError: The call did not succeed.
    """
    headers = reply.headers
    ending = reply.trailers or headers
    status = ending.get("grpc-status", "")
    if not status:
        raise _without_status(headers)
    code = _CODES[int(status)] if status.isascii() and status.isdigit() and int(status[:9]) < len(_CODES) else "UNKNOWN"
    if code != "OK":
        raise CallError(code, unquote(ending.get("grpc-message", "")[:_WORDS], errors="replace"), _details(ending))
    return _unframed(reply)


def _without_status(headers: Mapping[str, str]) -> CallError:
    status, kind = headers.get(":status", ""), headers.get("content-type", "")
    if status != "200":
        return CallError(_OF_HTTP.get(status, "UNKNOWN"), f"Received http2 header with status: {status}")
    if not kind.startswith("application/grpc"):
        return CallError("UNKNOWN", "what answered is no gRPC server")
    return CallError("UNKNOWN", "Stream removed: the answer ended without a status")


def _details(ending: Mapping[str, str]) -> tuple[tuple[str, str | bytes], ...]:
    text = ending.get(_DETAILS, "").partition(",")[0].strip()
    if not text:
        return ()
    try:
        return ((_DETAILS, base64.b64decode(text + "=" * (-len(text) % 4))),)
    except (binascii.Error, ValueError):
        return ()


def _unframed(reply: Reply) -> bytes:
    if len(reply.body) < 5:
        return b""
    flag, size = struct.unpack_from(">BI", reply.body)
    message = bytes(reply.body[5 : 5 + size])
    if len(message) < size:
        return b""
    if not flag & 1:
        return message
    if reply.headers.get("grpc-encoding") != "gzip":
        return b""
    try:
        reader = zlib.decompressobj(_GZIP)
        plain = reader.decompress(message, KEEP)
    except zlib.error:
        return b""
    return plain if reader.eof else b""


def _timeout(seconds: float) -> str:
    milliseconds = max(round(seconds * 1000), 1)
    return f"{milliseconds}m" if milliseconds <= _MOST_DIGITS else f"{min(round(seconds), _MOST_DIGITS)}S"

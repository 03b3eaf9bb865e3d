"""OTLP bytes, written in one pass.

Spans are encoded field by field into protobuf wire format (opentelemetry-proto, ``trace.proto``) and kept encoded:
a request is assembled from parts by length prefixes alone, so resends and splits never map or encode a span twice.
Nested protobuf constructors would copy message content at each level.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["EncodedSpan", "assemble", "encode_key_values", "encode_resource", "encode_scope", "encode_span"]

_DOUBLE = struct.Struct("<d")
_FIXED64 = struct.Struct("<Q")

_KEYS: dict[str, bytes] = {}  # encoded attribute keys: there are few, and they recur on every span
_MAX_KEYS = 4096

AttributeValue = str | bool | int | float | Sequence[str]


@dataclass(frozen=True, slots=True)
class EncodedSpan:
    """One span, encoded, with the resource and scope it belongs to.

    Attributes:
        trace_id: 16 bytes.
        span_id: 8 bytes.
        resource: A ``Resource`` message, shared between the spans of one resource.
        scope: An ``InstrumentationScope`` message, shared likewise.
        span: A ``Span`` message.
    """

    trace_id: bytes
    span_id: bytes
    resource: bytes
    scope: bytes
    span: bytes

    @property
    def size(self) -> int:
        """Bytes that this span adds to a request, resource and scope left out because they are shared."""
        return len(self.span) + 4


_SMALL = tuple(bytes((value,)) for value in range(0x80))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(tag: bytes, body: bytes) -> bytes:
    return tag + _varint(len(body)) + body


def _any_value(value: AttributeValue) -> bytes:
    """An ``AnyValue`` message (common.proto): string 1, bool 2, int 3, double 4, array 5."""
    if isinstance(value, str):
        return _delimited(b"\x0a", value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    return _delimited(b"\x2a", b"".join(_delimited(b"\x0a", _any_value(item)) for item in value))


def encode_key_values(tag: bytes, attributes: Mapping[str, AttributeValue]) -> bytes:
    """``KeyValue`` messages under ``tag``, in the mapping's order."""
    parts: list[bytes] = []
    for key, value in attributes.items():
        name = _KEYS.get(key)
        if name is None:
            name = _delimited(b"\x0a", key.encode("utf-8", "replace"))
            if len(_KEYS) < _MAX_KEYS:
                _KEYS[key] = name
        if type(value) is str:
            # Written out for the commonest case: content is copied once, into the joined result.
            text = value.encode("utf-8", "replace")
            inner = _varint(len(text))
            outer = _varint(1 + len(inner) + len(text))
            length = _varint(len(name) + 1 + len(outer) + 1 + len(inner) + len(text))
            parts += (tag, length, name, b"\x12", outer, b"\x0a", inner, text)
        else:
            wrapped = _any_value(value)
            outer = _varint(len(wrapped))
            parts += (tag, _varint(len(name) + 1 + len(outer) + len(wrapped)), name, b"\x12", outer, wrapped)
    return b"".join(parts)


def encode_resource(attributes: Mapping[str, AttributeValue]) -> bytes:
    """A ``Resource`` message."""
    return encode_key_values(b"\x0a", attributes)


def encode_scope(name: str, version: str) -> bytes:
    """An ``InstrumentationScope`` message."""
    out = _delimited(b"\x0a", name.encode("utf-8", "replace")) if name else b""
    return out + (_delimited(b"\x12", version.encode("utf-8", "replace")) if version else b"")


def encode_span(
    *,
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    name: str,
    kind: int,
    start_ns: int,
    end_ns: int,
    attributes: Mapping[str, AttributeValue],
    status_code: int,
    status_message: str,
) -> bytes:
    """A ``Span`` message. An empty ``parent_id`` leaves the field out: eight zero bytes would count as a parent."""
    parts = [_delimited(b"\x0a", trace_id), _delimited(b"\x12", span_id)]
    if parent_id:
        parts.append(_delimited(b"\x22", parent_id))
    parts += (_delimited(b"\x2a", name.encode("utf-8", "replace")), b"\x30", _varint(kind))
    parts += (b"\x39", _FIXED64.pack(start_ns), b"\x41", _FIXED64.pack(end_ns))
    parts.append(encode_key_values(b"\x4a", attributes))
    if status_code or status_message:
        status = _delimited(b"\x12", status_message.encode("utf-8", "replace")) if status_message else b""
        if status_code:
            status += b"\x18" + _varint(status_code)
        parts.append(_delimited(b"\x7a", status))
    return b"".join(parts)


def assemble(spans: Iterable[EncodedSpan]) -> bytes:
    """An ``ExportTraceServiceRequest`` with the spans grouped by resource, then scope, each in order of arrival."""
    grouped: dict[bytes, dict[bytes, list[bytes]]] = {}
    for span in spans:
        grouped.setdefault(span.resource, {}).setdefault(span.scope, []).append(span.span)
    out: list[bytes] = []
    for resource, scopes in grouped.items():
        body: list[bytes] = [_delimited(b"\x0a", resource)]
        for scope, bodies in scopes.items():
            inner: list[bytes] = [_delimited(b"\x0a", scope)]
            for span_body in bodies:
                inner += (b"\x12", _varint(len(span_body)), span_body)
            body += (b"\x12", _varint(sum(map(len, inner))), *inner)
        out += (b"\x0a", _varint(sum(map(len, body))), *body)
    return b"".join(out)

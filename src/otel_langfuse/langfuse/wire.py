"""OTLP bytes, written in one pass.

Spans are encoded field by field into protobuf wire format (opentelemetry-proto, ``trace.proto``) and kept encoded:
a request is assembled from parts by length prefixes alone, so resends and splits never map or encode a span twice.
Nested protobuf constructors would copy message content at each level.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "ATTRIBUTE",
    "EncodedSpan",
    "assemble",
    "delimited",
    "encode_key_values",
    "encode_resource",
    "encode_scope",
    "encode_span",
    "encode_status",
    "pieces",
    "span_head",
    "varint",
]

ATTRIBUTE = b"\x4a"
"""The tag of an attribute in a ``Span``."""

_DOUBLE = struct.Struct("<d")
_TIMES = struct.Struct("<BQBQ")  # start and end, each behind its tag

_KEYS: dict[str, bytes] = {}  # encoded attribute keys: there are few, and they recur on every span
_MAX_KEYS = 4096

AttributeValue = str | bool | int | float | Sequence[str]


@dataclass(slots=True)
class EncodedSpan:
    """One span, encoded, with the resource and scope it belongs to. Changed by nobody; freezing it would triple its cost.

    Attributes:
        trace_id: 16 bytes.
        span_id: 8 bytes.
        resource: A ``Resource`` message, shared between the spans of one resource.
        scope: An ``InstrumentationScope`` message, shared likewise.
        span: A ``Span`` message.
        resource_schema: What follows the resource in its group: the field with its schema URL, or nothing.
        scope_schema: Likewise for the scope.
        texts: Where long texts stand in `span` that other spans of the trace may have too: first byte and length.
    """

    trace_id: bytes
    span_id: bytes
    resource: bytes
    scope: bytes
    span: bytes
    resource_schema: bytes = b""
    scope_schema: bytes = b""
    texts: tuple[tuple[int, int], ...] = field(default=(), compare=False)

    @property
    def size(self) -> int:
        """Bytes that this span adds to a request, resource and scope left out because they are shared."""
        return len(self.span) + 4


_SMALL = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """A number of protobuf's wire format, not negative."""
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


def delimited(tag: bytes, body: bytes) -> bytes:
    """A field that says its length."""
    return tag + varint(len(body)) + body


def _any_value(value: AttributeValue) -> bytes:
    """An ``AnyValue`` message (common.proto): string 1, bool 2, int 3, double 4, array 5."""
    if isinstance(value, str):
        return delimited(b"\x0a", value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    return delimited(b"\x2a", b"".join(delimited(b"\x0a", _any_value(item)) for item in value))


# What stands between a key and a short text: tag and length of the value, tag and length of the text in it.
_SHORT = tuple(bytes((0x12, length + 2, 0x0A, length)) for length in range(0x7E))


def _encoded_key(key: str) -> bytes:
    name = delimited(b"\x0a", key.encode("utf-8", "replace"))
    if len(_KEYS) < _MAX_KEYS:
        _KEYS[key] = name
    return name


def _add_key_values(parts: list[bytes], tag: bytes, attributes: Mapping[str, AttributeValue]) -> None:
    """Appends the pieces of ``KeyValue`` messages: content is copied once, when all pieces are joined."""
    for key, value in attributes.items():
        name = _KEYS.get(key) or _encoded_key(key)
        if type(value) is str:
            text = value.encode("utf-8", "replace")
            size = len(text)
            whole = len(name) + 4 + size
            if whole < 0x80:  # then every length is one byte: nearly all attributes but content
                parts += (tag, _SMALL[whole], name, _SHORT[size], text)
                continue
            inner = varint(size)
            outer = varint(1 + len(inner) + size)
            length = varint(len(name) + 1 + len(outer) + 1 + len(inner) + size)
            parts += (tag, length, name, b"\x12", outer, b"\x0a", inner, text)
        else:
            wrapped = _any_value(value)
            outer = varint(len(wrapped))
            parts += (tag, varint(len(name) + 1 + len(outer) + len(wrapped)), name, b"\x12", outer, wrapped)


def encode_key_values(tag: bytes, attributes: Mapping[str, AttributeValue]) -> bytes:
    """``KeyValue`` messages under ``tag``, in the mapping's order."""
    parts: list[bytes] = []
    _add_key_values(parts, tag, attributes)
    return b"".join(parts)


def encode_resource(attributes: Mapping[str, AttributeValue]) -> bytes:
    """A ``Resource`` message."""
    return encode_key_values(b"\x0a", attributes)


def encode_scope(name: str, version: str) -> bytes:
    """An ``InstrumentationScope`` message."""
    out = delimited(b"\x0a", name.encode("utf-8", "replace")) if name else b""
    return out + (delimited(b"\x12", version.encode("utf-8", "replace")) if version else b"")


def span_head(
    trace_id: bytes, span_id: bytes, parent_id: bytes, name: str, kind: int, start_ns: int, end_ns: int
) -> list[bytes]:
    """Pieces of a ``Span`` message, up to its attributes.

    An empty ``parent_id`` leaves the field out: eight zero bytes would count as a parent.
    """
    text = name.encode("utf-8", "replace")
    size = len(text)
    length = _SMALL[size] if size < 0x80 else varint(size)
    times = _TIMES.pack(0x39, start_ns, 0x41, end_ns)
    parts = [b"\x0a", _SMALL[len(trace_id)], trace_id, b"\x12", _SMALL[len(span_id)], span_id]
    if parent_id:
        parts += (b"\x22", _SMALL[len(parent_id)], parent_id)
    parts += (b"\x2a", length, text, b"\x30", _SMALL[kind], times)
    return parts


def encode_status(code: int, message: str) -> bytes:
    """The field ``status`` of a ``Span`` message."""
    status = delimited(b"\x12", message.encode("utf-8", "replace")) if message else b""
    return delimited(b"\x7a", status + b"\x18" + varint(code) if code else status)


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
    parts = span_head(trace_id, span_id, parent_id, name, kind, start_ns, end_ns)
    _add_key_values(parts, ATTRIBUTE, attributes)
    if status_code or status_message:
        parts.append(encode_status(status_code, status_message))
    return b"".join(parts)


def assemble(spans: Iterable[EncodedSpan]) -> bytes:
    """An ``ExportTraceServiceRequest`` with the spans grouped by resource, then scope, each in order of arrival."""
    return b"".join(pieces(spans))


def pieces(spans: Iterable[EncodedSpan]) -> list[bytes]:
    """What `assemble` joins: each span's own bytes are one of the pieces."""
    grouped: dict[tuple[bytes, bytes], dict[tuple[bytes, bytes], list[bytes]]] = {}
    homes: dict[tuple[bytes, bytes, bytes, bytes], list[bytes]] = {}
    for span in spans:
        home = homes.get(place := (span.resource, span.resource_schema, span.scope, span.scope_schema))
        if home is None:
            scopes = grouped.setdefault((span.resource, span.resource_schema), {})
            home = homes[place] = scopes.setdefault((span.scope, span.scope_schema), [])
        home.append(span.span)
    out: list[bytes] = []
    for (resource, resource_schema), scopes in grouped.items():
        body: list[bytes] = [delimited(b"\x0a", resource)]
        for (scope, scope_schema), bodies in scopes.items():
            inner: list[bytes] = [delimited(b"\x0a", scope)]
            for span_body in bodies:
                inner += (b"\x12", varint(len(span_body)), span_body)
            inner.append(scope_schema)
            body += (b"\x12", varint(sum(map(len, inner))), *inner)
        body.append(resource_schema)
        out += (b"\x0a", varint(sum(map(len, body))), *body)
    return out

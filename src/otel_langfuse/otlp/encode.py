"""From an SDK span to OTLP bytes in one pass: no protobuf objects, no second walk for the content policy.

What comes out reads back as what the SDK's reference encoder makes of the same span, with two exceptions that lose less:
a lone surrogate becomes ``?`` (the reference gives up the attribute, or the whole batch), and a value that OTLP cannot
hold, such as an integer of more than 64 bits, is counted when it is left out.

Resources and scopes are encoded once for each object; some hundred are remembered. Not thread-safe: one worker encodes.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

from otel_langfuse.langfuse.wire import EncodedSpan, delimited, varint
from otel_langfuse.otlp.content import Content, looks_genai

__all__ = ["SpanEncoder"]

_Known = tuple[object, bytes, bytes]  # a resource or scope, its message, and the field with its schema URL

_DOUBLE = struct.Struct("<d")
_FIXED64 = struct.Struct("<Q")
_TIMES = struct.Struct("<BQBQ")  # start and end, each behind its tag
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # SpanFlags
_LOCAL = struct.pack("<I", _HAS_IS_REMOTE)
_REMOTE = struct.pack("<I", _HAS_IS_REMOTE | _IS_REMOTE)

_REMEMBERED = 256  # resources, and scopes
_MAX_KEYS = 4096
_LEAST_INT, _MOST_INT = -(1 << 63), (1 << 63) - 1
_DEEPEST = 30  # levels of nesting, three messages each: readers of protobuf refuse more than a hundred in each other

_SMALL = tuple(bytes((value,)) for value in range(0x80))


class _UnfitError(ValueError):
    """OTLP has no place for a value."""


class SpanEncoder:
    """Encodes spans for one copy.

    Args:
        content: What content the copy keeps.

    Attributes:
        unfit: Attributes that were left out so far because OTLP cannot hold their values.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._resources: OrderedDict[int, _Known] = OrderedDict()
        self._scopes: OrderedDict[int, _Known] = OrderedDict()
        self._keys: dict[str, bytes] = {}
        self.unfit = 0

    def encode(self, span: ReadableSpan) -> EncodedSpan | None:
        """The span as bytes; ``None`` for a span without a context, which nothing can be done with."""
        context = span.context
        if context is None:
            return None
        trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
        parts = [b"\x0a\x10", trace_id, b"\x12\x08", span_id]
        if context.trace_state:
            _add_text(parts, b"\x1a", ",".join(f"{key}={value}" for key, value in context.trace_state.items()))
        parent = span.parent
        if parent is not None:
            parts += (b"\x22\x08", parent.span_id.to_bytes(8, "big"))
        _add_text(parts, b"\x2a", span.name)
        # OTLP counts kinds from 1; the SDK from 0.
        parts += (b"\x30", _SMALL[span.kind.value + 1], _TIMES.pack(0x39, span.start_time or 0, 0x41, span.end_time or 0))
        resource = self._known(self._resources, span.resource, self._resource)
        scope = self._known(self._scopes, span.instrumentation_scope, self._scope)
        self._add_body(parts, span)
        status = span.status
        if status is not None:
            inner: list[bytes] = []
            if status.description:
                _add_text(inner, b"\x12", status.description)
            if status.status_code.value:
                inner += (b"\x18", _SMALL[status.status_code.value])
            _add_message(parts, b"\x7a", inner)
        parts += (b"\x85\x01", _flags(parent))
        return EncodedSpan(trace_id, span_id, resource[1], scope[1], b"".join(parts), resource[2], scope[2])

    def _add_body(self, parts: list[bytes], span: ReadableSpan) -> None:
        """Attributes, events, links, and how many of each the SDK dropped."""
        attributes = _copied(span.attributes)
        events: Sequence[Event] = span.events
        genai = False
        if not self._content.keeps:
            scope = span.instrumentation_scope
            genai = looks_genai(scope.name if scope is not None else "", attributes, (event.name for event in events))
            attributes = self._content.span(attributes, genai)
        self._add_attributes(parts, b"\x4a", attributes)
        _add_count(parts, b"\x50", span.dropped_attributes)
        for event in events:
            _add_message(parts, b"\x5a", self._event(event, genai))
        _add_count(parts, b"\x60", span.dropped_events)
        for link in span.links:
            _add_message(parts, b"\x6a", self._link(link))
        _add_count(parts, b"\x70", span.dropped_links)

    def _event(self, event: Event, genai: bool) -> list[bytes]:
        attributes = _copied(event.attributes)
        if not self._content.keeps:
            attributes = self._content.event(event.name, attributes, genai)
        parts = [b"\x09", _FIXED64.pack(event.timestamp)]
        _add_text(parts, b"\x12", event.name)
        self._add_attributes(parts, b"\x1a", attributes)
        _add_count(parts, b"\x20", event.dropped_attributes)
        return parts

    def _link(self, link: Link) -> list[bytes]:
        context = link.context
        parts = [b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")]
        self._add_attributes(parts, b"\x22", _copied(link.attributes))
        _add_count(parts, b"\x28", link.dropped_attributes)
        parts += (b"\x35", _flags(context))
        return parts

    # What many spans share.

    def _known(self, cache: OrderedDict[int, _Known], owner: Any, make: Any) -> tuple[object, bytes, bytes]:
        found = cache.get(id(owner))
        if found is None or found[0] is not owner:
            # The object is held along with its bytes, so that its id stays its own.
            found = cache[id(owner)] = (owner, *make(owner))
            if len(cache) > _REMEMBERED:
                cache.popitem(last=False)
        return found

    def _resource(self, resource: Any) -> tuple[bytes, bytes]:
        parts: list[bytes] = []
        if resource is None:
            return b"", b""
        self._add_attributes(parts, b"\x0a", resource.attributes)
        return b"".join(parts), _schema(resource.schema_url)

    def _scope(self, scope: Any) -> tuple[bytes, bytes]:
        parts: list[bytes] = []
        if scope is None:
            return b"", b""
        _add_text(parts, b"\x0a", scope.name or "")
        _add_text(parts, b"\x12", scope.version or "")
        self._add_attributes(parts, b"\x1a", _copied(scope.attributes))
        return b"".join(parts), _schema(scope.schema_url)

    # Attributes.

    def _add_attributes(self, parts: list[bytes], tag: bytes, attributes: Mapping[str, Any]) -> None:
        """Appends the pieces of ``KeyValue`` messages: content is copied once, when all pieces are joined."""
        keys = self._keys
        for key, value in attributes.items():
            name = keys.get(key) or self._key(key)
            if type(value) is str:
                text = value.encode("utf-8", "replace")
                inner = varint(len(text))
                size = 1 + len(inner) + len(text)
                outer = varint(size)
                parts += (tag, varint(len(name) + 1 + len(outer) + size), name, b"\x12", outer, b"\x0a", inner, text)
                continue
            try:
                wrapped = _any_value(value, 0)
            except (_UnfitError, RecursionError):
                self.unfit += 1
                continue
            outer = varint(len(wrapped))
            parts += (tag, varint(len(name) + 1 + len(outer) + len(wrapped)), name, b"\x12", outer, wrapped)

    def _key(self, key: str) -> bytes:
        name = delimited(b"\x0a", key.encode("utf-8", "replace"))
        if len(self._keys) < _MAX_KEYS:
            self._keys[key] = name
        return name


def _copied(attributes: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A plain dict; the SDK's own mapping iterates in Python, under a lock, but copies in one go."""
    if not attributes:
        return {}
    copy = getattr(attributes, "copy", None)
    return dict(attributes) if copy is None else copy()


def _flags(context: SpanContext | None) -> bytes:
    return _REMOTE if context is not None and context.is_remote else _LOCAL


def _schema(url: str | None) -> bytes:
    return delimited(b"\x1a", url.encode("utf-8", "replace")) if url else b""


def _add_text(parts: list[bytes], tag: bytes, text: str) -> None:
    if text:
        raw = text.encode("utf-8", "replace")
        parts += (tag, varint(len(raw)), raw)


def _add_count(parts: list[bytes], tag: bytes, count: int) -> None:
    if count:
        parts += (tag, varint(count))


def _add_message(parts: list[bytes], tag: bytes, inner: list[bytes]) -> None:
    parts += (tag, varint(sum(map(len, inner))), *inner)


def _any_value(value: Any, depth: int) -> bytes:
    """An ``AnyValue`` message (common.proto): string 1, bool 2, int 3, double 4, array 5, list of pairs 6, bytes 7."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return delimited(b"\x0a", value.encode("utf-8", "replace"))
    if isinstance(value, int):
        if not _LEAST_INT <= value <= _MOST_INT:
            raise _UnfitError
        return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    if isinstance(value, bytes):
        return delimited(b"\x3a", value)
    if depth > _DEEPEST:
        raise _UnfitError
    if isinstance(value, Sequence):
        return delimited(b"\x2a", b"".join(delimited(b"\x0a", _any_value(item, depth + 1)) for item in value))
    if isinstance(value, Mapping):
        return delimited(b"\x32", b"".join(_pair(str(key), item, depth + 1) for key, item in value.items()))
    raise _UnfitError


def _pair(key: str, value: Any, depth: int) -> bytes:
    name = delimited(b"\x0a", key.encode("utf-8", "replace"))
    return delimited(b"\x0a", name + delimited(b"\x12", _any_value(value, depth)))

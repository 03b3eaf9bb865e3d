"""From an SDK span to OTLP bytes in one pass: no protobuf objects, no second walk for the content policy.

What comes out reads back as what the SDK's reference encoder makes of the same span, with two exceptions that lose less:
a lone surrogate becomes ``?`` (the reference gives up the attribute, or the whole batch), and a value that OTLP cannot
hold, such as an integer of more than 64 bits, is counted when it is left out.

Resources and scopes are encoded once for each object; some hundred are remembered. So are names, and what attributes say
over and over (``key_values.py``). Not thread-safe: one worker encodes.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import DEFAULT_TRACE_STATE, Link, StatusCode
from opentelemetry.trace.status import Status

from otel_langfuse.langfuse.key_values import KeyValues
from otel_langfuse.langfuse.wire import EncodedSpan, delimited, varint
from otel_langfuse.otlp.content import Content, looks_genai
from otel_langfuse.views.fields import Body, Read, copied, read, read_event

__all__ = ["SpanEncoder"]

_Known = tuple[object, bytes, bytes]  # a resource or scope, its message, and the field with its schema URL

_TIMES = struct.Struct("<BBBQBQ")  # kind, start and end, each behind its tag
_EVENT_TIME = struct.Struct("<BQ")
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # SpanFlags
_LOCAL = struct.pack("<I", _HAS_IS_REMOTE)
_REMOTE = struct.pack("<I", _HAS_IS_REMOTE | _IS_REMOTE)
_UNSET = StatusCode.UNSET  # nearly every span's
_NOBODY = object()

_REMEMBERED = 256  # resources, and scopes
_MAX_NAMES = 1024  # of spans, and of events
_LONGEST = 128  # characters of a name that is remembered


class SpanEncoder:
    """Encodes spans for one copy.

    Args:
        content: What content the copy keeps.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._resources: OrderedDict[int, _Known] = OrderedDict()
        self._scopes: OrderedDict[int, _Known] = OrderedDict()
        self._home: _Known = (_NOBODY, b"", b"")  # the resource of the last span
        self._library: _Known = (_NOBODY, b"", b"")  # the scope of the last span
        self._names: dict[str, bytes] = {}
        self._event_names: dict[str, bytes] = {}
        self._attributes = KeyValues(b"\x4a")
        self._event_attributes = KeyValues(b"\x1a")  # and those of scopes, which stand under the same number
        self._link_attributes = KeyValues(b"\x22")
        self._resource_attributes = KeyValues(b"\x0a")

    @property
    def unfit(self) -> int:
        """Attributes that were left out so far because OTLP cannot hold their values."""
        return (
            self._attributes.unfit
            + self._event_attributes.unfit
            + self._link_attributes.unfit
            + self._resource_attributes.unfit
        )

    def encode(self, span: ReadableSpan) -> EncodedSpan | None:
        """The span as bytes; ``None`` for a span without a context, which nothing can be done with."""
        return self.encode_read(read(span))

    def encode_read(self, found: Read) -> EncodedSpan | None:
        """As `encode`, of a span that has been read; nothing of it is changed."""
        context, parent, name, kind, start, end, status, resource, scope, body = found
        if context is None:
            return None
        # By index: the properties of this tuple are Python functions.
        trace_id, span_id = context[0].to_bytes(16, "big"), context[1].to_bytes(8, "big")
        parts = [b"\x0a\x10", trace_id, b"\x12\x08", span_id]
        if context[4] is not DEFAULT_TRACE_STATE and context[4]:
            parts.append(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in context[4].items())))
        if parent is not None:
            parts += (b"\x22\x08", parent[1].to_bytes(8, "big"))
        # OTLP counts kinds from 1; the SDK from 0. ``value`` of an enumeration is a Python function.
        times = _TIMES.pack(0x30, kind._value_ + 1, 0x39, start or 0, 0x41, end or 0)
        parts += (self._names.get(name) or _name(self._names, b"\x2a", name), times)
        home = self._home
        if home[0] is not resource:
            home = self._home = _known(self._resources, resource, self._resource)
        library = self._library
        if library[0] is not scope:
            library = self._library = _known(self._scopes, scope, self._scope)
        self._add_body(parts, scope, body)
        flags = _REMOTE if parent is not None and parent[2] else _LOCAL
        if status is None or (status.status_code is _UNSET and not status.description):
            parts += (b"\x85\x01" if status is None else b"\x7a\x00\x85\x01", flags)
        else:
            parts += (_status(status), b"\x85\x01", flags)
        return EncodedSpan(trace_id, span_id, home[1], library[1], b"".join(parts), home[2], library[2])

    def _add_body(self, parts: list[bytes], scope: Any, body: Body) -> None:
        """Attributes, events, links, and how many of each the SDK dropped."""
        held, no_attributes, events, no_events, links, no_links = body
        attributes: Mapping[str, Any] = held
        genai = False
        if not self._content.keeps:
            genai = looks_genai(scope.name if scope is not None else "", attributes, (event.name for event in events))
            attributes = self._content.span(attributes, genai)
        self._attributes.add(parts, attributes)
        if no_attributes:
            parts += (b"\x50", varint(no_attributes))
        for event in events:
            inner = self._event(event, genai)
            parts += (b"\x5a", varint(sum(map(len, inner))), *inner)
        if no_events:
            parts += (b"\x60", varint(no_events))
        for link in links:
            inner = self._link(link)
            parts += (b"\x6a", varint(sum(map(len, inner))), *inner)
        if no_links:
            parts += (b"\x70", varint(no_links))

    def _event(self, event: Event, genai: bool) -> list[bytes]:
        name, timestamp, held, dropped = read_event(event)
        attributes: Mapping[str, Any] = held
        if not self._content.keeps:
            attributes = self._content.event(name, attributes, genai)
        known = self._event_names.get(name) or _name(self._event_names, b"\x12", name)
        parts = [_EVENT_TIME.pack(0x09, timestamp), known]
        self._event_attributes.add(parts, attributes)
        if dropped:
            parts += (b"\x20", varint(dropped))
        return parts

    def _link(self, link: Link) -> list[bytes]:
        context = link.context
        parts = [b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")]
        self._link_attributes.add(parts, copied(link.attributes))
        if link.dropped_attributes:
            parts += (b"\x28", varint(link.dropped_attributes))
        parts += (b"\x35", _REMOTE if context.is_remote else _LOCAL)
        return parts

    # What many spans share.

    def _resource(self, resource: Any) -> tuple[bytes, bytes]:
        parts: list[bytes] = []
        if resource is None:
            return b"", b""
        self._resource_attributes.add(parts, resource.attributes)
        return b"".join(parts), _text(b"\x1a", resource.schema_url)

    def _scope(self, scope: Any) -> tuple[bytes, bytes]:
        if scope is None:
            return b"", b""
        parts = [_text(b"\x0a", scope.name), _text(b"\x12", scope.version)]
        self._event_attributes.add(parts, copied(scope.attributes))
        return b"".join(parts), _text(b"\x1a", scope.schema_url)


def _known(cache: OrderedDict[int, _Known], owner: Any, make: Callable[[Any], tuple[bytes, bytes]]) -> _Known:
    """A resource or scope with its bytes."""
    found = cache.get(id(owner))
    if found is None or found[0] is not owner:
        # The object is held along with its bytes, so that its id stays its own.
        found = cache[id(owner)] = (owner, *make(owner))
        if len(cache) > _REMEMBERED:
            cache.popitem(last=False)
    return found


def _status(status: Status) -> bytes:
    """The field with a status, empty for one that says nothing."""
    code = status.status_code.value
    return delimited(b"\x7a", _text(b"\x12", status.description) + (b"\x18" + varint(code) if code else b""))


def _name(known: dict[str, bytes], tag: bytes, name: str | None) -> bytes:
    """The field with a name, remembered in ``known``."""
    field = _text(tag, name)
    if name and len(name) <= _LONGEST:
        if len(known) >= _MAX_NAMES:
            known.clear()  # names with ids in them; those that recur are known again at once
        known[name] = field
    return field


def _text(tag: bytes, text: str | None) -> bytes:
    """The field with a text, nothing for one that is empty."""
    return delimited(tag, text.encode("utf-8", "replace")) if text else b""

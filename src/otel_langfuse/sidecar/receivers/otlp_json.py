"""OTLP/JSON into the protobuf bytes of the same request.

It is the protobuf JSON mapping with OTLP's exceptions: trace and span ids are hexadecimal. The bytes are written at
once, without protobuf objects between.

Rules:

- Unknown fields are ignored; names may be lowerCamelCase or snake_case; 64-bit numbers may be strings or numbers; enums
  may be numbers or names; ``null`` is an absent field.
- An id that is not hexadecimal comes out empty and one of a wrong length as it is, so that it costs its span (``Intake``
  leaves it out) and not its batch. Likewise a lone surrogate becomes U+FFFD.
- Everything else that is wrong raises ``PayloadError``, which names the place and what belongs there, never content.
- Nesting is bounded: by the JSON reader's recursion limit, and by ``DEPTH_LIMIT`` messages.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, NoReturn

from google.protobuf.descriptor import Descriptor
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.receivers.json_scalars import Scalar, WrongValueError, kind_of, scalar_for
from otel_langfuse.sidecar.receivers.wire import tag, varint

__all__ = ["DEPTH_LIMIT", "logs_from_json", "traces_from_json"]

DEPTH_LIMIT = 100
"""Messages inside each other; the protobuf reader takes no more either."""

# A body of 20 MiB may become some 400 MiB of Python objects; more at once would gain no time, as the interpreter works on
# one of them at a time anyway.
_CONVERSIONS = threading.Semaphore(2)


@dataclass(slots=True, eq=False)
class _Shape:
    """The fields of a message type, by each name that they may have."""

    fields: dict[str, _Field] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    name: str
    number: int
    tag: bytes
    repeated: bool
    oneof: str | None
    shape: _Shape | None
    scalar: Scalar | None


def traces_from_json(body: bytes) -> bytes:
    """The bytes of an ``ExportTraceServiceRequest`` that came as JSON.

    Raises:
        PayloadError: It is no such JSON.
    """
    return _convert(_TRACES, body)


def logs_from_json(body: bytes) -> bytes:
    """The bytes of an ``ExportLogsServiceRequest`` that came as JSON.

    Raises:
        PayloadError: It is no such JSON.
    """
    return _convert(_LOGS, body)


def _convert(shape: _Shape, body: bytes) -> bytes:
    with _CONVERSIONS:
        parsed = _parse(body)
        try:
            return _message(shape, parsed, 1)
        except WrongValueError as error:
            raise PayloadError(f"{error.place() or 'the body'}: expected {error.expected}, got {error.got}") from None


def _parse(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError(f"the body is no UTF-8: byte {error.start} cannot be read") from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise PayloadError("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise PayloadError(f"the body is no JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:
        # What is left are numbers with more digits than Python reads.
        raise PayloadError("the body is no OTLP/JSON: a number in it has too many digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # None on purpose
        which = f'"{twice}"' if twice in _NAMES else "a key that OTLP does not have"
        raise PayloadError(f"the body is no OTLP/JSON: an object has {which} twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise PayloadError(f'the body is no JSON: it has a bare {name}; as a double it is written "{name}"')


def _message(shape: _Shape, value: Any, depth: int) -> bytes:
    """The bytes of one message, without its tag and length."""
    if not isinstance(value, dict):
        raise WrongValueError("an object", value)
    if depth > DEPTH_LIMIT:
        raise WrongValueError(f"no more than {DEPTH_LIMIT} messages inside each other", value)
    parts: list[bytes] = []
    oneofs: dict[str, str] = {}
    fields = shape.fields
    for name, item in value.items():
        known = fields.get(name)
        if known is None or item is None:
            continue
        try:
            _claim(oneofs, known, name, value)
            if known.repeated:
                _repeated(known, item, depth, parts)
            else:
                parts += (known.tag, _value(known, item, depth))
        except WrongValueError as error:
            error.within(known.name)
            raise
    return b"".join(parts)


def _claim(oneofs: dict[str, str], known: _Field, name: str, value: dict[str, Any]) -> None:
    """Sees to it that a field, or one of several that exclude each other, comes once."""
    if name != known.name and known.name in value:
        raise WrongValueError("one spelling of this field", value[name])
    if known.oneof is not None and oneofs.setdefault(known.oneof, known.name) != known.name:
        raise WrongValueError(f'nothing beside "{oneofs[known.oneof]}"', value[name])


def _repeated(known: _Field, items: Any, depth: int, parts: list[bytes]) -> None:
    if not isinstance(items, list):
        raise WrongValueError("an array", items)
    for position, item in enumerate(items):
        try:
            parts += (known.tag, _value(known, item, depth))
        except WrongValueError as error:
            error.at(position)
            raise


def _value(known: _Field, item: Any, depth: int) -> bytes:
    if known.scalar is not None:
        return known.scalar(item)
    assert known.shape is not None
    inner = _message(known.shape, item, depth + 1)
    return varint(len(inner)) + inner


def _shape_of(descriptor: Descriptor, known: dict[str, _Shape]) -> _Shape:
    """The shape of a message type; shapes refer to each other, as AnyValue does to itself."""
    shape = known.get(descriptor.full_name)
    if shape is not None:
        return shape
    shape = known[descriptor.full_name] = _Shape()
    for each in descriptor.fields:
        wire_type = kind_of(each)
        if wire_type is None:
            continue  # A type that OTLP traces and logs do not have: as good as unknown.
        inner = each.message_type
        entry = _Field(
            name=each.json_name,
            number=each.number,
            tag=tag(each.number, wire_type),
            repeated=_is_repeated(each),
            oneof=each.containing_oneof.name if each.containing_oneof is not None else None,
            shape=_shape_of(inner, known) if inner is not None else None,
            scalar=scalar_for(each) if inner is None else None,
        )
        shape.fields[each.name] = shape.fields[each.json_name] = entry
    return shape


def _is_repeated(each: Any) -> bool:
    # Older protobuf releases have only the label; newer ones warn of it or have it no more.
    return bool(each.is_repeated if hasattr(each, "is_repeated") else each.label == each.LABEL_REPEATED)


_SHAPES: dict[str, _Shape] = {}
_TRACES = _shape_of(ExportTraceServiceRequest.DESCRIPTOR, _SHAPES)
_LOGS = _shape_of(ExportLogsServiceRequest.DESCRIPTOR, _SHAPES)
_NAMES = frozenset(name for shape in _SHAPES.values() for name in shape.fields)

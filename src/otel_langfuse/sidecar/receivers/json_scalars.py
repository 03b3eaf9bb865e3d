"""Single JSON values into the protobuf bytes of a field; see ``otlp_json``.

A ``Scalar`` takes what the JSON reader made and returns what stands behind the field's tag. The table at the end says
which one belongs to which protobuf type.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from otel_langfuse.sidecar.receivers.wire import varint

__all__ = ["Scalar", "WrongValueError", "kind_of", "scalar_for"]

Scalar = Callable[[Any], bytes]

_STEPS_SHOWN = 20
_HEX_FIELDS = frozenset({"trace_id", "span_id", "parent_span_id"})
_INTEGER = re.compile(r"-?\d{1,20}", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,400}(\.\d{1,400})?([eE][+-]?\d{1,4})?", re.ASCII)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NAMES_OF_TYPES: Mapping[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


class WrongValueError(Exception):
    """A value that its place cannot have; collects the place on its way up.

    Attributes:
        expected: What belongs there.
        got: The JSON type that stands there; never its content.
    """

    def __init__(self, expected: str, value: Any) -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = _NAMES_OF_TYPES.get(type(value), "something else")
        self._steps: list[str] = []

    def within(self, name: str) -> None:
        """Notes the field that the value is in."""
        self._steps.append(f".{name}")

    def at(self, position: int) -> None:
        """Notes the position in an array."""
        self._steps.append(f"[{position}]")

    def place(self) -> str:
        """Where it stands, like ``resourceSpans[0].scopeSpans[1]``; what is very deep is cut in the middle."""
        steps = self._steps[::-1]
        if len(steps) > _STEPS_SHOWN:
            steps = [*steps[: _STEPS_SHOWN - 2], "…", *steps[-2:]]
        return "".join(steps).removeprefix(".")


def _string(value: Any) -> bytes:
    if not isinstance(value, str):
        raise WrongValueError("a string", value)
    try:
        data = value.encode()
    except UnicodeEncodeError:
        # A lone surrogate: JavaScript makes one when it cuts a text inside an emoji.
        data = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return varint(len(data)) + data


def _base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise WrongValueError("base64 in a string", value)
    text = value.translate(_URL_SAFE).rstrip("=")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise WrongValueError("base64", value) from None
    return varint(len(data)) + data


_URL_SAFE = str.maketrans("-_", "+/")


def _hexadecimal(value: Any) -> bytes:
    if not isinstance(value, str):
        raise WrongValueError("hexadecimal digits in a string", value)
    try:
        data = binascii.unhexlify(value)
    except ValueError:
        data = b""
    return varint(len(data)) + data


def _boolean(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise WrongValueError("true or false", value)
    return b"\x01" if value else b"\x00"


def _integer(low: int, high: int) -> Callable[[Any], int]:
    expected = f"an integer from {low} to {high}"

    def read(value: Any) -> int:
        number: int | None = None
        if type(value) is int:
            number = value
        elif (isinstance(value, str) and _INTEGER.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
            number = int(value)
        if number is None or not low <= number <= high:
            raise WrongValueError(expected, value)
        return number

    return read


def _varying(bits: int, *, signed: bool) -> Scalar:
    read = _integer(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else _integer(0, (1 << bits) - 1)
    return lambda value: varint(read(value))


def _fixed(code: str, bits: int, *, signed: bool) -> Scalar:
    read = _integer(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else _integer(0, (1 << bits) - 1)
    pack = struct.Struct("<" + code).pack
    return lambda value: pack(read(value))


def _real(code: str) -> Scalar:
    pack = struct.Struct("<" + code).pack

    def write(value: Any) -> bytes:
        if isinstance(value, str) and value in _NOT_FINITE:
            return pack(_NOT_FINITE[value])
        number = math.inf
        if type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
            try:
                number = float(value)
            except OverflowError:
                pass
        if math.isinf(number):
            raise WrongValueError("a number that fits a double", value)
        try:
            return pack(number)
        except OverflowError:
            raise WrongValueError("a number that fits a float", value) from None

    return write


def _enumeration(enum: EnumDescriptor) -> Scalar:
    numbers = {each.name: each.number for each in enum.values}
    read = _integer(-(1 << 31), (1 << 31) - 1)
    expected = f"a number or name of {enum.name}"

    def write(value: Any) -> bytes:
        if not isinstance(value, str):
            return varint(read(value))
        if value not in numbers:
            raise WrongValueError(expected, value)
        return varint(numbers[value])

    return write


# By protobuf type: wire type, and how a value is written. sint and group fields are not in OTLP.
_SCALARS: Mapping[int, tuple[int, Scalar]] = {
    FieldDescriptor.TYPE_STRING: (2, _string),
    FieldDescriptor.TYPE_BYTES: (2, _base64),
    FieldDescriptor.TYPE_BOOL: (0, _boolean),
    FieldDescriptor.TYPE_INT32: (0, _varying(32, signed=True)),
    FieldDescriptor.TYPE_INT64: (0, _varying(64, signed=True)),
    FieldDescriptor.TYPE_UINT32: (0, _varying(32, signed=False)),
    FieldDescriptor.TYPE_UINT64: (0, _varying(64, signed=False)),
    FieldDescriptor.TYPE_FIXED32: (5, _fixed("I", 32, signed=False)),
    FieldDescriptor.TYPE_FIXED64: (1, _fixed("Q", 64, signed=False)),
    FieldDescriptor.TYPE_SFIXED32: (5, _fixed("i", 32, signed=True)),
    FieldDescriptor.TYPE_SFIXED64: (1, _fixed("q", 64, signed=True)),
    FieldDescriptor.TYPE_FLOAT: (5, _real("f")),
    FieldDescriptor.TYPE_DOUBLE: (1, _real("d")),
}


def kind_of(field: FieldDescriptor) -> int | None:
    """The field's wire type; ``None`` for types that are not read."""
    if field.message_type is not None:
        return 2 if field.type == FieldDescriptor.TYPE_MESSAGE else None
    if field.enum_type is not None:
        return 0
    return _SCALARS[field.type][0] if field.type in _SCALARS else None


def scalar_for(field: FieldDescriptor) -> Scalar:
    """How a value of the field is written; only for fields with a ``kind_of`` and no message type."""
    if field.name in _HEX_FIELDS and field.type == FieldDescriptor.TYPE_BYTES:
        return _hexadecimal
    if field.enum_type is not None:
        return _enumeration(field.enum_type)
    return _SCALARS[field.type][1]

"""The protobuf wire format, as far as this package writes it by hand."""

from __future__ import annotations

__all__ = ["length_delimited", "tag", "varint"]

_ONE_BYTE = tuple(bytes((n,)) for n in range(128))
_MASK = (1 << 64) - 1


def varint(value: int) -> bytes:
    """A number in 1 to 10 bytes; a negative one as its 64-bit two's complement."""
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    value &= _MASK
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """What stands before a field's value."""
    return varint(number << 3 | wire_type)


def length_delimited(number: int, value: bytes) -> bytes:
    """A field that holds a string, bytes or a message."""
    return tag(number, 2) + varint(len(value)) + value

"""``google.rpc.Status`` and ``RetryInfo``, read from wire format without their generated classes.

Servers say there how long to wait. The messages are small and fixed (google/rpc/status.proto, error_details.proto); a
package of generated code for two fields would be one more dependency.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["retry_delay", "status_message"]

_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"
_VARINT_BYTES = 10


def retry_delay(status: bytes) -> float | None:
    """Seconds of the ``RetryInfo`` among the details of an encoded ``Status``; ``None`` if there is none."""
    try:
        for number, detail in _fields(status):
            if number == 3 and isinstance(detail, bytes):
                packed = dict(_fields(detail))
                if packed.get(1) == _RETRY_INFO:
                    return _delay(packed.get(2, b""))
    except ValueError:
        return None
    return None


def status_message(status: bytes) -> str:
    """The message of an encoded ``Status``; empty if there is none."""
    try:
        found = dict(_fields(status)).get(2, b"")
    except ValueError:
        return ""
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else ""


def _delay(info: int | bytes) -> float:
    duration = dict(_fields(info)).get(1, b"") if isinstance(info, bytes) else b""
    parts = dict(_fields(duration)) if isinstance(duration, bytes) else {}
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if not isinstance(seconds, int) or not isinstance(nanos, int) or seconds >= 1 << 63 or nanos >= 1_000_000_000:
        return 0.0
    return seconds + nanos / 1e9


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message; varints as they are, fixed ones as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("an unknown wire type")
        if at + size > len(data):
            raise ValueError("a field is cut off")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_VARINT_BYTES):
        if at >= len(data):
            raise ValueError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")

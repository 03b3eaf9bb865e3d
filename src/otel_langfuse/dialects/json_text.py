"""JSON text in and out.

Rules:

- The same text and the same values come out whether orjson is installed or not. orjson does what both libraries do alike;
  the rest is the standard library's.
- Reading: orjson takes less than the standard library (no NaN, no number beyond a float, no lone surrogate); what it
  refuses is read again. What it takes it reads alike, but for integers of more than 64 bits, which become floats, and
  nesting that the standard library refuses: floats of that size and deep nesting are read again, too.
- Writing: floats with an exponent, large integers, lone surrogates and deep nesting are the standard library's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from otel_langfuse.model import Json

__all__ = ["alike", "dump", "dump_texts", "glance", "load", "settle"]

_ASCII = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str)
_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_OPENING = frozenset('{[" \n')
# Between these a float has no exponent, and both libraries write it alike.
_SMALLEST, _LARGEST = 1e-4, 1e15
_LEVELS = 200  # of nesting; the standard library's bound depends on the stack and is never that low

try:
    import orjson
except ImportError:
    _reads: Callable[[str | bytes], Any] | None = None
    _writes: Callable[[Any], bytes] | None = None
else:
    _reads, _writes = orjson.loads, orjson.dumps


# --------------------------------------------------------------------------------------------- reading


def _not_finite(_: str) -> None:
    return None


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


# Made once: ``json.loads`` with hooks makes a decoder for every text.
_DECODER = json.JSONDecoder(parse_constant=_not_finite, parse_float=_finite_float)
_BLANKS = " \t\n\r"
_READ = frozenset((dict, list, str))


def load(text: str) -> Json:
    """The object, list or string in a JSON text; ``None`` when the text is not such JSON.

    NaN and infinities, which are no JSON, become null. Nesting beyond the parser's depth counts as "not JSON".
    """
    return settle(text, glance(text))


def glance(text: str) -> Json:
    """What orjson reads in a text; ``None`` without orjson, and for all that it or `load` refuses.

    For who looks at every value himself: it is what `load` gives where `alike` holds.
    """
    if _reads is None or text[:1] not in _OPENING:
        return None
    try:
        # A text that is not ASCII would keep the UTF-8 made for orjson as long as it lives.
        value = _reads(text if text.isascii() else text.encode())
    except ValueError:
        return None
    return value if type(value) in _READ else None


def settle(text: str, glanced: Json) -> Json:
    """What `load` gives for a text of which `glance` has given ``glanced``."""
    if glanced is not None and alike(glanced):
        return glanced
    if text[:1] not in _OPENING:
        return None
    if text[0] in _BLANKS:
        text = text.lstrip(_BLANKS)
    value: Json
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if end != len(text) and text[end:].strip(_BLANKS):
        return None  # something follows
    return value if isinstance(value, (dict, list, str)) else None


def alike(value: Json) -> bool:
    """Whether the standard library reads the same where orjson has read this value."""
    containers: list[Any] = [(value,)]
    for container in containers:  # grows on the way
        for leaf in container.values() if type(container) is dict else container:
            kind = type(leaf)
            if kind is str:
                continue
            if kind is float:
                # An integer of more than 64 bits; the bound is 2**63.
                if not -9_223_372_036_854_775_808.0 < leaf < 9_223_372_036_854_775_808.0:
                    return False
            elif kind is dict or kind is list:
                containers.append(leaf)
    return len(containers) <= _LEVELS or _levels(containers[1]) < _LEVELS


def _levels(value: Any) -> int:
    """How deeply lists and dicts are nested."""
    levels = 0
    level = [value]
    while level:
        levels += 1
        level = [
            leaf
            for container in level
            for leaf in (container.values() if type(container) is dict else container)
            if type(leaf) in (dict, list)
        ]
    return levels


# --------------------------------------------------------------------------------------------- writing


def dump(value: Json) -> str:
    """JSON text, compact, characters unescaped; a lone surrogate becomes a question mark on the wire."""
    if _writes is not None and type(value) in (dict, list) and _written_alike(value):
        return dump_texts(value)
    return _dump(value)


def dump_texts(value: Json) -> str:
    """As `dump`, for a list or dict that is known to hold no number but whole ones."""
    if _writes is not None:
        try:
            return _writes(value).decode()
        except (TypeError, RecursionError):
            pass  # more than 64 bits, a lone surrogate, a key that is no text, or nested too deeply for orjson
    return _dump(value)


def _dump(value: Json) -> str:
    try:
        text = _ASCII.encode(value)
        # The ASCII encoder is three times as fast; only what it had to escape is encoded again.
        return text if "\\u" not in text else _PLAIN.encode(value)
    except (ValueError, RecursionError):
        return json.dumps(str(type(value).__name__) + " nested too deeply")


def _written_alike(value: Any) -> bool:
    """Whether orjson writes everything in a list or dict as the standard library does."""
    containers = [value]
    for container in containers:  # grows on the way
        for leaf in container.values() if type(container) is dict else container:
            kind = type(leaf)
            if kind is str or kind is int or leaf is None or kind is bool:
                continue
            if kind is dict or kind is list:
                containers.append(leaf)
            elif kind is not float or not (_SMALLEST <= abs(leaf) < _LARGEST or leaf == 0):
                return False
    return True

"""JSON text in and out.

Rules:

- The same text and the same values come out whether orjson is installed or not. orjson does what both libraries do alike;
  the rest is the standard library's: large integers, floats with an exponent, NaN, lone surrogates, very deep nesting.
- Reading is the standard library's alone: orjson makes floats of large integers without a word, and finding them costs
  what it saves. Writing is where the time went: text is escaped at a tenth of the cost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from otel_langfuse.model import Json

__all__ = ["dump", "load"]

_ASCII = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str)
_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_OPENING = frozenset('{[" \n')
# Between these a float has no exponent, and both libraries write it alike.
_SMALLEST, _LARGEST = 1e-4, 1e15


def _orjson() -> Callable[[Any], bytes] | None:
    try:
        import orjson
    except ImportError:
        return None
    return orjson.dumps


_fast: Callable[[Any], bytes] | None = _orjson()


# --------------------------------------------------------------------------------------------- reading


def _not_finite(_: str) -> None:
    return None


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


# Made once: ``json.loads`` with hooks makes a decoder for every text.
_DECODER = json.JSONDecoder(parse_constant=_not_finite, parse_float=_finite_float)
_BLANKS = " \t\n\r"


def load(text: str) -> Json:
    """The object, list or string in a JSON text; ``None`` when the text is not such JSON.

    NaN and infinities, which are no JSON, become null. Nesting beyond the parser's depth counts as "not JSON".
    """
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


# --------------------------------------------------------------------------------------------- writing


def dump(value: Json) -> str:
    """JSON text, compact, characters unescaped; a lone surrogate becomes a question mark on the wire."""
    if _fast is not None and type(value) in (dict, list) and _written_alike(value):
        try:
            return _fast(value).decode()
        except (TypeError, RecursionError):
            pass  # more than 64 bits, a lone surrogate, a key that is no text, or nested too deeply for orjson
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

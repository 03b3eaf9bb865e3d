"""The tools that every dialect reader uses: tables of rows, value converters, un-flattening.

A dialect is a table plus what a table cannot say. A ``Row`` maps one attribute key to one field of `model.Facts`;
rows are tried in order and the first that yields a value fills the field, while all that yield one are consumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from otel_langfuse.dialects.json_text import dump, load
from otel_langfuse.dialects.shapes import Shape
from otel_langfuse.model import Facts, Json, Usage, Value

__all__ = [
    "Row",
    "Table",
    "as_flag",
    "as_identity",
    "as_integer",
    "as_json",
    "as_number",
    "as_seconds",
    "as_text",
    "as_total",
    "dump",
    "finite",
    "json_object",
    "jsonable",
    "load",
    "unflatten",
]

_MAX_SLOTS = 10_000  # array slots per prefix, as Langfuse bounds them (rules section 8)


# ----------------------------------------------------------------------------------------- converters


def as_text(value: Value) -> str | None:
    """Text that is not empty; numbers as text."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, dict)) and value:
        return dump(jsonable(value))
    return None


def as_identity(value: Value) -> str | None:
    """A user's or session's id; a scrubber's placeholder is none."""
    text = as_text(value)
    return None if text is None or text.startswith("[Scrubbed due to") else text


def as_integer(value: Value) -> int | None:
    """A token count: a non-negative whole number, also in text (only such survive Langfuse's endpoint)."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, float):
        return int(value) if value >= 0 and value.is_integer() else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    return None


def as_number(value: Value) -> float | None:
    """A finite number, also in text; whole numbers stay whole."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_seconds(value: Value) -> float | None:
    """A duration in seconds that is not negative and below a day."""
    number = as_number(value)
    return number if number is not None and 0 <= number < 86_400 else None


def as_total(value: Value) -> dict[str, float] | None:
    """A cost that the source gives as one number."""
    number = as_number(value)
    return {"total": number} if number is not None else None


def as_flag(value: Value) -> bool | None:
    """A truth value, also in text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return None


def as_json(value: Value) -> Json:
    """A JSON value: text is parsed where it is JSON, else kept."""
    if isinstance(value, str):
        parsed = load(value)
        return value if parsed is None else parsed
    return jsonable(value)


# ------------------------------------------------------------------------------------------------ JSON


def jsonable(value: Value) -> Json:
    """A value as JSON; bytes become base64 text, and what is nested beyond all reason says that it is."""
    try:
        return _jsonable(value)
    except RecursionError:
        return "[nested too deeply]"


def _jsonable(value: Value) -> Json:
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return value


def finite(value: Json) -> Json:
    """The value without non-finite numbers, also those in text (``"Infinity"``); ``None`` if nothing is left."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and value.lower() in ("infinity", "-infinity", "nan"):
        return None
    return value


# ------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a dialect's table.

    Attributes:
        key: Attribute key; with a trailing ``*`` every key with that prefix (only for ``parameters``, ``metadata``).
        field: Field of ``Facts``; ``usage.<part>`` for a token count.
        take: Converts the value; ``None`` means that the value says nothing, and leaves the key unconsumed.
    """

    key: str
    field: str
    take: Callable[[Value], Any] = as_text


_Step: TypeAlias = tuple[str, str, str, Callable[[Value], Any]]  # attribute key, field, part of the field, converter
_Plan: TypeAlias = tuple[tuple[_Step, ...], tuple[_Step, ...]]


class Table:
    """The rows of one dialect, ready to apply."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._exact = tuple((row.key, *row.field.partition(".")[::2], row.take) for row in rows if not row.key.endswith("*"))
        self._prefixes = tuple((row.key[:-1], _namespace(row.key), row) for row in rows if row.key.endswith("*"))

    def rows_for(self, keys: Iterable[str]) -> tuple[_Step, ...]:
        """The rows that attributes of such keys have: key, field, part of the field, converter; those with a prefix last."""
        exact, prefixed = self._plan(dict.fromkeys(keys))
        return exact + prefixed

    def apply(self, attributes: Mapping[str, Value], facts: Facts, shape: Shape | None = None) -> None:
        """Fills ``facts`` from ``attributes``; with their ``shape`` only rows that have an attribute are looked at."""
        if shape is None:
            exact, prefixed = self._plan(attributes)
        else:
            plan = shape.plans.get(self)
            if plan is None:
                plan = shape.plans[self] = self._plan(attributes)
            exact, prefixed = plan
        consumed = facts.consumed
        usage: dict[str, int] = {}
        for key, field, part, take in exact:
            raw = attributes[key]
            if raw is None:
                continue
            value = take(raw)
            if value is None:
                continue
            consumed.add(key)
            if not part:
                if field != "-" and not (known := getattr(facts, field)) and known != 0:
                    setattr(facts, field, value)
            elif field == "usage":
                usage.setdefault(part, value)
            else:
                getattr(facts, field).setdefault(part, value)
        if usage and facts.usage is None:
            facts.usage = Usage(**cast("dict[str, Any]", usage))
        for key, field, part, take in prefixed:
            if key not in consumed:
                value = take(attributes[key])
                if value is not None:
                    consumed.add(key)
                    if field != "-":
                        getattr(facts, field).setdefault(part, value)

    def _plan(self, attributes: Mapping[str, Value]) -> _Plan:
        """The rows that have an attribute, in order: those with a key of their own, then those with a prefix."""
        exact = tuple(row for row in self._exact if row[0] in attributes)
        return exact, tuple(self._prefixed(attributes)) if self._prefixes else ()

    def _prefixed(self, attributes: Mapping[str, Value]) -> Iterator[_Step]:
        for key in attributes:
            for prefix, cut, row in self._prefixes:
                if key.startswith(prefix) and len(key) > len(prefix):
                    yield key, row.field, key[cut:], row.take
                    break


def _namespace(key: str) -> int:
    """Length of a key's namespace: what a prefix row cuts off, so that ``a.b_*`` gives ``b_c`` for ``a.b_c``."""
    return max(key.rfind("."), key.rfind(":")) + 1


# ------------------------------------------------------------------------------------ flattened keys


def json_object(attributes: Mapping[str, Value], key: str, consumed: set[str]) -> dict[str, Json]:
    """The JSON object in an attribute, whose key is then consumed; empty when there is none."""
    raw = attributes.get(key)
    given = load(raw) if isinstance(raw, str) else None
    if not isinstance(given, dict):
        return {}
    consumed.add(key)
    return given


def unflatten(attributes: Mapping[str, Value], prefix: str, consumed: set[str]) -> Json:
    """The nested value that ``prefix.0.a``, ``prefix.1.b.c`` spell; ``None`` without such keys.

    Numbered levels become lists in numeric order, gaps closed: the SDK drops the oldest attributes beyond its limit,
    so the first indices may be missing. The used keys are added to ``consumed``.
    """
    root: dict[str, Any] = {}
    dotted = prefix + "."
    slots = 0
    for key, raw in attributes.items():
        if not key.startswith(dotted):
            continue
        path = key[len(dotted) :].split(".")
        if len(path) > 16 or slots >= _MAX_SLOTS:
            continue
        slots += 1
        if _insert(root, path, jsonable(raw)):
            consumed.add(key)
    return _listed(root) if root else None


def _insert(root: dict[str, Any], path: list[str], value: Json) -> bool:
    node = root
    for step in path[:-1]:
        child = node.setdefault(step, {})
        if not isinstance(child, dict):
            return False
        node = child
    if isinstance(node.get(path[-1]), dict):
        return False
    node[path[-1]] = value
    return True


def _listed(node: Any) -> Json:
    if not isinstance(node, dict):
        return node  # type: ignore[no-any-return]  # a leaf is JSON by construction
    if node and all(key.isascii() and key.isdigit() for key in node):
        return [_listed(node[key]) for key in sorted(node, key=int)]
    return {key: _listed(item) for key, item in node.items()}

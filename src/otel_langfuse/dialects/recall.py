"""What was read from one span, recalled for the next one like it.

The spans of one instrumentation differ in content, counts and ids, and agree in all that readers decide by. So the facts of
one span hold for every other of its shape and scope in which the deciding values are equal; only what varies is taken anew,
by the rows of the readers' tables. Rules:

- A value decides if a reader looks at it by code of its own (`Hints.looks`), or if the field of one of its rows is none of
  those that vary. A reader that has not said what it looks at is asked about every span.
- What varies decides nothing but its field. That all of it says something is the condition for recalling: a value that a
  row cannot use is the readers' to deal with. So are errors, events that a reader hears, and content beside the span.
- Before anything is remembered, what would be recalled is compared with what was read. Where they differ, or where the
  deciding values are seldom the same, the shape is given up.
- Nothing of what varies is kept. Bounded: 64 sets of deciding values of 4 KiB for each shape and scope.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

from otel_langfuse.dialects.reading import Table
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import EventView, Facts, SpanView, Stock, Usage, Value

__all__ = ["Memory", "Reader", "silent"]

_VARYING = frozenset(
    ("input", "output", "system", "tools", "response_id", "conversation", "user", "session", "first_token_after", "usage", "-")
)
_MOST = 64
_MOST_BYTES = 4096
_CLEARED = 4  # times that a memory may overflow while it is of little use
_MAX_NAMES = 1024
_ERROR = 2  # trace.proto Status.STATUS_CODE_ERROR
_MARSHAL = 2  # the version without references: equal values of equal types give equal bytes

_Take: TypeAlias = Callable[[Value], Any]


class Reader(Protocol):
    """What is to be known of a dialect."""

    @property
    def table(self) -> Table:
        """Its rows."""

    @property
    def hints(self) -> Hints:
        """What it looks at."""


class _Silent(dict[str, bool]):
    """By name of a span event, whether no reader listens."""

    def __init__(self, hears: Sequence[Callable[[str], bool]]) -> None:
        super().__init__()
        self._hears = hears

    def __missing__(self, name: str) -> bool:
        if len(self) >= _MAX_NAMES:
            self.clear()
        known = self[name] = not any(hears(name) for hears in self._hears)
        return known


def silent(readers: Sequence[Reader]) -> Callable[[Sequence[EventView]], bool]:
    """A function that says whether none of ``readers`` hears any of a span's events."""
    known = _Silent([reader.hints.hears for reader in readers]).__getitem__
    return lambda events: not events or all(map(known, [event.name for event in events]))


class Memory:
    """What is remembered of the spans of one shape and scope.

    Args:
        keys: The keys of their attributes.
        readers: Who is asked about them, in order.
        read: Asks the readers.
    """

    def __init__(self, keys: Sequence[str], readers: Sequence[Reader], read: Callable[[SpanView], Facts]) -> None:
        self._read = read
        self._known: dict[bytes, tuple[dict[str, Any], Stock]] = {}
        self._hits = self._misses = self._overflows = 0
        self.useless = any(reader.hints.looks is None for reader in readers)
        if self.useless:
            return
        rows = [row for reader in readers for row in reader.table.rows_for(keys)]
        looks = [look for reader in readers for look in reader.hints.looks or ()]
        prefixes = tuple(look for look in looks if look.endswith("."))
        decided = {key for key in keys if key in looks or key.startswith(prefixes)}
        decided |= {key for key, field, _, _ in rows if field not in _VARYING}
        self._deciding = _getter([key for key in keys if key in decided])
        self._steps, self._usage, self._checks = _plan(readers, keys, decided)

    def recall(self, view: SpanView) -> Facts | None:
        """The facts of a span; ``None`` if the readers must be asked."""
        attributes = view.attributes
        try:
            decided = marshal.dumps(self._deciding(attributes), _MARSHAL)
        except ValueError:
            return None  # nested too deeply
        known = self._known.get(decided)
        if known is None:
            return self._learn(view, decided)
        self._hits += 1
        return self._filled(known, attributes)

    def _filled(self, known: tuple[dict[str, Any], Stock], attributes: Mapping[str, Value]) -> Facts | None:
        found = known[0].copy()
        for key, field, take in self._steps:
            value = take(attributes[key])
            if value is None:
                return None
            found[field] = value
        for key, take in self._checks:
            if take(attributes[key]) is None:
                return None
        if self._usage:
            counted = {}
            for key, part, take in self._usage:
                value = take(attributes[key])
                if value is None:
                    return None
                counted[part] = value
            found["usage"] = Usage(**counted)
        found["stock"] = known[1]
        facts: Facts = object.__new__(Facts)
        facts.__dict__ = found
        return facts

    def _learn(self, view: SpanView, decided: bytes) -> Facts | None:
        facts = self._read(view)
        self._misses += 1
        if len(decided) > _MOST_BYTES:
            self.useless = self._misses > _MOST and self._hits < self._misses
            return facts
        if len(self._known) >= _MOST:
            self._known.clear()
            self._overflows += 1
            self.useless = self._overflows >= _CLEARED and self._hits < self._misses
        template = {name: getattr(facts, name) for name in _NAMES}
        for _, field, _ in self._steps:
            template[field] = None
        if self._usage:
            template["usage"] = None
        known = template, Stock(tuple(key for key in view.attributes if key not in facts.consumed))
        filled = self._filled(known, view.attributes)
        if filled is None:
            return facts
        if filled != facts:
            self.useless = True
            return facts
        self._known[decided] = known
        return filled


_NAMES = tuple(field.name for field in fields(Facts) if field.init)


def _plan(
    readers: Sequence[Reader], keys: Sequence[str], decided: set[str]
) -> tuple[tuple[tuple[str, str, _Take], ...], tuple[tuple[str, str, _Take], ...], tuple[tuple[str, _Take], ...]]:
    """The rows that fill a field, those that count, and those that only must say something.

    The first row of the first reader wins a field; token counts come from the first reader that has any.
    """
    steps: dict[str, tuple[str, str, _Take]] = {}
    usage: dict[str, tuple[str, str, _Take]] = {}
    counting: Reader | None = None
    others: dict[tuple[str, _Take], None] = {}
    for reader in readers:
        for key, field, part, take in reader.table.rows_for(keys):
            if key in decided:
                continue
            if field == "usage" and counting in (None, reader) and part not in usage:
                counting = reader
                usage[part] = (key, part, take)
            elif field not in ("usage", "-") and field not in steps:
                steps[field] = (key, field, take)
            else:
                others[key, take] = None
    taken = {(key, take) for key, _, take in (*steps.values(), *usage.values())}
    return tuple(steps.values()), tuple(usage.values()), tuple(other for other in others if other not in taken)


def _getter(keys: Sequence[str]) -> Callable[[Mapping[str, Value]], Any]:
    """What takes the values of ``keys`` from attributes in one go."""
    return itemgetter(*keys) if keys else lambda attributes: None

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
- A field that varies and has two keys, or one key that readers take differently, is none of these: which of them wins is
  the readers' to say. Where that is so of content, the shape is given up.
- What no reader takes shows as metadata. Most of it is the same from span to span, so it counts as deciding, and what is
  encoded of it is shared; an attribute that has been seen with more than a few values, or with a long one, is taken anew. If
  so many sets of values come that they have no room, one with two values is; if one set is too large, all are.
- Of what varies nothing is kept, of what decides everything. Bounded: 64 sets of deciding values of 4 KiB for each shape
  and scope, 8 MiB in all.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from operator import itemgetter
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

from otel_langfuse.dialects.reading import Table
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import EventView, Facts, SpanView, Stock, Usage, Value

__all__ = ["Memory", "Reader", "silent"]

_VARYING = frozenset(
    ("input", "output", "system", "tools", "response_id", "conversation", "user", "session", "first_token_after", "usage", "-")
)
_CONTENT = frozenset(("input", "output", "system", "tools"))
_MOST = 64
_MOST_BYTES = 4096
_ALL_BYTES = 8 * 1024 * 1024
_STOCK_BYTES = 2048  # what one set of facts takes beside its values, roughly
_MAX_NAMES = 1024
_LONGEST_NAME = 128
_MARSHAL = 2  # the version without references: equal values of equal types give equal bytes
_VARIETY = 8  # values of an attribute that no reader takes, beyond which it is taken anew
_SHORT = 160  # bytes of such a value

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
        known = not any(hears(name) for hears in self._hears)
        if len(name) <= _LONGEST_NAME:  # applications write texts there, too
            self[name] = known
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
        self._hits = self._misses = 0
        decided = None if any(reader.hints.looks is None for reader in readers) else _decided(keys, readers)
        self.useless = decided is None
        if decided is None:
            return
        self._keys, self._decided = keys, decided
        taken = {row[0] for reader in readers for row in reader.table.rows_for(keys)}
        # Values of attributes that no reader takes, each as bytes: those that have been seen of it.
        self._seen: dict[str, set[bytes]] = {key: set() for key in keys if key not in decided and key not in taken}
        self._steps, self._usage, self._checks = _plan(readers, keys, decided)
        self._start_anew()
        _memories.add(self)

    def _start_anew(self) -> None:
        """Chooses what decides. Both parts change at once: other threads may be reading, and choosing."""
        steady: frozenset[str] | None = None
        while steady is None or not steady <= self._seen.keys():
            steady = frozenset(self._seen)
            self._lookup = _getter([key for key in self._keys if key in self._decided or key in steady]), steady
        self._known = {}
        self._hits = self._misses = 0

    def forget(self) -> None:
        """Lets go of everything that is remembered."""
        self._known = {}
        for values in list(self._seen.values()):
            values.clear()

    def recall(self, view: SpanView) -> Facts | None:
        """The facts of a span; ``None`` if the readers must be asked."""
        attributes = view.attributes
        deciding, steady = self._lookup
        try:
            decided = marshal.dumps(deciding(attributes), _MARSHAL)
        except ValueError:  # nested too deeply, or of somebody's own type
            if self._unsteady(attributes, _VARIETY):
                self._start_anew()
            return None
        known = self._known.get(decided)
        if known is None:
            return self._learn(view, decided, steady)
        self._hits += 1
        return self._filled(known, attributes)

    def _filled(self, known: tuple[dict[str, Any], Stock], attributes: Mapping[str, Value]) -> Facts | None:
        found = known[0].copy()
        for key, field, take in self._steps:
            if (value := take(attributes[key])) is None:
                return None
            found[field] = value
        for key, take in self._checks:
            if take(attributes[key]) is None:
                return None
        if self._usage:
            counted: dict[str, Any] = {}
            for key, part, take in self._usage:
                if (value := take(attributes[key])) is None:
                    return None
                counted[part] = value
            found["usage"] = Usage(**counted)
        found["stock"] = known[1]
        facts: Facts = object.__new__(Facts)
        facts.__dict__ = found
        return facts

    def _learn(self, view: SpanView, decided: bytes, steady: frozenset[str]) -> Facts | None:
        facts = self._read(view)
        self._misses += 1
        full = len(self._known) >= _MOST
        seldom = self._misses >= _MOST and self._hits < self._misses
        if self._unsteady(view.attributes, 1 if full or seldom else _VARIETY):
            self._start_anew()
            return facts
        if seldom:
            self._give_up()
            return facts
        if len(decided) > _MOST_BYTES:
            if steady:
                self._seen = {}
                self._start_anew()
            return facts
        template = {name: getattr(facts, name) for name in _NAMES}
        for _, field, _ in self._steps:
            template[field] = None
        if self._usage:
            template["usage"] = None
        loose = tuple(key for key in view.attributes if key not in facts.consumed)
        known = template, Stock(loose, {key: view.attributes[key] for key in loose if key in steady})
        filled = self._filled(known, view.attributes)
        if filled is None:
            return facts
        if filled != facts:
            self._give_up()
            return facts
        if full:
            self.forget()
        _account(_STOCK_BYTES + 3 * len(decided))  # as the key, in the facts, and encoded
        self._known[decided] = known
        return filled

    def _unsteady(self, attributes: Mapping[str, Value], most: int) -> bool:
        """Whether an attribute that no reader takes is to be taken anew from now on: one with more than ``most`` values."""
        found: list[str] = []
        for key, values in list(self._seen.items()):
            try:
                value = marshal.dumps(attributes[key], _MARSHAL)
            except ValueError:
                found.append(key)
                continue
            if len(value) > _SHORT:
                found.append(key)
                continue
            if value not in values:
                values.add(value)
                _account(len(value))
            if len(values) > most:
                found.append(key)
        for key in found:
            self._seen.pop(key, None)
        return bool(found)

    def _give_up(self) -> None:
        self.useless = True
        self.forget()


# What all memories hold together, about: what was forgotten one by one is not taken off.
_memories: WeakSet[Memory] = WeakSet()
_held = 0


def _account(size: int) -> None:
    """Counts what is to be held; empties all memories when it is too much."""
    global _held
    _held += size
    if _held > _ALL_BYTES:
        _held = size
        for memory in list(_memories):
            memory.forget()


def _decided(keys: Sequence[str], readers: Sequence[Reader]) -> set[str] | None:
    """The keys whose values decide; ``None`` if content is among them."""
    looks = [look for reader in readers for look in reader.hints.looks or ()]
    prefixes = tuple(look for look in looks if look.endswith("."))
    rows = {row for reader in readers for row in reader.table.rows_for(keys)}
    decided = {key for key in keys if key in looks or key.startswith(prefixes)}
    decided |= {key for key, field, _, _ in rows if field not in _VARYING}
    sources: dict[tuple[str, str], set[tuple[str, _Take]]] = {}
    for key, field, part, take in rows:
        if field in _VARYING and field != "-":
            sources.setdefault((field, part), set()).add((key, take))
    settled = -1
    while settled != len(decided):  # what one field settles may settle another one
        settled = len(decided)
        for (field, _), takes in sources.items():
            of_field = {key for (name, _), others in sources.items() if name == field for key, _ in others}
            if len(takes) > 1 or not decided.isdisjoint(of_field):
                decided |= of_field
    content = {key for (field, _), takes in sources.items() if field in _CONTENT for key, _ in takes}
    return decided if decided.isdisjoint(content) else None


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

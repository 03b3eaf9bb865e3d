"""Attributes as ``KeyValue`` messages, and what is known of each key so that most of them are one look-up.

Most attributes of a program say the same few things over and over: an operation, a model, a route. Their bytes are
remembered for each key and value. A key whose values keep being new, such as an id or a text, is soon looked up no more,
and long values never are. What is remembered is bounded, by keys and by values.

Python holds that ``1``, ``True`` and ``1.0`` are equal, and OTLP does not: a key remembers values of one type only, and
of the sequences only those of texts.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from otel_langfuse.langfuse.wire import delimited, varint

__all__ = ["KeyValues"]

_DOUBLE = struct.Struct("<d")
_LEAST_INT, _MOST_INT = -(1 << 63), (1 << 63) - 1
_DEEPEST = 30  # levels of nesting, three messages each: readers of protobuf refuse more than a hundred in each other

_MAX_KEYS = 1024
_MAX_VALUES = 4096  # of all keys together, and as many heads
_VALUES = 64  # of one key
_LONGEST = 160  # bytes of a value that is remembered, and characters of a key
# A key that fills its room within so many times as many spans is not remembered any more: looking it up would cost more
# than it saves.
_WORTH = 8

_SMALL = tuple(bytes((value,)) for value in range(0x80))
# What stands before a short text, or a number of so many bytes: as the value behind a key, and as an item of a list.
_SHORT = 0x7E
_TEXT = tuple(bytes((0x12, size + 2, 0x0A, size)) for size in range(_SHORT))
_TEXT_ITEM = tuple(bytes((0x0A, size + 2, 0x0A, size)) for size in range(_SHORT))
_NUMBER = tuple(bytes((0x12, size + 1, 0x18)) for size in range(11))
_NUMBER_ITEM = tuple(bytes((0x0A, size + 1, 0x18)) for size in range(11))
_DOUBLE_VALUE = struct.Struct("<BBBd")
_DOUBLE_ITEM = b"\x0a\x09\x21"
_PAIR = tuple(bytes((0x0A, size)) for size in range(0x80))  # before a key and its value in a list of pairs
_KINDS = frozenset((str, int, bool, tuple))  # no floats: 0.0 equals -0.0, and they are quickly written


class _UnfitError(ValueError):
    """OTLP has no place for a value."""


class _Key:
    """What is known of a key.

    Attributes:
        name: The key as a field.
        kind: The type of the values that are remembered; ``None`` if none are.
        values: Each with its whole ``KeyValue`` message, tag and length included.
        since: How many mappings had been encoded when `values` was empty.
        heads: What stands before a text, by its length, of those that have come.
    """

    __slots__ = ("heads", "kind", "name", "since", "values")

    def __init__(self, name: bytes, kind: type | None, since: int) -> None:
        self.name = name
        self.kind = kind
        self.values: dict[Any, bytes] = {}
        self.since = since
        self.heads: dict[int, bytes] = {}


class KeyValues:
    """Encodes mappings of attributes that stand under one field. Not thread-safe.

    Args:
        tag: The field's tag, one byte.

    Attributes:
        unfit: Attributes that were left out so far because OTLP cannot hold their values.
    """

    def __init__(self, tag: bytes) -> None:
        self._tag = tag
        # The tag with the length, of messages whose length is one byte: nearly all attributes but content.
        self._heads = tuple(tag + size for size in _SMALL)
        self._keys: dict[str, _Key] = {}
        self._values = 0
        self._heads_known = 0
        self._seen = 0
        self.unfit = 0

    def add(self, parts: list[bytes], attributes: Mapping[str, Any]) -> None:
        """Appends the pieces of the messages, in the mapping's order. Content is copied once, when all are joined."""
        self._seen += 1
        keys = self._keys
        heads = self._heads
        append = parts.append
        for key, value in attributes.items():
            kind = type(value)
            try:
                known = keys[key]
                if kind is known.kind:
                    append(known.values[value])
                    continue
            except (KeyError, TypeError):  # a new key or value, or a tuple with something in it that has no hash
                known = self._learn(key, value)
            name = known.name
            if kind is str:
                text = value.encode("utf-8", "replace")
                size = len(text)
                if size < _SHORT:
                    parts += (known.heads.get(size) or self._head(known, size), text)
                else:
                    self._add_long(parts, name, text)
            elif kind is float and len(name) < 0x74:
                parts += (heads[len(name) + 11], name, _DOUBLE_VALUE.pack(0x12, 9, 0x21, value))
            elif kind is int and len(name) < 0x74 and 0 <= value <= _MOST_INT:
                number = varint(value)
                size = len(number)
                parts += (heads[len(name) + 3 + size], name, _NUMBER[size], number)
            else:
                self._add_other(parts, name, value)

    def add_one(self, parts: list[bytes], key: str, value: Any) -> None:
        """Appends an attribute that stands apart from the others of its mapping, which `add` takes."""
        self.add(parts, {key: value})
        self._seen -= 1  # mappings are counted

    def _head(self, known: _Key, size: int) -> bytes:
        """What stands before a short text of a length."""
        head = b"".join((self._tag, varint(len(known.name) + 4 + size), known.name, _TEXT[size]))
        if self._heads_known < _MAX_VALUES and len(known.name) <= _LONGEST:
            known.heads[size] = head
            self._heads_known += 1
        return head

    def _add_long(self, parts: list[bytes], name: bytes, text: bytes) -> None:
        """Appends an attribute with a text, encoded, whose lengths take more than a byte each."""
        size = len(text)
        whole = len(name) + 6 + size
        if size >= 0x80 and whole < 0x4000:  # then every length is two bytes
            value = size + 3
            head = bytes((self._tag[0], whole & 0x7F | 0x80, whole >> 7))
            between = bytes((0x12, value & 0x7F | 0x80, value >> 7, 0x0A, size & 0x7F | 0x80, size >> 7))
            parts += (head, name, between, text)
            return
        inner = varint(size)
        outer = varint(1 + len(inner) + size)
        whole = len(name) + 2 + len(outer) + len(inner) + size
        parts += (self._tag, varint(whole), name, b"\x12", outer, b"\x0a", inner, text)

    def _add_other(self, parts: list[bytes], name: bytes, value: Any) -> None:
        """Appends an attribute of any type."""
        inner: list[bytes] = []
        try:
            size = _add_any(inner, value, 0)
        except (_UnfitError, RecursionError):
            self.unfit += 1
        else:
            outer = varint(size)
            parts += (self._tag, varint(len(name) + 1 + len(outer) + size), name, b"\x12", outer, *inner)

    # What is known of keys.

    def _learn(self, key: str, value: Any) -> _Key:
        """What is known of a key, now with this value among the remembered ones if that is worth it."""
        known = self._keys.get(key)
        if known is None:
            known = _Key(_name(key), type(value) if type(value) in _KINDS else None, self._seen)
            if len(key) > _LONGEST:
                known.kind = None
            else:
                if len(self._keys) >= _MAX_KEYS:
                    # Some keys are made up as the program runs; those that matter are known again after a few spans.
                    self._keys.clear()
                    self._values = self._heads_known = 0
                self._keys[key] = known
        if known.kind is not None and not self._remember(known, value):
            self._values -= len(known.values)
            known.kind = None
            known.values = {}
        return known

    def _remember(self, known: _Key, value: Any) -> bool:
        """Remembers a value; ``False`` if its key's values had better not be."""
        kind = type(value)
        if kind is tuple:
            plain = all(type(item) is str for item in value)
        else:
            plain = len(value) <= _LONGEST if kind is str else _LEAST_INT <= value <= _MOST_INT
        if not plain or self._values >= _MAX_VALUES:
            return False
        values = known.values
        if len(values) >= _VALUES:
            if self._seen - known.since < _WORTH * _VALUES:
                return False
            self._values -= len(values)
            values.clear()
            known.since = self._seen
        found: list[bytes] = []
        self._add_other(found, known.name, value)
        piece = b"".join(found)
        if len(piece) > _LONGEST + len(known.name):
            return False
        values[value] = piece
        self._values += 1
        return True


def _add_any(parts: list[bytes], value: Any, depth: int) -> int:
    """Appends the pieces of an ``AnyValue`` message (common.proto) and returns their size.

    Its fields: string 1, bool 2, int 3, double 4, array 5, list of pairs 6, bytes 7.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "replace")
        head = b"\x0a" + varint(len(text))
        parts += (head, text)
        return len(head) + len(text)
    if isinstance(value, bool):
        parts.append(b"\x10\x01" if value else b"\x10\x00")
        return 2
    if isinstance(value, int):
        if not _LEAST_INT <= value <= _MOST_INT:
            raise _UnfitError
        number = varint(value & 0xFFFFFFFFFFFFFFFF)
        parts += (b"\x18", number)
        return 1 + len(number)
    if isinstance(value, float):
        parts += (b"\x21", _DOUBLE.pack(value))
        return 9
    if value is None:
        return 0
    if isinstance(value, bytes):
        head = b"\x3a" + varint(len(value))
        parts += (head, value)
        return len(head) + len(value)
    return _add_nested(parts, value, depth)


def _add_nested(parts: list[bytes], value: Any, depth: int) -> int:
    if depth > _DEEPEST:
        raise _UnfitError
    at = len(parts)
    parts.append(b"")  # the length comes before what it is the length of
    if type(value) is tuple or isinstance(value, Sequence):
        size = _add_items(parts, value, depth + 1)
        head = b"\x2a" + varint(size)
    elif isinstance(value, Mapping):
        size = _add_pairs(parts, value, depth + 1)
        head = b"\x32" + varint(size)
    else:
        raise _UnfitError
    parts[at] = head
    return len(head) + size


def _add_items(parts: list[bytes], items: Sequence[Any], depth: int) -> int:
    total = 0
    for item in items:
        kind = type(item)
        if kind is str:
            text = item.encode("utf-8", "replace")
            size = len(text)
            if size < _SHORT:
                parts += (_TEXT_ITEM[size], text)
                total += 4 + size
                continue
        elif kind is int and 0 <= item <= _MOST_INT:
            number = varint(item)
            parts += (_NUMBER_ITEM[len(number)], number)
            total += 3 + len(number)
            continue
        elif kind is float:
            parts += (_DOUBLE_ITEM, _DOUBLE.pack(item))
            total += 11
            continue
        at = len(parts)
        parts.append(b"")
        size = _add_any(parts, item, depth)
        head = parts[at] = b"\x0a" + varint(size)
        total += len(head) + size
    return total


def _add_pairs(parts: list[bytes], pairs: Mapping[Any, Any], depth: int) -> int:
    total = 0
    for key, value in pairs.items():
        word = str(key)
        name = _known_name(word) if len(word) <= _LONGEST else _name(word)
        if type(value) is str:
            text = value.encode("utf-8", "replace")
            size = len(text)
            whole = len(name) + 4 + size
            if whole < 0x80:
                parts += (_PAIR[whole], name, _TEXT[size], text)
                total += 2 + whole
                continue
        at = len(parts)
        parts.append(b"")
        size = _add_any(parts, value, depth)
        outer = varint(size)
        head = parts[at] = b"".join((b"\x0a", varint(len(name) + 1 + len(outer) + size), name, b"\x12", outer))
        total += len(head) + size
    return total


def _name(key: str) -> bytes:
    return delimited(b"\x0a", key.encode("utf-8", "replace"))


_known_name = lru_cache(_MAX_KEYS)(_name)

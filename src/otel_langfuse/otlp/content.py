"""What leaves a copy of a span when its content must: the rules, for values of the SDK and for texts of protobuf alike.

Rules:

- ``drop`` removes content; ``truncate: N`` keeps N bytes of each text, in valid UTF-8, and a mark after it. Content is what
  ``content_keys.py`` says, on spans and in their events.
- Ids, times, names, models, token counts, status and exceptions stay as they are.
- Applied twice it changes nothing more. The given mappings are never changed.

The sidecar applies the same rules to bytes that came from elsewhere (``sidecar/destinations/policy.py``); a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from otel_langfuse.dialects.merge import may_be_genai
from otel_langfuse.model import EventView, SpanView
from otel_langfuse.otlp.content_keys import PARAMETERS, Holds, holds, is_spoken_parameter, is_structure

__all__ = ["EXCEPTION", "MARK", "Content", "cut", "is_message", "looks_genai", "speaks", "without_content"]

MARK = "…[truncated]"
"""Ends a text that was cut."""

EXCEPTION = "exception"
"""The event whose attributes stay."""

_MARK = MARK.encode()
_Types = tuple[type, ...]
_MAX_SHAPES = 512  # sets of keys; numbered keys make one for each length of a conversation
_KEYS_LIMIT = 16 * 1024  # characters of the keys of one such set
_SCOPE_LIMIT = 256
_SILENT = frozenset({"event.name", "finish_reason", "error.type"})


class Content:
    """The policy for one copy. Holds no state of its own; may be used by any thread.

    Args:
        rule: ``keep``, ``drop`` or ``truncate: N``.
    """

    __slots__ = ("_limit", "keeps")

    def __init__(self, rule: str = "keep") -> None:
        self.keeps = rule == "keep"
        """Whether nothing is changed."""
        # Bytes of each text that stay; ``None``: none of it does, not even the attribute.
        self._limit = int(rule.partition(":")[2]) if rule.startswith("truncate") else None

    def span(self, attributes: Mapping[str, Any], genai: bool) -> Mapping[str, Any]:
        """A span's attributes as they may leave; the same mapping if there is nothing to change."""
        found = self._attributes(attributes, genai, message=False)
        for key in PARAMETERS.intersection(attributes):
            text = attributes[key]
            if isinstance(text, str) and text:
                short = without_content(text, self._limit)
                if short != text:
                    found = dict(found) if found is attributes else found
                    if short is None:
                        del found[key]  # type: ignore[attr-defined]
                    else:
                        found[key] = short  # type: ignore[index]
        return found

    def event(self, name: str, attributes: Mapping[str, Any], genai: bool) -> Mapping[str, Any]:
        """An event's attributes likewise."""
        if name == EXCEPTION:
            return attributes
        return self._attributes(attributes, genai or name.startswith("gen_ai."), message=is_message(name))

    def _attributes(self, attributes: Mapping[str, Any], genai: bool, *, message: bool) -> Mapping[str, Any]:
        keys = tuple(attributes)
        suspects = _suspects(keys, genai, message) if _short(keys) else _suspects.__wrapped__(keys, genai, message)
        found = [(key, kept) for key, types, kept in suspects if isinstance(attributes[key], types)]
        if not found:
            return attributes
        changed = dict(attributes)
        for key, kept in found:
            if self._limit is None:
                del changed[key]
            elif not kept:
                changed[key] = self._shorten(changed[key], self._limit)
        return changed

    def _shorten(self, value: Any, limit: int) -> Any:
        if isinstance(value, str):
            return cut(value, limit)
        if isinstance(value, bytes):
            return value[:limit]
        if isinstance(value, Mapping):
            return {key: item if is_structure(str(key)) else self._shorten(item, limit) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._shorten(item, limit) for item in value]
        return value


def cut(text: str, limit: int) -> str:
    """The first ``limit`` bytes of a text, and the mark; a text that was cut so before stays as it is."""
    if len(text) * 4 <= limit:
        return text
    raw = text.encode("utf-8", "replace")
    own = len(raw) - len(_MARK) if raw.endswith(_MARK) else len(raw)
    return text if own <= limit else raw[:limit].decode("utf-8", "ignore") + MARK


def without_content(text: str, limit: int | None) -> str | None:
    """A JSON object of parameters without its content, or with its content cut; ``None`` if it cannot be read."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    found = [key for key, member in given.items() if isinstance(member, (str, list, dict)) and is_spoken_parameter(key)]
    changed = False
    for key in found:
        if limit is None:
            del given[key]
            changed = True
        else:
            member = given[key] if isinstance(given[key], str) else json.dumps(given[key])
            short = cut(member, limit)
            if short != member:
                given[key] = short
                changed = True
    return json.dumps(given) if changed else text


def looks_genai(scope: str, keys: Iterable[str], events: Iterable[str] = ()) -> bool:
    """Whether a span may be GenAI, by all that tells: its scope, its keys, and the names of its events."""
    own = tuple(keys)
    if _short(own) and len(scope) <= _SCOPE_LIMIT:
        if _keyed_genai(scope, own):
            return True
    elif _keyed_genai.__wrapped__(scope, own):
        return True
    seen = [EventView(name, 0, {}) for name in events]
    return bool(seen) and may_be_genai(SpanView(b"", b"", b"", False, "", 0, 0, 0, {}, seen))


def is_message(event: str) -> bool:
    """Whether an event of this name is a message, all of whose texts were said."""
    return event.startswith("gen_ai.") and not event.endswith("operation.details")


def speaks(key: str) -> bool:
    """Whether a text of a message's event is something that was said."""
    return key not in _SILENT and not is_structure(key) and not key.startswith(("gen_ai.system", "gen_ai.provider."))


# What follows from keys alone is worked out once for each set of them: an instrumentation has few.


def _short(keys: tuple[str, ...]) -> bool:
    """Whether keys are few and short enough to be remembered."""
    return sum(map(len, keys)) <= _KEYS_LIMIT


@lru_cache(maxsize=_MAX_SHAPES)
def _keyed_genai(scope: str, keys: tuple[str, ...]) -> bool:
    return may_be_genai(SpanView(b"", b"", b"", False, "", 0, 0, 0, dict.fromkeys(keys), [], scope_name=scope))


@lru_cache(maxsize=_MAX_SHAPES)
def _suspects(keys: tuple[str, ...], genai: bool, message: bool) -> tuple[tuple[str, _Types, bool], ...]:
    """Keys that may hold content, with the types of value that are, and whether the key is one of structure."""
    out: list[tuple[str, _Types, bool]] = []
    for key in keys:
        found = holds(key, genai)
        types: _Types = ()
        if found is Holds.CONTENT:
            types = (object,)
        elif found is Holds.TEXT:
            types = (str, bytes, Sequence, Mapping)
        elif message and speaks(key):
            types = (str,)
        if types:
            out.append((key, types, is_structure(key)))
    return tuple(out)

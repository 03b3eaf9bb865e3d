"""Texts that are the same for many calls: instructions, and the definitions of tools. They are read once.

What is kept holds content, so it is bounded by what it takes: 64 texts, a million characters of them in all, none of more
than 64 Ki characters. Texts that keep being new push each other out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from otel_langfuse.model import Value

__all__ = ["Constant"]

_MOST = 64
_LONGEST = 65_536
_CHARACTERS = 1_000_000

_T = TypeVar("_T")


class Constant(Generic[_T]):
    """A converter that remembers what it made of a text. Callers share the result, so nobody may change it.

    Args:
        take: Converts a value.
    """

    __slots__ = ("_characters", "_known", "_take")

    def __init__(self, take: Callable[[Value], _T]) -> None:
        self._take = take
        self._known: dict[str, _T] = {}
        self._characters = 0

    def __call__(self, value: Value) -> _T:
        """The converted value."""
        if type(value) is not str:
            return self._take(value)
        try:
            return self._known[value]
        except KeyError:
            return self._learn(value)

    def _learn(self, text: str) -> _T:
        made = self._take(text)
        if len(text) <= _LONGEST:
            if len(self._known) >= _MOST or self._characters + len(text) > _CHARACTERS:
                self._known.clear()
                self._characters = 0
            self._known[text] = made
            self._characters += len(text)
        return made

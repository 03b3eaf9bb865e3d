"""Shapes of spans: what follows from the keys of a span's attributes alone, worked out once.

The spans of one instrumentation have few sets of keys, in few orders, so what a reader finds by looking through all keys
can be remembered: whether it has a word on such spans at all, and which rows of its table apply. What depends on values
is looked at for every span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from otel_langfuse.model import Facts, SpanView

__all__ = ["Hints", "Shape", "shape_of"]

_MAX_SHAPES = 512  # numbered keys make a shape per length of a conversation
_MAX_SCOPES = 64

Read = Callable[[SpanView], Facts | None]


@dataclass(frozen=True, slots=True)
class Hints:
    """Where a reader may have a word: a span that has none of these is none of its spans.

    Attributes:
        scopes: Prefixes of the scope's name.
        keys: Prefixes of attribute keys.
        events: Prefixes of the names of span events; content records count as such.
        always: Whether the reader is asked about every span.
        but: Keys that are no hint although a prefix says so.
        looks: Keys whose values the reader looks at itself, beside the rows of its table; one that ends in a dot stands for
            all that begin with it. ``None``: any.
        hears: Whether the reader looks at span events of a name.
    """

    scopes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    always: bool = False
    but: frozenset[str] = frozenset()
    looks: tuple[str, ...] | None = None
    hears: Callable[[str], bool] = lambda name: False

    def allow(self, scope: str, shape: Shape) -> bool:
        """Whether the reader may have a word on spans of this scope and shape, events aside."""
        return self.always or scope.startswith(self.scopes) or shape.has(self.keys, self.but)


class Shape:
    """The keys of a span's attributes, and what has been found out about them.

    Attributes:
        keys: The keys, in the span's order.
        plans: By table, which of its rows apply.
        readers: By scope, the readers to ask.
        memories: By scope, what is remembered of such spans (`dialects.recall`).
    """

    __slots__ = ("_known", "keys", "memories", "plans", "readers")

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.plans: dict[Any, Any] = {}
        self.readers: dict[tuple[str, bool], tuple[Read, ...]] = {}
        self.memories: dict[str, Any] = {}
        self._known: dict[tuple[tuple[str, ...], frozenset[str]], bool] = {}

    def has(self, prefixes: tuple[str, ...], but: frozenset[str] = frozenset()) -> bool:
        """Whether a key, none of ``but``, begins with one of ``prefixes``; both must be constants: the answer is kept."""
        known = self._known.get((prefixes, but))
        if known is None:
            known = self._known[prefixes, but] = any(key.startswith(prefixes) and key not in but for key in self.keys)
        return known

    def choose(self, scope: str, events: bool, dialects: tuple[tuple[Hints, Read], ...]) -> tuple[Read, ...]:
        """The readers that may have a word, in their order."""
        chosen = tuple(read for hints, read in dialects if hints.allow(scope, self) or (events and hints.events))
        if len(self.readers) >= _MAX_SCOPES:
            self.readers.clear()
        self.readers[scope, events] = chosen
        return chosen


_shapes: dict[tuple[str, ...], Shape] = {}


def shape_of(view: SpanView) -> Shape:
    """The shape of a span."""
    shape = view.shape
    if shape is None:
        keys = tuple(view.attributes)
        shape = _shapes.get(keys)
        if shape is None:
            if len(_shapes) >= _MAX_SHAPES:
                _shapes.clear()
            shape = _shapes[keys] = Shape(keys)
        view.shape = shape
    return shape  # type: ignore[no-any-return]  # the model does not know what readers keep there

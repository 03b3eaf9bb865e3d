"""Masking: what must not leave the process is replaced in every text that does.

Rules:
    - It fails closed. Whatever goes wrong in a mask costs the text (``[masking failed]``), never the secret, and counts
      as ``masking_failed``. Neither the text nor an exception's message is ever logged.
    - The user's callable runs first, then the built-ins and the user's patterns on what it returned.
    - Built-ins keep JSON what was JSON: escapes are never cut, and a card number that is a JSON number becomes a
      string. A text that is nothing but one number counts as plain text. A user's pattern is used as given; one
      that eats quotes can break JSON.
    - Masking a masked text changes nothing, as far as built-ins and patterns go.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from otel_langfuse.counters import Counters, OncePerInterval
from otel_langfuse.errors import ConfigError
from otel_langfuse.pipeline.mask_rules import BUILT_IN, ESCAPE_MARK, Finder, Span

__all__ = ["FAILED", "Masker"]

logger = logging.getLogger(__name__)

FAILED = "[masking failed]"

# A run of backslashes with the letter it escapes; of any length, because a string in JSON often holds JSON itself. A
# quote belongs to an odd run only: after an even one it ends the string. And the mark itself, to keep both in step.
_ESCAPE = re.compile(r"\x00|(?:\\\\)*+\\\"|\\+(?:u[0-9a-fA-F]{4}|[/bfnrt])?")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_NO_PATTERNS: Mapping[str, str] = MappingProxyType({})
# A replacement can turn its neighbour into a match. More rounds than this happen only to texts made for it.
_ROUNDS = 8


def _pattern_finder(pattern: re.Pattern[str], name: str, placeholder: re.Pattern[str]) -> Finder:
    """A finder for a user's pattern, which leaves what is masked already alone."""

    def find(text: str) -> Iterator[Span]:
        start = 0
        for masked in placeholder.finditer(text):
            yield from find_between(text, start, masked.start())
            start = masked.end()
        yield from find_between(text, start, len(text))

    def find_between(text: str, start: int, end: int) -> Iterator[Span]:
        for match in pattern.finditer(text[start:end] if start or end < len(text) else text):
            if match.end() > match.start():
                yield start + match.start(), start + match.end(), f"[{name}]"

    return find


class Masker:
    """Replaces secrets and personal data in texts; immutable after construction and safe to share between threads.

    ``Masker.from_settings`` makes one, or ``None`` when there is nothing to mask.
    """

    def __init__(
        self,
        finders: Sequence[Finder],
        custom: Callable[[Any, str], Any] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._finders = tuple(finders)
        self._custom = custom
        self._counters = counters or Counters()
        self._may_log = OncePerInterval(60.0)

    @classmethod
    def from_settings(
        cls,
        names: Sequence[str],
        custom: Callable[[Any, str], Any] | None = None,
        patterns: Mapping[str, str] = _NO_PATTERNS,
        counters: Counters | None = None,
    ) -> Masker | None:
        """The masker for these settings; ``None`` when all of them are empty.

        Args:
            names: Built-ins by name, or ``all``.
            custom: ``mask(value, field) -> value``; anything but a string that it returns is written as JSON.
            patterns: Regular expressions by name; a match becomes ``[name]``. They run on untrusted text, so one that
                backtracks without bound can stall the delivery.
            counters: Where ``masking_failed`` is counted.

        Raises:
            ConfigError: A name is unknown, or a pattern cannot be compiled. Leaving a mask out would let through what
                it was meant for.
        """
        wanted = {name.strip().lower() for name in names} - {""}
        for name in sorted(wanted - BUILT_IN.keys() - {"all"}):
            raise ConfigError(f"mask: {name!r} is no built-in mask{_near(name)}", field="mask", source="names")
        finders = [finder for name, finder in BUILT_IN.items() if name in wanted or "all" in wanted]
        # Longest first: one name may be the beginning of another.
        labels = sorted({*BUILT_IN, *patterns}, key=len, reverse=True)
        placeholder = re.compile(r"\[(?:" + "|".join(map(re.escape, labels)) + r")\]")
        for name, pattern in patterns.items():
            if not _NAME.fullmatch(name):
                message = f"mask: pattern name {name!r} may hold letters, digits, '_', '-' and '.' only"
                raise ConfigError(message, field="mask", source="patterns")
            try:
                finders.append(_pattern_finder(re.compile(pattern), name, placeholder))
            except (re.error, TypeError, OverflowError, RecursionError) as error:
                message = f"mask: pattern {name!r} is no regular expression: {error}"
                raise ConfigError(message, field="mask", source="patterns") from None
        return cls(finders, custom, counters) if finders or custom is not None else None

    def mask_text(self, text: str, field: str) -> str:
        """``text`` without what is to be masked; ``[masking failed]`` when that cannot be said for sure.

        Args:
            text: Any text, often JSON.
            field: Where it comes from, for the user's callable.
        """
        try:
            if self._custom is not None:
                text = _as_text(self._custom(text, field))
            return self._mask(text) if self._finders else text
        except BaseException as error:  # noqa: BLE001 - the border to the user's code: it may raise anything
            self._counters.count("masking_failed")
            if self._may_log("masking_failed"):
                # The message may quote the content; the type cannot.
                logger.warning(
                    "otel-langfuse: masking %s raised %s; its content is replaced by %s.",
                    field,
                    type(error).__name__,
                    FAILED,
                )
            return FAILED

    def _mask(self, text: str) -> str:
        escapes = _ESCAPE.findall(text)
        marked = _ESCAPE.sub(ESCAPE_MARK, text) if escapes else text
        for _ in range(_ROUNDS):
            before = marked
            for find in self._finders:
                spans = list(find(marked))
                if spans:
                    marked, escapes = _replace(marked, escapes, spans)
            if marked == before:
                break
        else:
            raise _UnsettledError
        if not escapes:
            return marked
        parts = marked.split(ESCAPE_MARK)
        return parts[0] + "".join(escape + part for escape, part in zip(escapes, parts[1:], strict=True))


class _UnsettledError(Exception):
    """Each round of masking uncovered something new."""


def _replace(text: str, escapes: list[str], spans: Sequence[Span]) -> tuple[str, list[str]]:
    """The text with its spans replaced, and the escapes that are left in it."""
    parts: list[str] = []
    left: list[str] = []
    done = seen = 0
    for start, end, replacement in spans:
        parts += (text[done:start], replacement)
        if escapes:
            kept = text.count(ESCAPE_MARK, done, start)
            left += escapes[seen : seen + kept]
            seen += kept + text.count(ESCAPE_MARK, start, end)
        done = end
    parts.append(text[done:])
    return "".join(parts), left + escapes[seen:]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _near(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [*BUILT_IN, "all"], n=1)
    known = ", ".join([*BUILT_IN, "all"])
    return f" (did you mean {close[0]!r}?); known: {known}" if close else f"; known: {known}"

"""What is wrong with a configuration: all of it, collected, each as one line that says where, what, and what to do.

A line is ``otel-config.yaml:12: exporters.langfuse.timeout: what is wrong; what to do``. A value is shown only where it
resembles a word that would be right there, so that a secret in the wrong place does not show.
"""

from __future__ import annotations

from collections.abc import Iterable

from otel_langfuse.errors import ConfigError
from otel_langfuse.setting_values import nearest

__all__ = ["Problems", "Where", "known_list", "path_of", "quoted", "suggestion"]

Where = tuple[str | int, ...]
"""The way to a value: keys, and indexes into lists."""

_MOST_LINES = 50
_MOST_CHARACTERS = 60


def quoted(text: str) -> str:
    """A word of the file in quotes, shortened; one that could be a secret is not shown."""
    if "-lf-" in text or "@" in text:
        return "(not shown)"
    return repr(text[:_MOST_CHARACTERS] + ("…" if len(text) > _MOST_CHARACTERS else ""))


def suggestion(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` when a known word is close, else nothing."""
    return "" if not word else nearest(word, known)


def path_of(where: Where) -> str:
    """A path as it is written in messages: ``service.pipelines.traces.exporters[1]``."""
    text = ""
    for step in where:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            shown = "(not shown)" if quoted(step) == "(not shown)" else _one_line(step[:_MOST_CHARACTERS])
            text += f".{shown}" if text else shown
    return text


def _one_line(text: str) -> str:
    """The text without line breaks, other control characters, or what cannot be encoded."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class Problems:
    """Collects errors and warnings of one source.

    Args:
        source: The file's name, as messages call it.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._lines: dict[Where, int] = {}
        self._errors: dict[tuple[int, str, str], None] = {}
        self._warnings: dict[tuple[int, str], None] = {}

    def place(self, where: Where, line: int) -> None:
        """Notes on which line a value stands."""
        self._lines[where] = line

    def error(self, where: Where, text: str, *, line: int = 0) -> None:
        """Adds what makes the configuration unusable. ``line`` is looked up when it is not given."""
        at = line or self._line(where)
        self._errors[at, path_of(where), self._rendered(at, where, text)] = None

    def warn(self, where: Where, text: str) -> None:
        """Adds what deserves a word and does not keep the sidecar from running."""
        line = self._line(where)
        self._warnings[line, self._rendered(line, where, text)] = None

    @property
    def found(self) -> bool:
        """Whether there is an error."""
        return bool(self._errors)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, in the order of the file."""
        return tuple(text for _, text in sorted(self._warnings, key=lambda entry: entry[0]))

    def raise_found(self) -> None:
        """Raises all errors as one.

        Raises:
            ConfigError: There is an error; its text has one line for each, in the order of the file.
        """
        if not self._errors:
            return
        ordered = sorted(self._errors, key=lambda entry: entry[0])
        lines = [text for _, _, text in ordered[:_MOST_LINES]]
        if len(ordered) > _MOST_LINES:
            lines.append(f"{self.source}: and {len(ordered) - _MOST_LINES} more problems")
        raise ConfigError("\n".join(lines), field=ordered[0][1], source=self.source)

    def _line(self, where: Where) -> int:
        """The line of the value, or of the nearest thing around it that has one."""
        for end in range(len(where), -1, -1):
            line = self._lines.get(where[:end])
            if line:
                return line
        return 0

    def _rendered(self, line: int, where: Where, text: str) -> str:
        head = f"{self.source}:{line}" if line else self.source
        path = path_of(where)
        return _one_line(f"{head}: {path}: {text}" if path else f"{head}: {text}")


def known_list(known: Iterable[str]) -> str:
    """Known words, for the end of a message."""
    return ", ".join(sorted(known))

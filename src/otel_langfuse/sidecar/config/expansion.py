"""``${env:NAME}`` and ``${file:PATH}`` in the texts of a configuration.

Rules, which are the Collector's unless a line says otherwise:

- ``${env:NAME}`` and ``${NAME}`` stand for an environment variable, ``${env:NAME:-text}`` for the text when it is not
  set. Ours: or when it is empty, as in a shell. The text may hold further ``${…}``, and braces in pairs.
- ``${file:PATH}`` stands for the content of a file without the line break at its end, as secrets are mounted.
- ``$$`` is a dollar sign. A single one that no brace follows is itself.
- Ours: what comes from outside is not expanded again; a secret may hold dollar signs.
- No message holds a value, a default or a text that could not be read as a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Expanded", "ExpansionError", "expand"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_SCHEME = re.compile(r"(env|file):")
_STOP = re.compile(r"\$\$|\$\{|[{}]")
_MOST_NESTING = 8
_MOST_BYTES = 64 << 10


class ExpansionError(ValueError):
    """A ``${…}`` cannot be read; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A text after expansion.

    Attributes:
        text: The result.
        names: The variables that were asked for.
        unset: Those of them that gave nothing and have no default, each with how it stands ("is not set", "is empty").
        whole: Whether the text was one expansion and nothing else.
    """

    text: str
    names: tuple[str, ...] = ()
    unset: tuple[tuple[str, str], ...] = ()
    whole: bool = False


def expand(text: str, environ: Mapping[str, str]) -> Expanded:
    """The text with every ``${…}`` replaced.

    Raises:
        ExpansionError: A ``${`` has no end, no usable name, or an unreadable file.
    """
    if "$" not in text:
        return Expanded(text)
    names: list[str] = []
    unset: list[tuple[str, str]] = []
    result = _expand(text, environ, names, unset, 0)
    whole = text.startswith("${") and _end(text, 2) == len(text) - 1
    return Expanded(result, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(unset)), whole)


def _expand(text: str, environ: Mapping[str, str], names: list[str], unset: list[tuple[str, str]], depth: int) -> str:
    if depth > _MOST_NESTING:
        raise ExpansionError(f"${{…}} inside ${{…}} goes deeper than {_MOST_NESTING}; write it simpler")
    parts: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        if text.startswith("$$", dollar):
            parts.append("$")
            at = dollar + 2
        elif text.startswith("${", dollar):
            end = _end(text, dollar + 2)
            parts.append(_value(text[dollar + 2 : end], environ, names, unset, depth))
            at = end + 1
        else:
            parts.append("$")
            at = dollar + 1
    parts.append(text[at:])
    return "".join(parts)


def _end(text: str, start: int) -> int:
    """The index of the brace that closes the one before ``start``."""
    open_braces = 1
    for match in _STOP.finditer(text, start):
        if match[0] == "}":
            open_braces -= 1
            if not open_braces:
                return match.start()
        elif match[0] != "$$":
            open_braces += 1
    raise ExpansionError("a ${ is not closed; add the }, or write $${ for the characters themselves")


def _value(body: str, environ: Mapping[str, str], names: list[str], unset: list[tuple[str, str]], depth: int) -> str:
    scheme = _SCHEME.match(body)
    if scheme and scheme[1] == "file":
        return _content(_expand(body[scheme.end() :], environ, names, unset, depth + 1))
    name, has_default, default = body[scheme.end() if scheme else 0 :].partition(":-")
    if not _NAME.fullmatch(name):
        raise ExpansionError("a ${…} names no variable; write ${env:NAME}, ${env:NAME:-default} or ${file:PATH}")
    names.append(name)
    value = environ.get(name, "")
    if value:
        return value
    if has_default:
        return _expand(default, environ, names, unset, depth + 1)
    unset.append((name, "is empty" if name in environ else "is not set"))
    return ""


def _content(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has no usable name"
        raise ExpansionError(f"the file of ${{file:…}} cannot be read ({reason}); mend its path or its permissions") from None
    if len(content) > _MOST_BYTES:
        raise ExpansionError("the file of ${file:…} is larger than 64 KiB; name one that holds a single value")
    try:
        return content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ExpansionError("the file of ${file:…} is no UTF-8 text; name one that holds a single value") from None

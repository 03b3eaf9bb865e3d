"""Readers for the values of settings: each takes what was given and returns the value in its own type.

A reader accepts the text of an environment variable and the native type that a keyword would have. What it cannot use
it refuses with ``InvalidValueError``, whose message never holds the value itself, so that no secret gets into a log.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = [
    "InvalidValueError",
    "Noted",
    "nearest",
    "number_reader",
    "read_base_url",
    "read_compression",
    "read_content_rule",
    "read_count",
    "read_fanout",
    "read_file",
    "read_flag",
    "read_headers",
    "read_link",
    "read_list",
    "read_names",
    "read_path",
    "read_rules",
    "read_sdk_disabled",
    "read_size",
    "read_text",
]

_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_SIZE = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})?\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_SIZE_STEP = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_OTLP_SUFFIX = re.compile(r"/api/public/otel(/v1/traces)?$")


class InvalidValueError(ValueError):
    """A value cannot be used; the message completes "NAME is …" and never holds the value."""


@dataclasses.dataclass(frozen=True, slots=True)
class Noted:
    """A usable value that still deserves a warning."""

    value: object
    note: str


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word closest to ``word``, as ``" (did you mean 'x'?)"``; empty when nothing is close."""
    import difflib

    close = difflib.get_close_matches(word.lower()[:64], list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_text(raw: object) -> str:
    """The text without surrounding white space; a line break or other control character in it is refused."""
    if not isinstance(raw, str):
        raise InvalidValueError("not a string")
    text = raw.strip()
    # Lone surrogates are how Python keeps bytes that are no UTF-8; they cannot be sent.
    if _UNSENDABLE.search(text):
        raise InvalidValueError("not plain text: it has control or undecodable characters")
    return text


def read_flag(raw: object) -> bool:
    """A boolean: true/false, 1/0, yes/no, on/off in any case. Anything else is refused, not guessed."""
    if isinstance(raw, int) and raw in (0, 1):
        return bool(raw)
    word = read_text(raw).lower()
    if word not in _WORDS:
        raise InvalidValueError(f"not a boolean: use true or false{nearest(word, _WORDS)}")
    return _WORDS[word]


def read_sdk_disabled(raw: object) -> bool | None:
    """OpenTelemetry knows one meaningful value here, ``true``; all others are as good as unset."""
    return False if read_text(raw).lower() == "true" else None


def number_reader(low: float, high: float) -> Callable[[object], float]:
    """A reader for finite numbers from ``low`` to ``high``."""

    def parse(raw: object) -> float:
        try:
            value = float(raw if isinstance(raw, (int, float)) and not isinstance(raw, bool) else read_text(raw))
        except (ValueError, OverflowError):
            raise InvalidValueError("not a number") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise InvalidValueError(f"out of range: it must be {low:g} to {high:g}")
        return value

    return parse


def read_count(raw: object) -> int:
    """A whole number from 1 to a million."""
    try:
        value = raw if isinstance(raw, int) and not isinstance(raw, bool) else int(read_text(raw))
    except ValueError:
        raise InvalidValueError("not a whole number") from None
    if not 1 <= value <= 1_000_000:
        raise InvalidValueError("out of range: it must be 1 to 1000000")
    return value


def read_size(raw: object) -> int:
    """A size in bytes: a plain number, or one with K, M, G, T in steps of 1024 (``64MiB``, ``64M``)."""
    text = str(raw) if isinstance(raw, int) and abs(raw) < 1 << 60 and not isinstance(raw, bool) else read_text(raw)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidValueError("not a size in bytes: write 1048576, 64MiB or 1GiB")
    whole, part, unit, _ = match.groups()
    scale = 1 << _SIZE_STEP[unit.lower()]
    value = int(float(whole + part) * scale) if part else int(whole) * scale
    if not 1 <= value <= 1 << 50:
        raise InvalidValueError("out of range: it must be 1 byte to 1024 TiB")
    return value


def read_list(raw: object) -> tuple[str, ...]:
    """A comma list, or any collection of strings, without empty parts."""
    if isinstance(raw, str):
        return tuple(part for part in (part.strip() for part in read_text(raw).split(",")) if part)
    if not isinstance(raw, (list, tuple, set, frozenset)):
        raise InvalidValueError("not a list of strings")
    return tuple(text for text in map(read_text, raw) if text)


def read_names(raw: object) -> tuple[str, ...]:
    """A comma list of names, in lower case."""
    return tuple(name.lower() for name in read_list(raw))


def read_headers(raw: object) -> dict[str, str]:
    """HTTP headers: a mapping, or ``name=value,name2=value2`` with percent-encoding."""
    if isinstance(raw, Mapping):
        pairs: list[tuple[object, object]] = list(raw.items())
    else:
        parts = [part.partition("=") for part in read_text(raw).split(",") if part.strip()]
        if not all(equals for _, equals, _ in parts):
            raise InvalidValueError("not a list of headers: write name=value,name2=value2, percent-encoded")
        pairs = [(unquote(name), unquote(value)) for name, _, value in parts]
    headers: dict[str, str] = {}
    for name, value in pairs:
        header, text = read_text(name), read_text(value)
        # What the HTTP client would refuse, or worse, send as a second header, must not get that far.
        if not _TOKEN.fullmatch(header) or any(char > "\xff" for char in text):
            raise InvalidValueError("not usable as HTTP headers: a name or value has forbidden characters")
        headers[header] = text
    return headers


def read_base_url(raw: object) -> str | Noted:
    """An http(s) address without trailing slash; an OTLP address is cut back to its base, with a note."""
    url = read_text(raw).rstrip("/")
    try:
        parts = urlsplit(url)
        valid = parts.scheme.lower() in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\"'<>\\]", url):
        raise InvalidValueError("not an http:// or https:// URL with a host")
    if "@" in parts.netloc:
        raise InvalidValueError("not usable: it holds a user name or password; use the key settings")
    if parts.query or parts.fragment:
        raise InvalidValueError("not usable: it has a query or a fragment")
    short = _OTLP_SUFFIX.sub("", url).rstrip("/")
    if short != url:
        return Noted(short, f"is the OTLP address; the base address is expected, so {short} is used")
    return url


def read_path(raw: object) -> str:
    """A path of a URL, with one leading slash."""
    path = read_text(raw)
    if re.search(r"[\s?#]|://", path):
        raise InvalidValueError("not a path: write /api/public/otel/v1/traces")
    return "/" + path.lstrip("/")


def read_file(raw: object) -> str:
    """The path of a file that exists."""
    path = read_text(os.fspath(raw) if isinstance(raw, os.PathLike) else raw)
    try:
        found = Path(path).is_file()
    except OSError:
        found = False
    if not found:
        raise InvalidValueError("not an existing file")
    return path


def read_link(raw: object) -> str:
    """A link template that contains ``{trace_id}``."""
    link = read_text(raw)
    if "{trace_id}" not in link:
        raise InvalidValueError("not a link template: it must contain {trace_id}")
    return link


def read_compression(raw: object) -> str:
    """``auto``, ``gzip`` or ``none``."""
    word = read_text(raw).lower()
    if word not in {"auto", "gzip", "none"}:
        raise InvalidValueError(f"not a compression: use auto, gzip or none{nearest(word, ('auto', 'gzip', 'none'))}")
    return word


def read_fanout(raw: object) -> str:
    """``otlp``, or ``none`` as good as unset."""
    word = read_text(raw).lower()
    if word not in {"otlp", "none"}:
        raise InvalidValueError(f"not a second destination: use otlp{nearest(word, ('otlp', 'none'))}")
    return word


def read_content_rule(raw: object) -> str:
    """``keep``, ``drop``, or ``truncate:N`` with a size in bytes of each text, which comes back as ``truncate: N``."""
    rule, colon, size = read_text(raw).lower().partition(":")
    if rule.strip() == "truncate" and colon:
        number = 0 if size.strip() == "0" else read_size(size)
        return f"truncate: {number}"
    if rule not in {"keep", "drop"} or colon:
        raise InvalidValueError(f"no rule for content: use keep, drop or truncate:1024{nearest(rule, ('keep', 'drop'))}")
    return rule


_RULE_TARGETS = ("user.id", "session.id", "trace.name", "tags", "release", "version", "environment")
_RULE_PREFIXES = ("metadata.", "observation.metadata.")


def read_rules(raw: object) -> dict[str, str]:
    """Attribute rules: a mapping, or ``attribute=target`` pairs separated by commas."""
    if isinstance(raw, Mapping):
        pairs = [(str(key), str(value)) for key, value in raw.items()]
    elif isinstance(raw, str):
        pairs = []
        for part in filter(None, (piece.strip() for piece in raw.split(","))):
            key, sign, target = part.partition("=")
            if not sign:
                message = "not a list of attribute=target pairs"
                raise InvalidValueError(message)
            pairs.append((key.strip(), target.strip()))
    else:
        message = "neither text nor a mapping"
        raise InvalidValueError(message)
    for key, target in pairs:
        known = target in _RULE_TARGETS or any(
            target.startswith(prefix) and len(target) > len(prefix) for prefix in _RULE_PREFIXES
        )
        if not key or not known:
            hint = nearest(target, (*_RULE_TARGETS, *_RULE_PREFIXES))
            message = (
                f"a rule with the unknown target {target[:60]!r}{hint}; targets are {', '.join(_RULE_TARGETS)}, metadata.<name>"
            )
            raise InvalidValueError(message)
    return dict(pairs)

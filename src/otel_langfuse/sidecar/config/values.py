"""The kinds of values that a configuration has: durations, sizes, addresses, secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema

from otel_langfuse.setting_values import InvalidValueError, read_base_url, read_size

__all__ = ["Address", "BaseUrl", "Content", "Duration", "Names", "Secret", "Size", "Target", "Url", "split_address"]

_DURATION_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUNCATE = re.compile(r"truncate:\s*(\d{1,12})")
_YEAR = 366 * 86_400.0


def _duration(raw: Any) -> Any:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError('is no duration; write it like "10s", "500ms" or "1m30s"')  # noqa: TRY004  # pydantic takes no other
    text = str(raw).strip()
    parts = _DURATION_PART.findall(text)
    if text in ("0", "0.0"):
        return 0.0
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError('is no duration; write it with its unit, like "10s", "500ms" or "1m30s"')
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _size(raw: Any) -> Any:
    try:
        return read_size(raw)
    except InvalidValueError as error:
        raise ValueError(f"is {error}") from None


def _address(raw: Any) -> Any:
    if not isinstance(raw, str):
        raise ValueError('is no address; write it like "127.0.0.1:4317"')  # noqa: TRY004  # likewise
    try:
        parts = urlsplit(f"//{raw.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or re.search(r"[/@?#\s\\]", raw.strip()):
        raise ValueError('is no address; write host and port, like "127.0.0.1:4317"; all interfaces are "0.0.0.0:4317"')
    return raw.strip()


def split_address(address: str) -> tuple[str, int]:
    """Host, in lower case and without brackets, and port of an address or of a URL that names both."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    return parts.hostname or "", parts.port or 0


def _target(raw: Any) -> Any:
    text = raw.strip() if isinstance(raw, str) else ""
    scheme, slashes, rest = text.rpartition("://")
    if slashes and scheme not in ("http", "https"):
        rest = ""
    if rest.rstrip("/").count("/"):
        raise ValueError("has a path, which gRPC has not; write host and port, or use otlp_http")
    try:
        host, port = split_address(rest.rstrip("/"))
    except ValueError:
        host, port = "", 0
    if not host or not port or re.search(r"[@?#\s\\]", rest):
        raise ValueError('is no gRPC endpoint; write host and port, like "tempo:4317"; http:// before it means without TLS')
    return text.rstrip("/")


def _names(raw: Any) -> Any:
    return [part.strip() for part in raw.split(",") if part.strip()] if isinstance(raw, str) and raw[:1] != "[" else raw


def _base_url(raw: Any) -> Any:
    try:
        value = read_base_url(raw)
    except InvalidValueError as error:
        raise ValueError(f"is {error}") from None
    return getattr(value, "value", value)


def _url(raw: Any) -> Any:
    text = raw.strip() if isinstance(raw, str) else ""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\"'<>\\]", text):
        raise ValueError('is no URL; write it with scheme and host, like "http://tempo:4318"')
    if "@" in parts.netloc:
        raise ValueError("holds a user name or password; write an Authorization line in headers")
    if parts.fragment:
        raise ValueError("has a fragment (#…); take it out")
    return text


def _content(raw: Any) -> Any:
    if isinstance(raw, dict) and set(raw) == {"truncate"}:
        raw = f"truncate: {raw['truncate']}"  # what YAML makes of it without quotes
    text = str(raw).strip()
    if text in ("keep", "drop") or _TRUNCATE.fullmatch(text):
        return text
    raise ValueError('is no content policy; write keep, drop, or "truncate: 256" (bytes that stay of each text)')


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    Field(ge=0, le=_YEAR),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$"}, {"const": 0}],
            "examples": ["10s", "1m30s"],
        }
    ),
]
"""Seconds, written as in Go; a year at most."""

Size = Annotated[
    int, BeforeValidator(_size), Field(ge=0), WithJsonSchema({"type": ["integer", "string"], "examples": ["64MiB", 1048576]})
]
"""Bytes, written as a number or with a unit in steps of 1024."""

Address = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string", "examples": ["127.0.0.1:4317"]})]
"""Host and port to listen on."""

BaseUrl = Annotated[
    str, BeforeValidator(_base_url), WithJsonSchema({"type": "string", "examples": ["https://cloud.langfuse.com"]})
]
"""The root of a Langfuse site, without a trailing slash."""

Url = Annotated[str, BeforeValidator(_url), WithJsonSchema({"type": "string", "examples": ["http://127.0.0.1:4318"]})]
"""An http or https URL."""

Target = Annotated[
    str,
    BeforeValidator(_target),
    WithJsonSchema({"type": "string", "examples": ["tempo:4317", "https://otlp.example.com:443"]}),
]
"""Host and port of a gRPC server; the scheme of a URL decides on TLS."""

Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_names),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
]
"""A list of words, or one text with commas between them."""

Content = Annotated[
    str, BeforeValidator(_content), WithJsonSchema({"type": "string", "examples": ["keep", "truncate: 256", "drop"]})
]
"""What becomes of message content: ``keep``, ``drop`` or ``truncate: N``."""

Secret = SecretStr
"""A text that never shows."""

"""Exporter ``debug``: a line in the log for each request. Names, ids, times and attribute keys; never a value."""

from __future__ import annotations

import itertools
import logging
from typing import Any, Literal

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.destinations.payloads import amount, parse, scopes_of
from otel_langfuse.sidecar.destinations.verdicts import Verdict
from otel_langfuse.sidecar.entry import Signal

__all__ = ["DebugSender"]

logger = logging.getLogger(__name__)

_MOST_ITEMS = 64
_MOST_KEYS = 64
_LONGEST = 100


class DebugSender:
    """A ``Sender`` that writes instead of sending.

    Args:
        name: The exporter's id, which starts each line.
        verbosity: ``basic``: signal, items, bytes. ``normal``: also names. ``detailed``: also ids, times and attribute keys.
    """

    def __init__(self, name: str, verbosity: Literal["basic", "normal", "detailed"] = "basic") -> None:
        self._name = name
        self._verbosity = verbosity

    def __repr__(self) -> str:
        return f"DebugSender({self._name})"

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        """Writes one line; see ``Sender``."""
        try:
            shown = "" if self._verbosity == "basic" else self._shown(signal, payload, items)
        except PayloadError as error:
            return Verdict("permanent", "unreadable", f"{self._name}: {error}.")
        logger.info("%s: %s, %s, %d bytes%s", self._name, signal, amount(signal, items), len(payload), shown)
        return Verdict("delivered")

    def close(self) -> None:
        """See ``Sender``; there is nothing to close."""

    def _shown(self, signal: Signal, payload: bytes, items: int) -> str:
        found = (item for _, group in scopes_of(signal, parse(signal, payload)) for item in group)
        show = self._detail if self._verbosity == "detailed" else _name
        lines = [show(item) for item in itertools.islice(found, _MOST_ITEMS)]
        more = f"; and {items - _MOST_ITEMS} more" if items > _MOST_ITEMS else ""
        return f": {'; '.join(lines)}{more}"

    def _detail(self, item: Any) -> str:
        keys = [_short(pair.key) for pair in itertools.islice(item.attributes, _MOST_KEYS)]
        if len(item.attributes) > _MOST_KEYS:
            keys.append(f"and {len(item.attributes) - _MOST_KEYS} more")
        ids = f"trace={item.trace_id.hex()} span={item.span_id.hex()}"
        if hasattr(item, "start_time_unix_nano"):
            parent = f" parent={item.parent_span_id.hex()}" if item.parent_span_id else ""
            ids += f"{parent} start={item.start_time_unix_nano} end={item.end_time_unix_nano}"
        else:
            ids += f" time={item.time_unix_nano or item.observed_time_unix_nano}"
        return f"{_name(item)} {ids} keys=[{', '.join(keys)}]"


def _name(item: Any) -> str:
    return _short(item.name if hasattr(item, "start_time_unix_nano") else item.event_name or "log record")


def _short(text: str) -> str:
    """A name on one line: line breaks in it would forge log lines."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"

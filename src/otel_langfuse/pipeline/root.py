"""What a trace shows as its input and output, and as its name, when the entry span has none of its own.

Input is the last user message of the generation that started first, output the answer of the one that ended last,
one message each, cut at 64 KiB. Embeddings and merged duplicates do not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from otel_langfuse.dialects.chat import as_chat
from otel_langfuse.dialects.reading import as_text, load
from otel_langfuse.model import Chat, Content, Facts, Message, Raw, SpanView

__all__ = ["Lifted", "entry_name"]

_HTTP = re.compile(r"^(GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS|HTTP)\b\s*", re.IGNORECASE)


class Lifted:
    """Candidates for one entry span's input and output."""

    __slots__ = ("_ended", "_started", "input", "output")

    def __init__(self) -> None:
        self._started: int | None = None
        self._ended: int | None = None
        self.input: Content | None = None
        self.output: Content | None = None

    def offer(self, view: SpanView, facts: Facts) -> None:
        """Considers a generation below the entry."""
        if facts.input is not None and (self._started is None or view.start_ns < self._started):
            chosen = _one(facts.input, "user")
            if chosen is not None:
                self._started, self.input = view.start_ns, chosen
        if facts.output is not None and (self._ended is None or view.end_ns >= self._ended):
            chosen = _one(facts.output, "assistant")
            if chosen is not None:
                self._ended, self.output = view.end_ns, chosen


def _one(content: Content, role: str) -> Content | None:
    """The one message to show, or the raw content when it is no chat."""
    if isinstance(content, Raw):
        body = load(content.text)
        listed = body.get("messages") if isinstance(body, dict) else None
        if listed == []:
            return None
        opened = as_chat(listed if isinstance(listed, list) else body, role)
        if opened is None:
            return content
        content = opened
    chosen = _choose(content.messages, role)
    if chosen is None:
        return None
    if chosen.kept is None:
        chosen.kept = ""  # its own row and the entry's show it
    return content if len(content.messages) == 1 else Chat((chosen,))


def _choose(messages: Sequence[Message], role: str) -> Message | None:
    if role == "assistant":
        return messages[0] if messages else None
    for message in reversed(messages):
        if message.role == "user":
            return message
    return messages[-1] if messages else None


def _without_method(name: str) -> str:
    """A span's name without an HTTP method before it."""
    method = _HTTP.match(name)
    return name if method is None else name[method.end() :]


_remembered = lru_cache(maxsize=1024)(_without_method)
_LONGEST = 256  # characters of a name that is remembered


def entry_name(view: SpanView) -> str:
    """A trace's name from its entry span: an HTTP request is named by its route, not by its method."""
    name = _remembered(view.name) if len(view.name) <= _LONGEST else _without_method(view.name)
    if name or not view.name:
        return name
    for key in ("http.route", "url.path", "http.target"):
        path = as_text(view.attributes.get(key))
        if path:
            return path.split("?")[0]
    return as_text(view.resource.get("service.name")) or "request"

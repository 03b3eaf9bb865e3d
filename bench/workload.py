"""What is traced: a request with one model call, in the current GenAI conventions.

A trace is a root span (6 attributes) and a chat span (22 attributes, 2 events, ``size`` bytes of messages). Part of the
attributes are given at the start and part are set before the end, as instrumentations do. What differs from call to call
in production differs here: texts, token counts, ids of responses and conversations. Texts compress like prose.
Only the OpenTelemetry API is used, so that every candidate sees the same spans.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from typing import Any

from opentelemetry.trace import SpanKind, Tracer, set_span_in_context

__all__ = [
    "SCOPE",
    "Messages",
    "Texts",
    "Unit",
    "Work",
    "pair",
    "timed_pair",
    "work_of",
]

SCOPE = "bench.app"
Messages = tuple[str, str]
Unit = Callable[[Messages], int]
"""Creates and ends the spans of one unit of work; returns how many."""

_ROOT = {
    "http.request.method": "POST",
    "http.route": "/api/chat",
    "url.path": "/api/chat",
    "url.scheme": "http",
    "server.address": "app.example",
    "user_agent.original": "bench/1.0",
}
_REQUEST: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4.1-mini",
    "gen_ai.request.temperature": 0.2,
    "gen_ai.request.top_p": 0.9,
    "gen_ai.request.max_tokens": 1024,
    "server.address": "api.openai.com",
    "server.port": 443,
}
_RESPONSE: dict[str, Any] = {
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "You answer in short sentences."}]),
    "gen_ai.response.model": "gpt-4.1-mini-2025-04-14",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.output.type": "text",
    "gen_ai.request.choice.count": 1,
    "gen_ai.request.seed": 7,
    "app.tenant": "tenant-3",
}


@dataclass(frozen=True)
class Work:
    """What a measured process does again and again.

    Attributes:
        unit: Creates and ends some spans.
        spans: About how many.
        close: Ends what is still open.
    """

    unit: Unit
    spans: int = 2
    close: Callable[[], None] = field(default=lambda: None)


class Texts:
    """Message texts of about ``size`` bytes together, a quarter of them in the answer: English prose.

    Args:
        size: Bytes of input and output messages, as JSON text.
    """

    def __init__(self, size: int) -> None:
        # The language reference that comes with Python: real prose, which compresses as prompts do.
        prose = re.sub(r"[^A-Za-z0-9 .,;:()'-]+", " ", " ".join(topics.values()))
        self._prose = re.sub(" +", " ", prose)
        self._asked, self._answered = max(size * 3 // 4 - 75, 8), max(size // 4 - 100, 8)
        self._choose = random.Random(20_240_501)
        self._n = 0

    def _text(self, length: int) -> str:
        at = self._choose.randrange(len(self._prose) - length)
        return self._prose[at : at + length]

    def next(self) -> Messages:
        """The messages of the next call."""
        self._n += 1
        asked, answered = f"{self._n:07d} {self._text(self._asked)}", f"{self._n:07d} {self._text(self._answered)}"
        return (
            f'[{{"role":"user","parts":[{{"type":"text","content":"{asked}"}}]}}]',
            f'[{{"role":"assistant","parts":[{{"type":"text","content":"{answered}"}}],"finish_reason":"stop"}}]',
        )


def _chat(tracer: Tracer, context: Any, messages: Messages) -> Any:
    """A chat span, started and filled, not ended."""
    span = tracer.start_span("chat gpt-4.1-mini", context, SpanKind.CLIENT, _REQUEST)
    span.add_event("gen_ai.first_token", {"index": 0})
    span.add_event("retry", {"attempt": 1})
    number = messages[0][51:58]
    span.set_attributes(_RESPONSE)
    span.set_attribute("gen_ai.usage.input_tokens", 800 + int(number) % 997)
    span.set_attribute("gen_ai.usage.output_tokens", 100 + int(number) % 89)
    span.set_attribute("gen_ai.usage.cache_read.input_tokens", 256 + int(number) % 7)
    span.set_attribute("gen_ai.conversation.id", "conversation-" + number)
    span.set_attribute("gen_ai.response.id", "chatcmpl-" + number)
    span.set_attribute("gen_ai.input.messages", messages[0])
    span.set_attribute("gen_ai.output.messages", messages[1])
    return span


def pair(tracer: Tracer) -> Unit:
    """One trace: root and chat span."""

    def unit(messages: Messages) -> int:
        root = tracer.start_span("POST /api/chat", None, SpanKind.SERVER, _ROOT)
        _chat(tracer, set_span_in_context(root), messages).end()
        root.end()
        return 2

    return unit


def timed_pair(tracer: Tracer, clock: Callable[[], int], ends: list[int], traces: list[int]) -> Unit:
    """As `pair`; appends how long each end and each trace took."""

    def unit(messages: Messages) -> int:
        begin = clock()
        root = tracer.start_span("POST /api/chat", None, SpanKind.SERVER, _ROOT)
        chat = _chat(tracer, set_span_in_context(root), messages)
        before = clock()
        chat.end()
        between = clock()
        root.end()
        after = clock()
        ends.append(between - before)
        ends.append(after - between)
        traces.append(after - begin)
        return 2

    return unit


def _plain_pair(tracer: Tracer) -> Unit:
    """One trace without any model call: a request and a query."""
    query = {"db.system.name": "sqlite", "db.query.text": "SELECT 1", "db.operation.name": "SELECT"}

    def unit(_: Messages) -> int:
        root = tracer.start_span("GET /api/items", None, SpanKind.SERVER, _ROOT)
        tracer.start_span("SELECT items", set_span_in_context(root), SpanKind.CLIENT, query).end()
        root.end()
        return 2

    return unit


def _revolving(tracer: Tracer, number: int) -> Work:
    """Traces of two spans with ``number`` of them open at any time."""

    def start() -> Any:
        return tracer.start_span("POST /api/chat", None, SpanKind.SERVER, _ROOT)

    roots = [start() for _ in range(number)]
    turn = 0

    def unit(messages: Messages) -> int:
        nonlocal turn
        at = turn % number
        turn += 1
        _chat(tracer, set_span_in_context(roots[at]), messages).end()
        roots[at].end()
        roots[at] = start()
        return 2

    def close() -> None:
        for root in roots:
            root.end()

    return Work(unit, close=close)


def _chats_flat(tracer: Tracer, spans: int) -> Unit:
    """One trace: a root and ``spans - 1`` chat spans below it, one after the other, a slice at a time."""
    root: Any = None
    left = 0

    def unit(messages: Messages) -> int:
        nonlocal root, left
        made = 0
        if root is None:
            root = tracer.start_span("POST /api/chat", None, SpanKind.SERVER, _ROOT)
            left = spans - 1
            made = 1
        context = set_span_in_context(root)
        step = min(left, 20)
        for _ in range(step):
            _chat(tracer, context, messages).end()
        left -= step
        if not left:
            root.end()
            root = None
        return made + step

    return unit


def _agents_nested(tracer: Tracer, depth: int) -> Unit:
    """One trace: ``depth`` spans, each below the one before: agents, and a chat span at the bottom."""
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "agent"}

    def unit(messages: Messages) -> int:
        context = None
        above = []
        for _ in range(depth - 1):
            span = tracer.start_span("invoke_agent agent", context, SpanKind.INTERNAL, agent)
            above.append(span)
            context = set_span_in_context(span)
        _chat(tracer, context, messages).end()
        for span in reversed(above):
            span.end()
        return depth

    return unit


def work_of(tracer: Tracer, shape: str = "pair", number: int = 1) -> Work:
    """What a task's shape and number ask for.

    Args:
        tracer: The application's.
        shape: ``pair``, ``plain`` (a trace without a model call), ``revolving``, ``flat`` or ``nested``.
        number: Of traces open at once, of spans in a trace, or of levels.
    """
    if shape == "revolving":
        return _revolving(tracer, number)
    if shape == "flat":
        return Work(_chats_flat(tracer, number), spans=20)
    if shape == "nested":
        return Work(_agents_nested(tracer, number), spans=number)
    return Work(_plain_pair(tracer) if shape == "plain" else pair(tracer))

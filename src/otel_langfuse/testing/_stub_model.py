"""What the stub model says: a pure function from a prompt to a turn, the same for both OpenAI APIs.

Rules:

- The last message is from the user and there are tools: it calls the first tool, once for each city that is named.
- The last message is a tool's result: it answers with the results.
- A JSON schema is given: the text is a JSON value that fits the schema.
- Anything else: one sentence that repeats the question.
- A token is a word. A message costs ``MESSAGE_TOKENS`` more, a reply ``REPLY_TOKENS``.
- ``TRIGGER_CACHED`` and ``TRIGGER_REASONING`` anywhere in the prompt add cached and reasoning tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CACHED_TOKENS",
    "CITIES",
    "MESSAGE_TOKENS",
    "REASONING_TOKENS",
    "REPLY_TOKENS",
    "Message",
    "Prompt",
    "Tool",
    "ToolCall",
    "Turn",
    "count_tokens",
    "fill_schema",
    "pieces",
    "take_turn",
]

Schema = Mapping[str, Any]

CACHED_TOKENS = 1024
REASONING_TOKENS = 64
MESSAGE_TOKENS = 4
REPLY_TOKENS = 3
CITIES = ("Amsterdam", "Berlin", "Lisbon", "London", "Madrid", "Oslo", "Paris", "Rome", "Tokyo", "Vienna")

_CITY_NAMES = frozenset({"city", "location", "place", "town", "destination"})
_QUESTION_NAMES = frozenset({"query", "question", "prompt", "input", "text"})
_FORMATS = {
    "date": "2025-08-07",
    "date-time": "2025-08-07T12:00:00Z",
    "email": "ada@example.com",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "0b7c1f0a-3c1e-4f53-9a43-6d1f1b6a7e11",
}
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the prompt, reduced to who said what."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    parameters: Schema


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function; the arguments are JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, reduced to what the model looks at."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    parallel: bool = True
    schema: Schema | None = None
    max_tokens: int | None = None

    @property
    def text(self) -> str:
        """All that was said, in one string: where triggers are looked for."""
        return "\n".join(message.text for message in self.messages)

    @property
    def question(self) -> str:
        """The last user message."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Turn:
    """The model's answer with its token counts; ``output_tokens`` includes ``reasoning_tokens``."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cut: bool = False


def count_tokens(text: str) -> int:
    """The number of words in ``text``: the stub's tokens."""
    return len(text.split())


def pieces(text: str) -> list[str]:
    """Cuts ``text`` into the pieces that a stream sends: a word with the space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def take_turn(prompt: Prompt) -> Turn:
    """Answers ``prompt``; equal prompts get equal answers."""
    calls = _tool_calls(prompt)
    text = "" if calls else _text(prompt)
    cut = prompt.max_tokens is not None and count_tokens(text) > prompt.max_tokens
    if cut:
        text = "".join(pieces(text)[: prompt.max_tokens])
    said = prompt.text
    cached = CACHED_TOKENS if "TRIGGER_CACHED" in said else 0
    reasoning = REASONING_TOKENS if "TRIGGER_REASONING" in said else 0
    spoken = count_tokens(text) + sum(MESSAGE_TOKENS + count_tokens(call.arguments) for call in calls)
    return Turn(
        text=text,
        tool_calls=calls,
        input_tokens=_input_tokens(prompt) + cached,
        cached_tokens=cached,
        output_tokens=spoken + reasoning,
        reasoning_tokens=reasoning,
        cut=cut,
    )


def _input_tokens(prompt: Prompt) -> int:
    messages = sum(MESSAGE_TOKENS + count_tokens(message.text) for message in prompt.messages)
    tools = sum(MESSAGE_TOKENS + count_tokens(json.dumps(tool.parameters)) for tool in prompt.tools)
    return REPLY_TOKENS + messages + tools


def _tool_calls(prompt: Prompt) -> tuple[ToolCall, ...]:
    if not prompt.tools or not prompt.messages or prompt.messages[-1].role == "tool":
        return ()
    tool = prompt.tools[0]
    named = [city for city in CITIES if city in prompt.question]
    named.sort(key=prompt.question.index)
    takes_city = not _CITY_NAMES.isdisjoint(tool.parameters.get("properties") or {})
    cities = named if takes_city and named else [CITIES[6]]
    if not prompt.parallel:
        cities = cities[:1]
    filled = (fill_schema(tool.parameters, question=prompt.question, city=city) for city in cities)
    return tuple(ToolCall(tool.name, json.dumps(arguments)) for arguments in filled)


def _text(prompt: Prompt) -> str:
    if prompt.schema is not None:
        city = next((city for city in CITIES if city in prompt.question), CITIES[6])
        return json.dumps(fill_schema(prompt.schema, question=prompt.question, city=city))
    results: list[str] = []
    for message in reversed(prompt.messages):
        if message.role != "tool":
            break
        results.insert(0, message.text)
    if results:
        return f"Here is what I found: {'; '.join(results)}"
    return f"This is the stub model's answer to: {prompt.question or 'nothing'}"


def fill_schema(schema: Schema, *, question: str = "", city: str = CITIES[6]) -> Any:
    """A value that fits a JSON schema, the same one each time.

    Knows types, ``enum``, ``const``, ``default``, ``anyOf``/``oneOf``/``allOf`` (the first one), ``$ref`` into
    ``$defs``, lower bounds of numbers, texts and arrays, and the common formats. Optional properties are filled too.
    """
    return _Filler(schema, question, city).fill(schema, "", 0)


class _Filler:
    """Walks one schema; keeps its root, which ``$ref`` points into."""

    def __init__(self, root: Schema, question: str, city: str) -> None:
        self._root = root
        self._question = question
        self._city = city

    def fill(self, schema: Schema, name: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            return None
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if schema.get("enum"):
            return schema["enum"][0]
        if "$ref" in schema:
            return self.fill(self._resolve(schema["$ref"]), name, depth + 1)
        for key in ("anyOf", "oneOf", "allOf"):
            if schema.get(key):
                return self.fill(schema[key][0], name, depth + 1)
        return self._fill_type(schema, name, depth)

    def _fill_type(self, schema: Schema, name: str, depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind == "object":
            properties = schema.get("properties") or {}
            return {key: self.fill(value, key, depth + 1) for key, value in properties.items()}
        if kind == "array":
            items = schema.get("items") or {}
            return [self.fill(items, name, depth + 1) for _ in range(schema.get("minItems", 1))]
        if kind == "string":
            return self._string(schema, name)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        return True if kind == "boolean" else None

    def _string(self, schema: Schema, name: str) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if name in _CITY_NAMES:
            return self._city
        text = self._question if name in _QUESTION_NAMES and self._question else f"example {name or 'text'}"
        text = text.ljust(schema.get("minLength", 0), ".")
        return text[: schema.get("maxLength")]

    def _resolve(self, pointer: str) -> Schema:
        target: Any = self._root
        for step in pointer.removeprefix("#").strip("/").split("/"):
            target = target.get(step, {}) if step else target
        return target if isinstance(target, Mapping) else {}


def _number(schema: Schema, *, whole: bool) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value = 3
    if low is not None and value <= low:
        value = low if "minimum" in schema else low + 1
    if high is not None and value >= high:
        value = high if "maximum" in schema else high - 1
    return int(value) if whole else float(value)

"""Model calls of LlamaIndex as OpenLLMetry records them: tasks, with LlamaIndex's own objects as input and output.

The conventions' attributes on such a span say it better, where they are; tool calls are in LlamaIndex's answer alone.
Values are looked at only on spans that have ``traceloop.entity.*``, of which nothing is recalled (`dialects.recall`).
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, raw_content
from otel_langfuse.dialects.reading import dump, load
from otel_langfuse.model import Chat, Content, Facts, Json, ObservationType, Value

__all__ = ["read_call"]


def read_call(attributes: Mapping[str, Value], facts: Facts, called: ObservationType) -> None:
    """Input and output of a model call, ``called`` what its operation says, that is called a task."""
    if "traceloop.entity.input" in attributes and _said(attributes.get("gen_ai.input.messages")):
        facts.input = None  # the conventions' reader says it
    made = attributes.get("traceloop.entity.output")
    opened = load(made) if isinstance(made, str) else None
    if called is ObservationType.EMBEDDING:
        vectors = _vectors(opened)
        if vectors:  # they are no text and would be most of the payload
            facts.output = raw_content(dump({"count": vectors}))
    elif made is not None and "gen_ai.output.messages" in attributes:
        if _said(attributes["gen_ai.output.messages"]):
            facts.output = None
        else:
            facts.output = _answer(opened) or facts.output
            facts.consumed.add("gen_ai.output.messages")


def _said(messages: Value) -> bool:
    """Whether messages of the conventions have anything in them."""
    return isinstance(as_content(messages), Chat)


def _vectors(answer: Json) -> int:
    """How many vectors an answer consists of."""
    first = answer[0] if isinstance(answer, list) and answer else None
    if isinstance(first, list) and isinstance(answer, list):
        return len(answer) if first and isinstance(first[0], (int, float)) else 0
    return 1 if isinstance(first, (int, float)) else 0


def _answer(response: Json) -> Content | None:
    """The message in LlamaIndex's ``ChatResponse``."""
    said = response.get("message") if isinstance(response, dict) else None
    if not isinstance(said, dict):
        return None
    blocks, more = said.get("blocks"), said.get("additional_kwargs")
    calls = more.get("tool_calls") if isinstance(more, dict) else None
    content: list[Json] = []
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("block_type") if isinstance(block, dict) else None
        if isinstance(block, dict) and not (kind == "tool_call" and calls):
            content.append({"type": kind, **{key: item for key, item in block.items() if key != "block_type"}})
    message: dict[str, Json] = {"role": said.get("role") or "assistant", "content": content or None}
    if calls:
        message["tool_calls"] = calls
    return as_content([message], "assistant")  # type: ignore[list-item]  # Json is a Value

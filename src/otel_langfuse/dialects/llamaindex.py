"""Model calls of LlamaIndex as OpenLLMetry records them: tasks, with LlamaIndex's own objects as input and output.

The conventions' attributes on such a span say it better, where they are; tool calls are in LlamaIndex's answer alone.
Values are looked at only on spans that have ``traceloop.entity.*``, of which nothing is recalled (`dialects.recall`).
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, raw_content
from otel_langfuse.dialects.reading import dump, load
from otel_langfuse.model import Chat, Content, Facts, Json, Value

__all__ = ["read_call"]


def read_call(attributes: Mapping[str, Value], facts: Facts) -> None:
    """Input and output of a model call that is called a task."""
    if "gen_ai.input.messages" in attributes:
        facts.input = None  # the conventions' reader says it
    made = attributes.get("traceloop.entity.output")
    opened = load(made) if isinstance(made, str) else None
    vectors = _vectors(opened)
    if vectors:  # they are no text and would be most of the payload
        facts.output = raw_content(dump({"count": vectors}))
    elif "gen_ai.output.messages" in attributes and made is not None:
        if isinstance(as_content(attributes["gen_ai.output.messages"], "assistant"), Chat):
            facts.output = None
        else:
            facts.output = _answer(opened) or facts.output
            facts.consumed.add("gen_ai.output.messages")


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
    texts = [block.get("text") for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    message: dict[str, Json] = {"role": said.get("role") or "assistant"}
    message["content"] = "".join(text for text in texts if isinstance(text, str)) or None
    if isinstance(more, dict) and more.get("tool_calls"):
        message["tool_calls"] = more["tool_calls"]
    return as_content([message], "assistant")  # type: ignore[list-item]  # Json is a Value

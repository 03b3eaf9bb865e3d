"""Genkit (scope ``genkit-tracer``): input and output as JSON, usage inside the output.

Source: genkit ``js/core/src/tracing``; Langfuse rules section 4, 8, 10.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools, raw_content
from otel_langfuse.dialects.parameters import request_parameters
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_text, json_object
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Facts, Json, ObservationType, SpanView, Usage, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "genkit"
HINTS = Hints(scopes=("genkit-tracer",), keys=("genkit:name",))

TABLE = Table(
    (
        Row("genkit:name", "name"),
        Row("genkit:sessionId", "session"),
        Row("genkit:metadata:flow:name", "workflow"),
        Row("genkit:metadata:*", "metadata"),
    )
)
_TYPES = {
    "model": ObservationType.GENERATION,
    "background-model": ObservationType.GENERATION,
    "embedder": ObservationType.EMBEDDING,
    "tool": ObservationType.TOOL,
    "tool.v2": ObservationType.TOOL,
    "retriever": ObservationType.RETRIEVER,
    "reranker": ObservationType.RETRIEVER,
    "evaluator": ObservationType.EVALUATOR,
    "flow": ObservationType.CHAIN,
    "prompt": ObservationType.CHAIN,
}


def read(view: SpanView) -> Facts | None:
    """The facts of a Genkit span."""
    attributes = view.attributes
    if view.scope_name != "genkit-tracer" and "genkit:name" not in attributes:
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(attributes, facts)
    subtype = attributes.get("genkit:metadata:subtype") or attributes.get("genkit:type")
    facts.type = _TYPES.get(str(subtype or ""))
    if facts.type is ObservationType.GENERATION:
        facts.request_model = facts.name
        _request(attributes, facts)
        _response(attributes, facts)
    facts.input = facts.input or raw_content(attributes.get("genkit:input"))
    facts.output = facts.output or raw_content(attributes.get("genkit:output"))
    facts.consumed |= {"genkit:input", "genkit:output"} & set(attributes)
    if attributes.get("genkit:state") == "error":
        facts.level = "ERROR"
    return facts


def _request(attributes: Mapping[str, Value], facts: Facts) -> None:
    body = json_object(attributes, "genkit:input", facts.consumed)
    if isinstance(body.get("messages"), list):
        facts.input = as_content([_message(item) for item in body["messages"]])  # type: ignore[union-attr]
    facts.tools = as_tools(body.get("tools"))  # type: ignore[arg-type]  # Json is a Value
    facts.parameters.update(request_parameters(body.get("config")) or {})


def _message(item: Json) -> Value:
    """Genkit calls a message's parts ``content``, and names tool parts its own way."""
    if not isinstance(item, dict) or not isinstance(item.get("content"), list):
        return item  # type: ignore[return-value]  # likewise
    return {"role": item.get("role"), "parts": [_part(part) for part in item["content"]]}  # type: ignore[union-attr, dict-item]


def _part(part: Json) -> Value:
    if isinstance(part, dict) and isinstance(part.get("toolRequest"), dict):
        call = part["toolRequest"]
        assert isinstance(call, dict)
        return {"type": "tool_call", "id": call.get("ref"), "name": call.get("name"), "arguments": call.get("input")}  # type: ignore[dict-item]
    if isinstance(part, dict) and isinstance(part.get("toolResponse"), dict):
        answer = part["toolResponse"]
        assert isinstance(answer, dict)
        return {"type": "tool_call_response", "id": answer.get("ref"), "response": answer.get("output")}  # type: ignore[dict-item]
    if isinstance(part, dict) and isinstance(part.get("media"), dict):
        media = part["media"]
        assert isinstance(media, dict)
        return {"type": "image_url", "image_url": {"url": media.get("url")}}  # type: ignore[dict-item]
    return part  # type: ignore[return-value]  # likewise


def _response(attributes: Mapping[str, Value], facts: Facts) -> None:
    body = json_object(attributes, "genkit:output", facts.consumed)
    made = body.get("message")
    if isinstance(made, dict):
        facts.output = as_content([_message(made)], "assistant")
    usage = body.get("usage")
    if isinstance(usage, dict):
        facts.usage = Usage(
            input=as_integer(usage.get("inputTokens")),  # type: ignore[arg-type]  # likewise
            output=as_integer(usage.get("outputTokens")),  # type: ignore[arg-type]
            cache_read=as_integer(usage.get("cachedContentTokens")),  # type: ignore[arg-type]
            reasoning=as_integer(usage.get("thoughtsTokens")),  # type: ignore[arg-type]
            total=as_integer(usage.get("totalTokens")),  # type: ignore[arg-type]
        )
    facts.response_id = as_text(body.get("id"))  # type: ignore[arg-type]

"""Vercel AI SDK up to 6 (scope ``ai``): ``ai.*``.

Source: ai ``packages/ai/src/telemetry``. The outer span (``ai.generateText``) repeats what the inner ones
(``….doGenerate``, ``….doStream``) did; only the inner one is a call of a model. Its successor writes the GenAI conventions.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools, raw_content
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_json, as_number, as_text, dump, load
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import (
    Chat,
    Content,
    Facts,
    Json,
    Message,
    ObservationType,
    PromptLink,
    Reasoning,
    SpanView,
    Text,
    ToolCall,
    Value,
)

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "vercel-ai-sdk"
HINTS = Hints(keys=("ai.operationId",))
_METADATA = "ai.telemetry.metadata."


def _tags(value: Value) -> tuple[str, ...] | None:
    listed = value if isinstance(value, list) else load(value) if isinstance(value, str) else None
    if isinstance(listed, list):
        return tuple(text for item in listed if (text := as_text(item))) or None  # type: ignore[arg-type]
    return (value,) if isinstance(value, str) and value else None


TABLE = Table(
    (
        Row("ai.operationId", "operation"),
        Row("ai.telemetry.functionId", "workflow"),
        Row("gen_ai.system", "provider"),
        Row("ai.model.provider", "provider"),
        Row("gen_ai.request.model", "request_model"),
        Row("ai.model.id", "request_model"),
        Row("ai.response.model", "response_model"),
        Row("ai.response.id", "response_id"),
        Row("gen_ai.response.model", "response_model"),
        Row("gen_ai.response.id", "response_id"),
        Row("ai.toolCall.args", "input", raw_content),
        Row("ai.toolCall.result", "output", raw_content),
        Row("ai.prompt.messages", "input", as_content),
        Row("ai.value", "input", raw_content),
        Row("ai.usage.inputTokens", "usage.input", as_integer),
        Row("ai.usage.promptTokens", "usage.input", as_integer),
        Row("ai.usage.tokens", "usage.input", as_integer),
        Row("gen_ai.usage.input_tokens", "usage.input", as_integer),
        Row("ai.usage.outputTokens", "usage.output", as_integer),
        Row("ai.usage.completionTokens", "usage.output", as_integer),
        Row("gen_ai.usage.output_tokens", "usage.output", as_integer),
        Row("ai.usage.totalTokens", "usage.total", as_integer),
        Row("ai.usage.inputTokenDetails.cacheReadTokens", "usage.cache_read", as_integer),
        Row("ai.usage.cachedInputTokens", "usage.cache_read", as_integer),
        Row("ai.usage.inputTokenDetails.cacheWriteTokens", "usage.cache_write", as_integer),
        Row("ai.usage.outputTokenDetails.reasoningTokens", "usage.reasoning", as_integer),
        Row("ai.usage.reasoningTokens", "usage.reasoning", as_integer),
        Row("ai.usage.inputTokenDetails.noCacheTokens", "-"),
        Row("ai.usage.outputTokenDetails.textTokens", "-"),
        Row(_METADATA + "userId", "user"),
        Row(_METADATA + "sessionId", "session"),
        Row(_METADATA + "tags", "tags", _tags),
        Row(_METADATA + "langfusePrompt", "-"),
        Row(_METADATA + "*", "trace_metadata"),
        Row("ai.settings.maxOutputTokens", "parameters.max_tokens", as_number),
        Row("ai.settings.maxTokens", "parameters.max_tokens", as_number),
        Row("ai.settings.topP", "parameters.top_p", as_number),
        Row("ai.settings.topK", "parameters.top_k", as_number),
        Row("ai.settings.stopSequences", "parameters.stop_sequences", as_json),
        Row("ai.settings.frequencyPenalty", "parameters.frequency_penalty", as_number),
        Row("ai.settings.presencePenalty", "parameters.presence_penalty", as_number),
        Row("ai.settings.temperature", "parameters.temperature", as_number),
        Row("ai.settings.seed", "parameters.seed", as_number),
        Row("gen_ai.request.*", "parameters", as_json),
    )
)
_INNER = {
    "doGenerate": ObservationType.GENERATION,
    "doStream": ObservationType.GENERATION,
    "doEmbed": ObservationType.EMBEDDING,
}


def read(view: SpanView) -> Facts | None:
    """The facts of a Vercel AI SDK span."""
    operation = view.attributes.get("ai.operationId")
    if not isinstance(operation, str):
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts, shape_of(view))
    facts.type = _type(operation)
    if facts.type is ObservationType.TOOL:
        facts.name = as_text(view.attributes.get("ai.toolCall.name"))
    _input(view.attributes, facts)
    facts.output = facts.output or _output(view.attributes, facts.consumed)
    if facts.type is ObservationType.CHAIN:
        # Sums over the inner calls, in every release of the SDK.
        facts.usage = None
    _provider_usage(view.attributes, facts)
    _first_token(view, facts)
    _prompt(view.attributes, facts)
    return facts


def _type(operation: str) -> ObservationType:
    inner = _INNER.get(operation.rsplit(".", 1)[-1])
    if inner is not None:
        return inner
    return ObservationType.TOOL if operation == "ai.toolCall" else ObservationType.CHAIN


def _input(attributes: Mapping[str, Value], facts: Facts) -> None:
    raw = attributes.get("ai.prompt")
    if raw is not None:
        facts.consumed.add("ai.prompt")
        facts.input = facts.input or _prompt_content(raw)
    values = attributes.get("ai.values")
    if isinstance(values, list):
        facts.consumed.add("ai.values")
        opened = [load(item) if isinstance(item, str) else None for item in values]
        facts.input = facts.input or raw_content(
            [given if found is None else found for given, found in zip(values, opened, strict=True)]  # type: ignore[misc]
        )
    tools = attributes.get("ai.prompt.tools")
    if tools is not None:
        facts.tools = as_tools(tools)
        facts.consumed.add("ai.prompt.tools")


def _prompt_content(raw: Value) -> Content | None:
    """The caller's prompt: ``{"prompt": …}``, ``{"system": …, "messages": […]}``."""
    given = load(raw) if isinstance(raw, str) else None
    if not isinstance(given, dict):
        return raw_content(raw)
    listed = given.get("messages", given.get("prompt"))
    messages: list[Value] = []
    if isinstance(given.get("system"), str):
        messages.append({"role": "system", "content": given["system"]})  # type: ignore[dict-item]  # Json is a Value
    if isinstance(listed, list):
        messages += listed  # type: ignore[arg-type]  # likewise
    elif isinstance(listed, str):
        messages.append({"role": "user", "content": listed})
    return as_content(messages) if messages else raw_content(raw)


def _output(attributes: Mapping[str, Value], consumed: set[str]) -> Content | None:
    parts: list[Reasoning | Text | ToolCall] = []
    for key, make in (("ai.response.reasoning", Reasoning), ("ai.response.text", Text), ("ai.response.object", Text)):
        for name in (key, key.replace("response", "result")):
            text = as_text(attributes.get(name))
            if text is not None:
                consumed.add(name)
                parts.append(make(text))
                break
    for name in ("ai.response.toolCalls", "ai.result.toolCalls"):
        raw = attributes.get(name)
        listed = load(raw) if isinstance(raw, str) else None
        if isinstance(listed, list):
            consumed.add(name)
            parts += [_call(item) for item in listed if isinstance(item, dict)]
    if parts:
        return Chat((Message("assistant", tuple(parts)),))
    return _embedding(attributes, consumed)


def _call(item: dict[str, Json]) -> ToolCall:
    arguments = item.get("input", item.get("args"))
    return ToolCall(as_text(item.get("toolCallId")), str(item.get("toolName") or ""), arguments)  # type: ignore[arg-type]


def _embedding(attributes: Mapping[str, Value], consumed: set[str]) -> Content | None:
    """How many vectors of what size; the vectors themselves would be most of the payload."""
    one, many = attributes.get("ai.embedding"), attributes.get("ai.embeddings")
    vectors = [one] if one is not None else many if isinstance(many, list) else []
    if not vectors:
        return None
    consumed |= {"ai.embedding", "ai.embeddings"} & set(attributes)
    first = load(vectors[0]) if isinstance(vectors[0], str) else vectors[0]
    return raw_content(dump({"count": len(vectors), "dimensions": len(first) if isinstance(first, list) else None}))


def _provider_usage(attributes: Mapping[str, Value], facts: Facts) -> None:
    """Cache writes stand only in the provider's own metadata."""
    raw = attributes.get("ai.response.providerMetadata")
    given = load(raw) if isinstance(raw, str) else None
    if not isinstance(given, dict) or facts.usage is None or facts.usage.cache_write is not None:
        return
    for provider in given.values():
        if isinstance(provider, dict):
            written = as_integer(provider.get("cacheCreationInputTokens"))  # type: ignore[arg-type]  # Json is a Value
            if written:
                from dataclasses import replace

                facts.usage = replace(facts.usage, cache_write=written)


def _first_token(view: SpanView, facts: Facts) -> None:
    for key in ("ai.response.msToFirstChunk", "ai.stream.msToFirstChunk"):
        milliseconds = as_number(view.attributes.get(key))
        if milliseconds is not None and milliseconds >= 0:
            facts.consumed.add(key)
            if facts.type is ObservationType.GENERATION:
                facts.first_token_ns = view.start_ns + int(milliseconds * 1e6)
            return


def _prompt(attributes: Mapping[str, Value], facts: Facts) -> None:
    raw = attributes.get(_METADATA + "langfusePrompt")
    given = load(raw) if isinstance(raw, str) else None
    if isinstance(given, dict) and given.get("name") and as_integer(given.get("version")) is not None:  # type: ignore[arg-type]
        facts.prompt = PromptLink(str(given["name"]), str(given["version"]))

"""Pydantic AI, instrumentation versions 1 to 6.

Source: pydantic-ai ``InstrumentationSettings``. Version 1 writes messages as ``events`` JSON or log records, later ones as
``gen_ai.input.messages``. Agent runs carry all messages and the final result; their aggregated usage says itself
that it is not to be added up, so it stays metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools, message, raw_content
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_text, as_total, load
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Chat, Facts, Json, Message, ObservationType, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "pydantic-ai"
HINTS = Hints(scopes=("pydantic-ai",), keys=("pydantic_ai.all_messages",))


TABLE = Table(
    (
        Row("gen_ai.usage.input_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.output_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.cache_read.input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_read_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.details.cache_read_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.details.cache_read_input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.details.cached_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.details.cached_content_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_creation.input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.cache_write_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.details.cache_write_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.details.cache_creation_input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.details.reasoning_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.usage.details.thoughts_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.usage.details.output_audio_tokens", "usage.audio_output", as_integer),
        Row("gen_ai.usage.details.input_audio_tokens", "usage.audio_input", as_integer),
        Row("operation.cost", "cost", as_total),
        Row("model_name", "request_model"),
        Row("agent_name", "metadata.agent_name"),
        Row("tool_arguments", "input", raw_content),
        Row("tool_response", "output", raw_content),
        Row("final_result", "output", raw_content),
        Row("logfire.json_schema", "-"),
        Row("logfire.msg", "-"),
        Row("logfire.msg_template", "-"),
        Row("logfire.span_type", "-"),
    )
)
_CHOICE = "gen_ai.choice"


def read(view: SpanView) -> Facts | None:
    """The facts of a Pydantic AI span."""
    if view.scope_name != "pydantic-ai" and "pydantic_ai.all_messages" not in view.attributes:
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts, shape_of(view))
    facts.type = _type(view)
    if facts.type in (ObservationType.AGENT, ObservationType.CHAIN):
        # The model of an agent run is its configuration; the calls below say which one answered.
        facts.request_model = None
    _tools(view.attributes, facts)
    _events(view.attributes, facts)
    _all_messages(view.attributes, facts)
    if facts.type is ObservationType.TOOL:
        facts.name = as_text(view.attributes.get("gen_ai.tool.name"))
    return facts


def _type(view: SpanView) -> ObservationType | None:
    """The conventions' operation says it where it is given; version 1 has only names."""
    if "gen_ai.operation.name" in view.attributes:
        return None
    if view.name == "agent run" or "final_result" in view.attributes or "all_messages_events" in view.attributes:
        return ObservationType.AGENT
    if "gen_ai.tool.name" in view.attributes:
        return ObservationType.TOOL
    return ObservationType.CHAIN if view.name.startswith("running ") else None


def _tools(attributes: Mapping[str, Value], facts: Facts) -> None:
    """Definitions come in the conventions' key too from version 3 on; the request's copy is not sent again."""
    raw = attributes.get("model_request_parameters")
    given = load(raw) if isinstance(raw, str) else None
    if not isinstance(given, dict):
        return
    facts.consumed.add("model_request_parameters")
    listed = [*_listed(given.get("function_tools")), *_listed(given.get("output_tools"))]
    if listed and "gen_ai.tool.definitions" not in attributes:
        facts.tools = as_tools([_definition(item) for item in listed])


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _definition(item: Json) -> Value:
    if not isinstance(item, dict):
        return item  # type: ignore[return-value]  # Json is a Value
    return {
        "name": item.get("name"),  # type: ignore[dict-item]  # likewise
        "description": item.get("description"),  # type: ignore[dict-item]
        "parameters": item.get("parameters_json_schema"),  # type: ignore[dict-item]
    }


def _events(attributes: Mapping[str, Value], facts: Facts) -> None:
    for key in ("events", "all_messages_events"):
        raw = attributes.get(key)
        listed = load(raw) if isinstance(raw, str) else raw
        if not isinstance(listed, list):
            continue
        facts.consumed.add(key)
        events = [item for item in listed if isinstance(item, dict)]
        given = [_event(item) for item in events if item.get("event.name") != _CHOICE]  # type: ignore[arg-type]
        made = [_event(item) for item in events if item.get("event.name") == _CHOICE]  # type: ignore[arg-type]
        facts.input = facts.input or (Chat(tuple(given)) if given else None)
        facts.output = facts.output or (Chat(tuple(made)) if made else None)


def _event(item: dict[str, Json]) -> Message:
    inner = item.get("message")
    merged = {**item, **inner} if isinstance(inner, dict) else dict(item)
    for key in ("message", "event.name", "gen_ai.message.index", "index", "gen_ai.system"):
        merged.pop(key, None)
    name = str(item.get("event.name") or "")
    return message(merged, name[7:-8] if name.endswith(".message") else "assistant")


def _all_messages(attributes: Mapping[str, Value], facts: Facts) -> None:
    """An agent's input is the conversation up to its answer; the answer stands in ``final_result``."""
    content = as_content(attributes.get("pydantic_ai.all_messages"))
    if content is None:
        return
    facts.consumed.add("pydantic_ai.all_messages")
    if isinstance(content, Chat) and len(content.messages) > 1 and content.messages[-1].role == "assistant":
        facts.output = facts.output or Chat(content.messages[-1:])
        content = Chat(content.messages[:-1])
    facts.input = facts.input or content

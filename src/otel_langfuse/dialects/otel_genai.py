"""OpenTelemetry GenAI semantic conventions, current: content in attributes, on the span or on a content record.

Source: opentelemetry semantic-conventions-genai, ``gen_ai.*`` (1.37 and newer). This is also the fallback: a GenAI
span of an unknown instrumentation that keeps to the conventions comes out sensibly.
"""

from __future__ import annotations

from collections.abc import Sequence

from otel_langfuse.dialects.chat import as_content, as_parts_text, as_tools, raw_content
from otel_langfuse.dialects.constants import Constant
from otel_langfuse.dialects.operations import OPERATIONS
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_json, as_seconds, as_text, dump, jsonable
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Facts, LogView, ObservationType, PromptLink, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "otel-genai"
DETAILS_EVENT = "gen_ai.client.inference.operation.details"


def _assistant(value: Value) -> object:
    return as_content(value, "assistant")


CONTENT = (
    Row("gen_ai.input.messages", "input", as_content),
    Row("gen_ai.output.messages", "output", _assistant),
    Row("gen_ai.system_instructions", "system", Constant(as_parts_text)),
    Row("gen_ai.tool.definitions", "tools", Constant(as_tools)),
    Row("gen_ai.tool.call.arguments", "input", raw_content),
    Row("gen_ai.tool.call.result", "output", raw_content),
    Row("gen_ai.retrieval.query.text", "input", raw_content),
    Row("gen_ai.retrieval.documents", "output", raw_content),
)

TABLE = Table(
    (
        Row("gen_ai.operation.name", "operation"),
        Row("gen_ai.provider.name", "provider"),
        Row("gen_ai.request.model", "request_model"),
        Row("gen_ai.response.model", "response_model"),
        Row("gen_ai.response.id", "response_id"),
        *CONTENT,
        Row("gen_ai.tool.name", "metadata.tool_name"),
        Row("gen_ai.conversation.id", "conversation"),
        Row("gen_ai.workflow.name", "workflow"),
        Row("gen_ai.usage.input_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.output_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.prompt_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.completion_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.total_tokens", "usage.total", as_integer),
        Row("gen_ai.usage.cache_read.input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_write.input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.cache_creation.input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.reasoning.output_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.usage.reasoning_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.usage.audio.input_tokens", "usage.audio_input", as_integer),
        Row("gen_ai.usage.audio.output_tokens", "usage.audio_output", as_integer),
        Row("gen_ai.response.time_to_first_chunk", "first_token_after", as_seconds),
        Row("gen_ai.client.operation.time_to_first_chunk", "first_token_after", as_seconds),
        Row("gen_ai.request.stream", "metadata.stream"),
        Row("gen_ai.request.*", "parameters", as_json),
    )
)
_RECORD_TABLE = Table(CONTENT)
_SURE_KEYS = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.input.messages",
)
_SCOPES = ("opentelemetry.instrumentation.genai.", "opentelemetry.util.genai")
_PROMPT = ("gen_ai.prompt.",)
HINTS = Hints(scopes=_SCOPES, keys=_SURE_KEYS, looks=("gen_ai.system", *_PROMPT))


def read(view: SpanView) -> Facts | None:
    """The facts of a span that carries current GenAI attributes."""
    attributes = view.attributes
    if not view.scope_name.startswith(_SCOPES) and not any(key in attributes for key in _SURE_KEYS):
        return None
    shape = shape_of(view)
    facts = Facts(dialect=NAME)
    _read_records(view.contents, facts, "hook")
    TABLE.apply(attributes, facts, shape)
    _read_records(view.contents, facts, "log")
    facts.type = _type(facts)
    if facts.type is ObservationType.TOOL:
        facts.name = facts.metadata.get("tool_name")
    if facts.provider is None:
        facts.provider = as_text(attributes.get("gen_ai.system"))
    if shape.has(_PROMPT):
        _prompt_template(view, facts)
        _prompt_variables(view, facts)
    return facts


def _read_records(contents: Sequence[LogView], facts: Facts, origin: str) -> None:
    """Fills in content from records of ``origin``; what is known already stays (precedence: hook, span, log)."""
    for record in contents:
        if record.origin == origin and record.event_name == DETAILS_EVENT:
            found = Facts()
            _RECORD_TABLE.apply(record.attributes, found)
            facts.input = facts.input or found.input
            facts.output = facts.output or found.output
            facts.system = facts.system or found.system
            facts.tools = facts.tools or found.tools


def _type(facts: Facts) -> ObservationType | None:
    known = OPERATIONS.get(facts.operation or "")
    if known is not None:
        return known
    if "tool_name" in facts.metadata and not facts.operation:
        return ObservationType.TOOL
    return ObservationType.GENERATION if facts.model and not facts.operation else None


def _prompt_template(view: SpanView, facts: Facts) -> None:
    """``gen_ai.prompt.name`` links a Langfuse prompt when a version goes with it."""
    name, version = view.attributes.get("gen_ai.prompt.name"), view.attributes.get("gen_ai.prompt.version")
    number = as_integer(version)
    if isinstance(name, str) and name and number is not None:
        facts.prompt = PromptLink(name, str(number))
        facts.consumed |= {"gen_ai.prompt.name", "gen_ai.prompt.version"}


def _prompt_variables(view: SpanView, facts: Facts) -> None:
    """Variables of a prompt template are the input of a span that has no other."""
    prefix = "gen_ai.prompt.variable."
    found = {key[len(prefix) :]: jsonable(value) for key, value in view.attributes.items() if key.startswith(prefix)}
    if found:
        facts.consumed |= {prefix + name for name in found}
        facts.input = facts.input or raw_content(dump(found))

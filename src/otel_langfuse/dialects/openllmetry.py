"""OpenLLMetry (Traceloop): its instrumentations, current and older, and its workflow, task, agent and tool spans.

Source: opentelemetry-semantic-conventions-ai and the instrumentations up to 0.62. Current releases write the GenAI
conventions' attributes; older ones
numbered ``gen_ai.prompt.N.*``, ``gen_ai.completion.N.*``, ``llm.request.functions.N.*``.
``traceloop.association.properties.*`` are set on every span below, also on spans that are not GenAI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from otel_langfuse.dialects.chat import as_content, as_tools, raw_content
from otel_langfuse.dialects.langchain import STEP_TAGS
from otel_langfuse.dialects.llamaindex import read_call
from otel_langfuse.dialects.operations import OPERATIONS
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_json, as_number, jsonable, load, unflatten
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Facts, Json, ObservationType, PromptLink, SpanView, Usage, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "openllmetry"
_ASSOCIATED = "traceloop.association.properties."

TABLE = Table(
    (
        Row("traceloop.span.kind", "metadata.traceloop.span.kind"),
        Row("traceloop.workflow.name", "workflow"),
        Row("tool.arguments", "input", raw_content),
        Row("traceloop.entity.input", "input", raw_content),
        Row("traceloop.entity.output", "output", raw_content),
        Row(_ASSOCIATED + "user_id", "user"),
        Row(_ASSOCIATED + "session_id", "session"),
        Row(_ASSOCIATED + "langfuse_user_id", "user"),
        Row(_ASSOCIATED + "langfuse_session_id", "session"),
        Row(_ASSOCIATED + "thread_id", "conversation"),
        Row(_ASSOCIATED + "ls_*", "metadata"),
        Row(_ASSOCIATED + "lc_*", "metadata"),
        Row(_ASSOCIATED + "langgraph_*", "metadata"),
        Row(_ASSOCIATED + "checkpoint_ns", "metadata.checkpoint_ns"),
        Row(_ASSOCIATED + "*", "trace_metadata"),
        Row("gen_ai.task.input", "input", raw_content),
        Row("gen_ai.task.output", "output", raw_content),
        Row("crewai.task.description", "input", raw_content),
        Row("crewai.crew.tasks", "input", raw_content),
        Row("crewai.crew.result", "output", raw_content),
        Row("gen_ai.user", "user"),
        Row("llm.user", "user"),
        Row("gen_ai.system", "provider"),
        Row("gen_ai.usage.prompt_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.input_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.completion_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.output_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.total_tokens", "usage.total", as_integer),
        Row("llm.usage.total_tokens", "usage.total", as_integer),
        Row("gen_ai.usage.cache_read.input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_read_input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_creation.input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.cache_creation_input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.usage.reasoning_tokens", "usage.reasoning", as_integer),
        Row("llm.usage.reasoning_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.is_streaming", "metadata.stream"),
        Row("llm.is_streaming", "metadata.stream"),
        Row("llm.frequency_penalty", "parameters.frequency_penalty", as_number),
        Row("llm.presence_penalty", "parameters.presence_penalty", as_number),
        Row("llm.top_k", "parameters.top_k", as_number),
        Row("llm.chat.stop_sequences", "parameters.stop", as_json),
    )
)
_KINDS = {
    "workflow": ObservationType.CHAIN,
    "task": ObservationType.CHAIN,
    "agent": ObservationType.AGENT,
    "tool": ObservationType.TOOL,
}
_REQUEST_TYPES = {
    "chat": ObservationType.GENERATION,
    "completion": ObservationType.GENERATION,
    "embedding": ObservationType.EMBEDDING,
    "rerank": ObservationType.RETRIEVER,
}
_OPERATIONS = {
    "execute_task": ObservationType.CHAIN,
    "llm_request": ObservationType.GENERATION,
    "vector_db_retrieve": ObservationType.RETRIEVER,
}
_SURE_KEYS = (
    "traceloop.span.kind",
    "llm.request.type",
    "llm.is_streaming",
    "gen_ai.is_streaming",
    "gen_ai.usage.reasoning_tokens",
    "llm.usage.total_tokens",
)
_BEDROCK = "opentelemetry.instrumentation.bedrock"
# Instrumentations whose spans need not have any key of Traceloop's own.
_SURE_SCOPES = (_BEDROCK, "opentelemetry.instrumentation.crewai")
_LABELS = ("traceloop.",)
_NUMBERED = ("gen_ai.prompt.", "gen_ai.completion.")
_CHUNK = "completion.chunk"
_POISON = "gen_ai.prompt.prompt_filter_results"  # Azure's content filter beside numbered messages
HINTS = Hints(
    scopes=_SURE_SCOPES,
    keys=(*_LABELS, *_NUMBERED, *_SURE_KEYS),
    looks=("traceloop.", "tool.name", "gen_ai.operation.name", "gen_ai.prompt.", "gen_ai.completion.", "llm.request."),
    hears=lambda name: name.endswith(_CHUNK),
)


def read(view: SpanView) -> Facts | None:
    """The facts of a Traceloop span, or only user, session and metadata of a span that Traceloop merely labelled."""
    attributes = view.attributes
    shape = shape_of(view)
    numbered = shape.has(_NUMBERED) and any(key.startswith(_NUMBERED) and key.count(".") > 2 for key in attributes)
    sure = numbered or view.scope_name.startswith(_SURE_SCOPES) or any(key in attributes for key in _SURE_KEYS)
    if not sure and not shape.has(_LABELS):
        return None
    facts = Facts(dialect=NAME, recognised=sure)
    TABLE.apply(attributes, facts, shape)
    if not sure:
        facts.input = facts.output = facts.usage = None
        return facts
    if numbered:
        _numbered(attributes, facts)
    _functions(attributes, facts)
    operation = str(attributes.get("gen_ai.operation.name") or "")
    called = OPERATIONS.get(operation)
    facts.type = _type(attributes, operation, called)
    if facts.type is None and called is not None and called.is_model_call and "traceloop.entity.name" in attributes:
        read_call(attributes, facts, called)
    if view.scope_name == _BEDROCK:
        facts.usage = _of_bedrock(facts.usage)
    facts.name = _name(attributes, facts.type)
    _first_token(view, facts)
    _prompt(attributes, facts)
    if view.scope_name == "opentelemetry.instrumentation.langchain":
        _run_tags(attributes, facts)
    return facts


def _type(attributes: Mapping[str, Value], operation: str, called: ObservationType | None) -> ObservationType | None:
    """What the span is; ``None`` where the conventions' reader says it, by ``called``, what the operation stands for."""
    kind = _KINDS.get(str(attributes.get("traceloop.span.kind") or ""))
    if kind is ObservationType.CHAIN:  # LlamaIndex calls everything a task
        if called is not None and called.is_model_call:
            return None
        return ObservationType.TOOL if "tool.arguments" in attributes else kind
    if kind is not None:
        return kind
    if operation in _OPERATIONS:
        return _OPERATIONS[operation]
    if operation in OPERATIONS:
        return None  # the conventions' reader says it
    return _REQUEST_TYPES.get(str(attributes.get("llm.request.type") or ""))


def _name(attributes: Mapping[str, Value], kind: ObservationType | None) -> str | None:
    """Tools and agents are named by their entity; the span adds a suffix (``get_weather.tool``)."""
    entity = attributes.get("traceloop.entity.name")
    if kind is ObservationType.TOOL and isinstance(named := attributes.get("tool.name"), str):
        return named
    return entity if isinstance(entity, str) and kind in (ObservationType.TOOL, ObservationType.AGENT) else None


def _of_bedrock(usage: Usage | None) -> Usage | None:
    """Bedrock counts input without cache, and the total that is beside it is only the sum of the two."""
    return None if usage is None else replace(usage, exclusive=True, total=None)


def _numbered(attributes: Mapping[str, Value], facts: Facts) -> None:
    consumed: set[str] = set()
    plain = {key: value for key, value in attributes.items() if key != _POISON}
    given = unflatten(plain, "gen_ai.prompt", consumed)
    made = unflatten(plain, "gen_ai.completion", consumed)
    if isinstance(given, list):
        facts.input = as_content([_opened(item) for item in given])
        facts.consumed |= {key for key in consumed if key.startswith(_NUMBERED[0])}
    if isinstance(made, list):
        facts.output = as_content([_opened(item) for item in made], "assistant")
        facts.consumed |= {key for key in consumed if key.startswith(_NUMBERED[1])}
    if _POISON in attributes:
        facts.metadata["prompt_filter_results"] = str(jsonable(attributes[_POISON]))
        facts.consumed.add(_POISON)


def _opened(item: Json) -> Value:
    """A numbered message as a dict with a role, its content parts opened where they are JSON text of a list."""
    if not isinstance(item, dict):
        return {"content": item if isinstance(item, str) else str(item), "role": ""}
    content = item.get("content")
    opened = load(content) if isinstance(content, str) and content[:2] == "[{" else None
    out: dict[str, Value] = {"role": "", **item}  # type: ignore[dict-item]  # Json is a subset of Value
    if isinstance(opened, list):
        out["content"] = opened  # type: ignore[assignment]  # likewise
    return out


def _functions(attributes: Mapping[str, Value], facts: Facts) -> None:
    if any(key.startswith("llm.request.functions.") for key in attributes):
        tools = unflatten(attributes, "llm.request.functions", facts.consumed)
        facts.tools = as_tools(tools if isinstance(tools, list) else None)  # type: ignore[arg-type]  # Json is a Value


def _first_token(view: SpanView, facts: Facts) -> None:
    """Streams record an event per chunk; the first one is the first token."""
    for event in view.events:
        if event.name.endswith(_CHUNK):
            facts.first_token_ns = event.time_ns
            return


def _prompt(attributes: Mapping[str, Value], facts: Facts) -> None:
    """A Traceloop prompt key is no Langfuse prompt, so it stays metadata, unless Langfuse is named as its registry."""
    key, version = attributes.get("traceloop.prompt.key"), attributes.get("traceloop.prompt.version")
    registry = attributes.get("traceloop.prompt.managed_by")
    number = as_integer(version)
    if registry == "langfuse" and isinstance(key, str) and number is not None:
        facts.prompt = PromptLink(key, str(number))


def _run_tags(attributes: Mapping[str, Value], facts: Facts) -> None:
    """A LangChain run's own tags stand in its input; the framework's step marks are left out."""
    raw = attributes.get("traceloop.entity.input")
    given = load(raw) if isinstance(raw, str) and '"tags"' in raw else None
    listed = given.get("tags") if isinstance(given, dict) else None
    if isinstance(listed, list):
        facts.tags = tuple(tag for tag in listed if isinstance(tag, str) and not tag.startswith(STEP_TAGS))

"""OpenLIT: the current conventions, with its own keys for cost, first token and tools.

Source: openlit SDK. It writes the client's defaults as if they had been requested; they are left out. On model calls
``gen_ai.tool.name`` lists the tools that were called, so it does not make the span a tool. Anthropic's and Bedrock's input
tokens come as they count them, without cache.
"""

from __future__ import annotations

from otel_langfuse.dialects.chat import raw_content
from otel_langfuse.dialects.operations import OPERATIONS
from otel_langfuse.dialects.reading import Row, Table, as_flag, as_integer, as_json, as_seconds, as_total
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Facts, Json, ObservationType, SpanView, Usage

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "openlit"
HINTS = Hints(scopes=("openlit",), keys=("telemetry.sdk.name",))


TABLE = Table(
    (
        Row("gen_ai.operation.name", "operation"),
        Row("gen_ai.usage.cost", "cost", as_total),
        Row("gen_ai.usage.reasoning_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.usage.reasoning.output_tokens", "usage.reasoning", as_integer),
        Row("gen_ai.usage.input_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.output_tokens", "usage.output", as_integer),
        Row("gen_ai.usage.cache_read.input_tokens", "usage.cache_read", as_integer),
        Row("gen_ai.usage.cache_creation.input_tokens", "usage.cache_write", as_integer),
        Row("gen_ai.request.user", "user"),
        Row("gen_ai.user.id", "user"),
        Row("gen_ai.request.stream", "metadata.stream"),
        Row("gen_ai.request.is_stream", "metadata.stream"),
        Row("gen_ai.request.*", "parameters", as_json),
        Row("gen_ai.workflow.input", "input", raw_content),
        Row("gen_ai.workflow.output", "output", raw_content),
    )
)
_DEFAULTS: dict[str, tuple[Json, ...]] = {
    "seed": (0, ""),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, 1),
    "max_tokens": (-1,),
    "stop_sequences": ([], "[]", ""),
}
_COUNTING_AS_ANTHROPIC = ("anthropic", "aws.bedrock")
_OPERATIONS = {
    "vectordb": ObservationType.RETRIEVER,
    "model_request": ObservationType.GENERATION,
    "image": ObservationType.GENERATION,
    "audio": ObservationType.GENERATION,
    "framework": ObservationType.CHAIN,
}


def read(view: SpanView) -> Facts | None:
    """The facts of an OpenLIT span."""
    if not view.scope_name.startswith("openlit") and view.attributes.get("telemetry.sdk.name") != "openlit":
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts, shape_of(view))
    facts.type = OPERATIONS.get(facts.operation or "") or _OPERATIONS.get(facts.operation or "") or _by_name(view)
    model = facts.parameters.pop("model", None)
    facts.request_model = model if isinstance(model, str) else _model_in_name(view, facts)
    # ``None`` keeps the conventions' reader from saying it again.
    facts.parameters = {key: None if item in _DEFAULTS.get(key, ()) else item for key, item in facts.parameters.items()}
    facts.parameters["user"] = None
    if view.attributes.get("gen_ai.provider.name", view.attributes.get("gen_ai.system")) in _COUNTING_AS_ANTHROPIC:
        facts.usage = _exclusive(facts.usage)
    if facts.type is ObservationType.TOOL:
        facts.input = raw_content(view.attributes.get("gen_ai.tool.input", view.attributes.get("gen_ai.tool.args")))
        facts.output = raw_content(view.attributes.get("gen_ai.tool.output"))
    elif facts.type is not None and facts.type.is_model_call:
        facts.consumed |= {"gen_ai.tool.name", "gen_ai.tool.call.id", "gen_ai.tool.args"} & set(view.attributes)
    if facts.cost is not None and not _trustworthy(facts.cost, facts.usage):
        facts.cost = None
    _first_token(view, facts)
    return facts


def _trustworthy(cost: dict[str, float], usage: Usage | None) -> bool:
    """OpenLIT's own price list knows no cached tokens, and says 0 for what it does not know."""
    return cost.get("total", 0) > 0 and (usage is None or not (usage.cache_read or usage.cache_write))


def _by_name(view: SpanView) -> ObservationType | None:
    """A failed call may carry nothing but its name (``chat claude-…``)."""
    return OPERATIONS.get(view.name.split(" ")[0]) or OPERATIONS.get(view.name.rsplit(".", 1)[-1])


def _model_in_name(view: SpanView, facts: Facts) -> str | None:
    words = view.name.split(" ")
    is_call = facts.type is not None and facts.type.is_model_call
    return (
        words[1]
        if is_call and len(words) == 2 and words[1] != "None" and not view.attributes.get("gen_ai.request.model")
        else None
    )


def _exclusive(usage: Usage | None) -> Usage | None:
    if usage is None:
        return None
    return Usage(usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning, exclusive=True)


def _first_token(view: SpanView, facts: Facts) -> None:
    """Without streaming the key holds the whole latency, which is no first token."""
    seconds = as_seconds(view.attributes.get("gen_ai.server.time_to_first_token"))
    if seconds is None:
        return
    facts.consumed.add("gen_ai.server.time_to_first_token")
    if as_flag(view.attributes.get("gen_ai.request.stream", view.attributes.get("gen_ai.request.is_stream"))):
        facts.first_token_ns = view.start_ns + int(seconds * 1e9)

"""LiteLLM, callbacks ``otel`` and ``langfuse_otel``.

Source: litellm ``integrations/opentelemetry.py``, ``langfuse/langfuse_otel.py``, ``arize``. Each call
has a second span, ``raw_gen_ai_request``, that repeats it as the provider's raw fields, partly as Python text: it is
noise. In ``langfuse_otel`` mode LiteLLM writes ``langfuse.observation.*`` itself, in shapes of its own, so this reader
comes before the one that takes such keys as given.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools
from otel_langfuse.dialects.parameters import request_parameters
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_number, as_text, dump, load, unflatten
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Chat, Content, Facts, Json, Message, ObservationType, SpanView, ToolCall, Usage, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "litellm"
HINTS = Hints(scopes=("litellm",))
_RAW = "raw_gen_ai_request"


def _assistant(value: Value) -> Content | None:
    return as_content(value, "assistant")


TABLE = Table(
    (
        Row("langfuse.observation.input", "input", as_content),
        Row("langfuse.observation.output", "output", _assistant),
        Row("llm.response.model", "response_model"),
        Row("llm.response.id", "response_id"),
        Row("gen_ai.request.model", "request_model"),
        Row("llm.model_name", "request_model"),
        Row("llm.response.cost", "-"),
        Row("metadata.usage_object", "-"),
        Row("llm.is_streaming", "metadata.stream"),
        Row("litellm.call_id", "metadata.litellm.call_id"),
    )
)
_REQUEST_TYPES = {
    "embedding": ObservationType.EMBEDDING,
    "aembedding": ObservationType.EMBEDDING,
    "rerank": ObservationType.RETRIEVER,
    "arerank": ObservationType.RETRIEVER,
}
_PARAMETERS = frozenset(
    "max_tokens max_completion_tokens max_output_tokens temperature top_p top_k seed n stop stop_sequences "
    "presence_penalty frequency_penalty reasoning_effort thinking tool_choice".split()
)
_SURE_KEYS = ("llm.request.type", "llm.model_name", "gen_ai.request.model", "litellm.call_id")
_COSTS = (
    ("gen_ai.cost.input_cost", "input"),
    ("gen_ai.cost.output_cost", "output"),
    ("gen_ai.cost.total_cost", "total"),
)


def read(view: SpanView) -> Facts | None:
    """The facts of a LiteLLM span."""
    if view.scope_name != "litellm":
        return None
    facts = Facts(dialect=NAME)
    attributes = view.attributes
    if view.name == _RAW or (any(key.startswith("llm.openai.") for key in attributes) and "llm.request.type" not in attributes):
        facts.noise = facts.donates = True
        _requested(attributes, facts)
        return facts
    if not any(key in attributes for key in _SURE_KEYS):
        return None
    TABLE.apply(attributes, facts)
    if "llm.request.type" in attributes:
        facts.type = _REQUEST_TYPES.get(str(attributes["llm.request.type"]), ObservationType.GENERATION)
    _tools(attributes, facts)
    _calls(attributes, facts)
    _usage(attributes, facts)
    _cost(attributes, facts)
    return facts


def _requested(attributes: Mapping[str, Value], facts: Facts) -> None:
    """Parameters of the request as it was sent (``llm.<provider>.<name>``), which the call's own span may lack."""
    found: dict[str, Value] = {}
    for key, value in attributes.items():
        if key.startswith("llm.") and key.count(".") == 2:
            name = key.rsplit(".", 1)[-1]
            if name in _PARAMETERS:
                found[name] = value
    facts.parameters = request_parameters(found) or {}


def _python(text: Value) -> Json:
    """A Python literal in text, as LiteLLM writes dictionaries; JSON is one too, mostly."""
    if not isinstance(text, str) or len(text) > 100_000:
        return None
    found = load(text)
    if found is None:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return found


def _tools(attributes: Mapping[str, Value], facts: Facts) -> None:
    for prefix in ("llm.request.functions", "llm.tools"):
        if facts.tools is None and any(key.startswith(prefix + ".") for key in attributes):
            found = unflatten(attributes, prefix, facts.consumed)
            facts.tools = as_tools(found if isinstance(found, list) else None)  # type: ignore[arg-type]  # Json is a Value
    raw = attributes.get("llm.invocation_parameters")
    body = load(raw) if isinstance(raw, str) else None
    if isinstance(body, dict):
        facts.consumed.add("llm.invocation_parameters")
        facts.parameters.update(request_parameters(body) or {})
        facts.tools = facts.tools or as_tools(body.get("tools"))  # type: ignore[arg-type]  # likewise


def _calls(attributes: Mapping[str, Value], facts: Facts) -> None:
    """In ``otel`` mode tool calls stand in numbered keys beside an output message without parts."""
    numbered = unflatten(attributes, "gen_ai.completion", facts.consumed)
    calls = []
    for item in numbered if isinstance(numbered, list) else ():
        call = item.get("function_call") if isinstance(item, dict) else None
        if isinstance(call, dict) and call.get("name"):
            calls.append(ToolCall(as_text(call.get("id")), str(call["name"]), call.get("arguments")))  # type: ignore[arg-type]
    if calls and facts.output is None:
        given = as_content(attributes.get("gen_ai.output.messages"), "assistant")
        said = given.messages[0].parts if isinstance(given, Chat) and given.messages else ()
        facts.output = Chat((Message("assistant", (*said, *(call for call in calls if call not in said))),))
        facts.consumed.add("gen_ai.output.messages")


def _usage(attributes: Mapping[str, Value], facts: Facts) -> None:
    """The provider's usage object says more than the flat counts; LiteLLM counts cache as part of the input."""
    given = _python(attributes.get("metadata.usage_object"))
    if not isinstance(given, dict):
        hidden = _python(attributes.get("metadata"))
        given = hidden.get("usage_object") if isinstance(hidden, dict) else None
        facts.metadata.update(_flat(hidden) if isinstance(hidden, dict) else {})
        facts.consumed.add("metadata")
    if not isinstance(given, dict):
        return

    def detail(side: str, key: str) -> int | None:
        inner = given.get(f"{side}_tokens_details")
        return as_integer(inner.get(key)) if isinstance(inner, dict) else None  # type: ignore[arg-type]  # Json is a Value

    def count(key: str) -> int | None:
        return as_integer(given.get(key))  # type: ignore[arg-type]  # likewise

    facts.usage = Usage(
        input=count("prompt_tokens"),
        output=count("completion_tokens"),
        cache_read=detail("prompt", "cached_tokens") or count("cache_read_input_tokens"),
        cache_write=count("cache_creation_input_tokens") or detail("prompt", "cache_creation_tokens"),
        reasoning=detail("completion", "reasoning_tokens"),
        audio_input=detail("prompt", "audio_tokens"),
        audio_output=detail("completion", "audio_tokens"),
        total=count("total_tokens"),
    )


def _flat(given: dict[str, Json]) -> dict[str, str]:
    """The proxy's metadata, without what is empty and without the usage that has its own place."""
    out = {}
    for key, item in given.items():
        if item not in (None, "", [], {}) and key != "usage_object":
            out[key] = item if isinstance(item, str) else dump(item)
    return out


def _cost(attributes: Mapping[str, Value], facts: Facts) -> None:
    found = {}
    for key, name in _COSTS:
        number = as_number(attributes.get(key))
        if number is not None:
            found[name] = number
            facts.consumed.add(key)
    total = as_number(attributes.get("llm.cost.total"))
    if total is not None:
        found.setdefault("total", total)
        facts.consumed.add("llm.cost.total")
    facts.cost = found or None

"""LangSmith's OpenTelemetry export (scope ``langsmith``).

Source: langsmith SDK ``_internal/otel``; ``langsmith.trace.session_id`` is the project, not a conversation, and
``langsmith.trace.name`` the run's own name, on each run. Inputs and outputs are a run's own JSON: of a model call the
request and the answer, in the client's shape or in LangChain's; of others whatever they take and give.
"""

from __future__ import annotations

from otel_langfuse.dialects.chat import as_answers, as_content, as_tools, raw_content
from otel_langfuse.dialects.langchain import STEP_TAGS, generations, plain, response_metadata
from otel_langfuse.dialects.parameters import request_parameters
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_json, as_number, as_text, dump, load
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.dialects.usage_objects import provider_usage
from otel_langfuse.model import Content, Facts, Json, ObservationType, SpanView, Usage, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "langsmith"
HINTS = Hints(scopes=("langsmith",), keys=("langsmith.span.kind",))
_METADATA = "langsmith.metadata."
# What frameworks say of each step; an application's own metadata are the trace's.
_OF_STEPS = ("LANGSMITH_", "LANGCHAIN_", "ls_", "lc_", "langgraph_", "checkpoint_", "_", "usage_metadata")
_OF_CALLS = frozenset(
    """
    frequency_penalty max_completion_tokens max_retries max_tokens model model_name n parallel_tool_calls presence_penalty
    reasoning_effort seed stop stream stream_options stream_usage temperature timeout tool_choice top_k top_p
    """.split()
)
_BOOKKEEPING = frozenset(("remaining_steps", "is_last_step"))  # of LangGraph's state


def _tags(value: Value) -> tuple[str, ...] | None:
    listed = [str(item) for item in value] if isinstance(value, list) else str(value or "").split(",")
    return tuple(tag for item in listed if (tag := item.strip()) and not tag.startswith(STEP_TAGS)) or None


def _usage(given: dict[str, Json]) -> Usage | None:
    """LangChain's ``UsageMetadata``: input includes what was cached, output what was reasoned."""

    def count(key: str, inner: str = "") -> int | None:
        found = given.get(key)
        return as_integer(found.get(inner) if isinstance(found, dict) else None if inner else found)  # type: ignore[arg-type]

    found = Usage(
        input=count("input_tokens"),
        output=count("output_tokens"),
        total=count("total_tokens"),
        cache_read=count("input_token_details", "cache_read"),
        cache_write=count("input_token_details", "cache_creation"),
        audio_input=count("input_token_details", "audio"),
        reasoning=count("output_token_details", "reasoning"),
        audio_output=count("output_token_details", "audio"),
    )
    return found if found.input is not None or found.output is not None or found.total is not None else None


def _cost(given: dict[str, Json]) -> dict[str, float] | None:
    """What LangSmith made of the counts, in US dollars."""
    found = {key: number for key in ("input", "output", "total") if (number := as_number(given.get(f"{key}_cost"))) is not None}  # type: ignore[arg-type]
    return found if "total" in found else None


TABLE = Table(
    (
        Row("langsmith.span.kind", "metadata.langsmith.span.kind"),
        Row("gen_ai.prompt", "input", raw_content),
        Row("gen_ai.completion", "output", raw_content),
        Row("langsmith.trace.name", "workflow"),
        Row("langsmith.span.tags", "tags", _tags),
        Row(_METADATA + "user_id", "user"),
        Row(_METADATA + "session_id", "session"),
        Row(_METADATA + "thread_id", "conversation"),
        Row(_METADATA + "ls_model_name", "request_model"),
        Row(_METADATA + "ls_provider", "provider"),
        Row(_METADATA + "ls_temperature", "parameters.temperature", as_number),
        Row(_METADATA + "ls_max_tokens", "parameters.max_tokens", as_integer),
        Row(_METADATA + "ls_stop", "parameters.stop", as_json),
        Row(_METADATA + "*", "trace_metadata"),
        Row("ls_model_name", "request_model"),
    )
)
_TYPES = {
    "llm": ObservationType.GENERATION,
    "chain": ObservationType.CHAIN,
    "prompt": ObservationType.CHAIN,
    "parser": ObservationType.CHAIN,
    "tool": ObservationType.TOOL,
    "retriever": ObservationType.RETRIEVER,
    "embedding": ObservationType.EMBEDDING,
}


def read(view: SpanView) -> Facts | None:
    """The facts of a LangSmith span."""
    attributes = view.attributes
    kind = attributes.get("langsmith.span.kind")
    if view.scope_name != "langsmith" and kind is None:
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(attributes, facts)
    facts.type = _TYPES.get(str(kind or "").lower())
    if view.parent_id:
        facts.workflow = None  # the name of this run, not of all
    if "langsmith.span.tags" in attributes:
        facts.consumed.add("langsmith.span.tags")
    is_call = facts.type is ObservationType.GENERATION
    asked, answered = (_opened(attributes.get(key)) for key in ("gen_ai.prompt", "gen_ai.completion"))
    counted = _opened(attributes.get(_METADATA + "usage_metadata"))
    if counted is not None and facts.type is not None and facts.type.is_model_call:
        facts.usage, facts.cost = _usage(counted), _cost(counted)
    if asked is not None:
        facts.input = _request(asked, facts) if is_call else _state(asked)
    if answered is not None:
        facts.output = _response(answered, facts) if is_call else _state(answered)
    for key in list(facts.trace_metadata):
        if key.startswith(_OF_STEPS) or (is_call and key in _OF_CALLS):
            said = facts.trace_metadata.pop(key)
            if key != "usage_metadata" or facts.usage is None:
                facts.metadata[key] = said
    return facts


def _opened(value: Value) -> dict[str, Json] | None:
    given = load(value) if isinstance(value, str) else None
    return given if isinstance(given, dict) else None


def _request(body: dict[str, Json], facts: Facts) -> Content | None:
    """A model call's messages; its parameters and tools where the body is the client's."""
    facts.request_model = facts.request_model or as_text(body.get("model"))  # type: ignore[arg-type]  # Json is a Value
    facts.parameters = {**(request_parameters(body) or {}), **facts.parameters}
    facts.parameters.pop("prompts", None)
    facts.tools = as_tools(body.get("tools"))  # type: ignore[arg-type]  # likewise
    if isinstance(body.get("instructions"), str):
        facts.system = as_content([{"role": "system", "content": body["instructions"]}])  # type: ignore[dict-item]  # likewise
    given = body.get("messages", body.get("input"))
    if given is None and isinstance(prompts := body.get("prompts"), list) and len(prompts) == 1:
        given = prompts[0]
    if isinstance(given, str):
        return as_content([{"role": "user", "content": given}])
    return as_content(plain(given) if given else dump(body))  # type: ignore[arg-type]  # likewise


def _response(body: dict[str, Json], facts: Facts) -> Content | None:
    """A model call's answer, and what stands beside it."""
    about = response_metadata(body) or body
    facts.response_id = as_text(about.get("id"))  # type: ignore[arg-type]  # Json is a Value
    facts.response_model = as_text(about.get("model_name")) or as_text(about.get("model"))  # type: ignore[arg-type]  # likewise
    facts.usage = facts.usage or provider_usage(body.get("usage"))
    if "generations" in body:
        return as_content(generations(body), "assistant")  # type: ignore[arg-type]  # likewise
    choices, output = body.get("choices"), body.get("output")
    if isinstance(choices, list):
        return as_answers(choices) or raw_content(dump(body))
    if body.get("object") == "response" and isinstance(output, list):
        items = [item for item in output if isinstance(item, dict)]
        for item in items:
            item.pop("status", None)  # says of each part that it is there
        return as_content(items, "assistant") or raw_content(dump(body))  # type: ignore[arg-type]  # likewise
    return _state(body)


def _state(body: dict[str, Json]) -> Content | None:
    """What a step takes or gives: messages as such if they are all of it, else its JSON with plain messages in it."""
    if "role" in body and "content" in body:
        return as_content(body)  # type: ignore[arg-type]  # Json is a Value
    shown = {key: plain(item) for key, item in body.items() if key not in _BOOKKEEPING}
    if len(shown) == 1 and (key := next(iter(shown))) in ("messages", "input", "output"):
        return as_content(shown[key])  # type: ignore[arg-type]  # Json is a Value
    return raw_content(dump(shown)) if shown else None

"""Logfire's own instrumentation of LLM clients (``logfire.openai``, ``logfire.anthropic``).

Source: logfire ``_internal/integrations/llm_providers``. Version 1 puts request and response bodies into ``request_data``
and ``response_data``; later ones add the conventions' messages. A stream makes two spans: the request, without an answer,
and, detached and without duration, ``streaming response from …`` with everything. The second is the call; the first is
shown as a plain span, so that Langfuse neither counts nor invents tokens for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_content, as_tools
from otel_langfuse.dialects.parameters import request_parameters
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_seconds, as_total, json_object, load
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.dialects.usage_objects import provider_usage
from otel_langfuse.model import Facts, Json, ObservationType, SpanView, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "logfire"
HINTS = Hints(scopes=("logfire",))
_NANOSECONDS = 1_000_000_000


def _tags(value: Value) -> tuple[str, ...] | None:
    # LLM marks every call; it is the library's tag, not the application's.
    return tuple(str(item) for item in value if item != "LLM") or None if isinstance(value, list) else None


TABLE = Table(
    (
        Row("gen_ai.request.model", "request_model"),
        Row("gen_ai.response.model", "response_model"),
        Row("gen_ai.response.id", "response_id"),
        Row("operation.cost", "cost", as_total),
        Row("logfire.tags", "tags", _tags),
        Row("logfire.json_schema", "-"),
        Row("logfire.msg_template", "-"),
        Row("logfire.span_type", "-"),
        Row("logfire.tags", "-"),
    )
)
_ERROR_LEVEL = 17
_WARNING_LEVEL = 13


def read(view: SpanView) -> Facts | None:
    """The facts of a Logfire span about a model call; Logfire's other spans are not GenAI."""
    attributes = view.attributes
    if not view.scope_name.startswith("logfire"):
        return None
    if "request_data" not in attributes and "gen_ai.request.model" not in attributes:
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(attributes, facts)
    request, response = (
        json_object(attributes, "request_data", facts.consumed),
        json_object(attributes, "response_data", facts.consumed),
    )
    _request(request, attributes, facts)
    _response(response, facts)
    _usage(attributes, response, facts)
    _level(attributes, facts)
    _stream(view, facts)
    return facts


def _request(body: dict[str, Json], attributes: Mapping[str, Value], facts: Facts) -> None:
    facts.parameters.update(request_parameters(body) or {})
    given = body.get("messages", body.get("input", body.get("prompt")))
    if given is not None and "gen_ai.input.messages" not in attributes:
        facts.input = as_content(given)  # type: ignore[arg-type]  # Json is a Value
        system = body.get("system", body.get("instructions"))
        if isinstance(system, str) and system:
            facts.system = as_content([{"role": "system", "content": system}])
    if body.get("tools") and "gen_ai.tool.definitions" not in attributes:
        facts.tools = as_tools(body["tools"])  # type: ignore[arg-type]  # likewise
    model = body.get("model")
    facts.request_model = facts.request_model or (model if isinstance(model, str) else None)


def _response(body: dict[str, Json], facts: Facts) -> None:
    made = body.get("message")
    if isinstance(made, dict):
        facts.output = as_content([{"role": "assistant", **made}], "assistant")  # type: ignore[dict-item]  # Json is a Value
    elif isinstance(body.get("combined_chunk_content"), str) and body["combined_chunk_content"]:
        facts.output = as_content([{"role": "assistant", "content": str(body["combined_chunk_content"])}])
    elif isinstance(body.get("text"), str):
        facts.output = as_content([{"role": "assistant", "content": str(body["text"])}])


def _usage(attributes: Mapping[str, Value], response: dict[str, Json], facts: Facts) -> None:
    """The provider's own usage object says more than the two sums."""
    raw = attributes.get("gen_ai.usage.raw")
    given = load(raw) if isinstance(raw, str) else response.get("usage")
    if isinstance(given, dict):
        facts.consumed.add("gen_ai.usage.raw")
        facts.usage = provider_usage(given)


def _level(attributes: Mapping[str, Value], facts: Facts) -> None:
    number = as_integer(attributes.get("logfire.level_num"))
    if number is not None and number >= _WARNING_LEVEL:
        facts.level = "ERROR" if number >= _ERROR_LEVEL else "WARNING"
        facts.consumed.add("logfire.level_num")


def _stream(view: SpanView, facts: Facts) -> None:
    """Tells the request span of a stream from its response span, and gives the latter its duration."""
    attributes = view.attributes
    if view.name.startswith("streaming response"):
        seconds = as_seconds(attributes.get("duration"))
        if seconds is not None and view.end_ns <= view.start_ns:
            facts.started_ns = view.end_ns - int(seconds * _NANOSECONDS)
            facts.consumed.add("duration")
        facts.type = ObservationType.GENERATION
        return
    failed = view.status_code == 2 or any(event.name == "exception" for event in view.events)
    answered = facts.usage is not None or facts.response_id is not None or "gen_ai.output.messages" in attributes
    if not failed and not answered and facts.output is None and "gen_ai.usage.input_tokens" not in attributes:
        facts.type = ObservationType.SPAN

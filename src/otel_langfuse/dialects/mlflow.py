"""MLflow tracing: attributes are JSON, even the names (``"LLM"`` in quotes).

Source: mlflow ``tracing/constant.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from otel_langfuse.dialects.chat import as_answers, as_content, as_tools, raw_content
from otel_langfuse.dialects.parameters import request_parameters
from otel_langfuse.dialects.reading import Row, Table, as_integer, as_number, as_text, load
from otel_langfuse.dialects.shapes import Hints
from otel_langfuse.model import Facts, ObservationType, SpanView, Usage, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "mlflow"
HINTS = Hints(scopes=("mlflow",), keys=("mlflow.spanType",))


def _unquoted(value: Value) -> str | None:
    found = load(value) if isinstance(value, str) else None
    return found if isinstance(found, str) and found else as_text(value)


TABLE = Table(
    (
        Row("mlflow.spanType", "operation", _unquoted),
        Row("mlflow.llm.provider", "provider", _unquoted),
        Row("mlflow.llm.model", "request_model", _unquoted),
        Row("mlflow.trace.session", "session", _unquoted),
        Row("mlflow.trace.user", "user", _unquoted),
        Row("mlflow.spanFunctionName", "metadata.function", _unquoted),
        Row("mlflow.traceRequestId", "metadata.mlflow.trace_id", _unquoted),
    )
)
_TYPES = {
    "LLM": ObservationType.GENERATION,
    "CHAT_MODEL": ObservationType.GENERATION,
    "EMBEDDING": ObservationType.EMBEDDING,
    "AGENT": ObservationType.AGENT,
    "TOOL": ObservationType.TOOL,
    "CHAIN": ObservationType.CHAIN,
    "WORKFLOW": ObservationType.CHAIN,
    "PARSER": ObservationType.CHAIN,
    "RETRIEVER": ObservationType.RETRIEVER,
    "RERANKER": ObservationType.RETRIEVER,
    "GUARDRAIL": ObservationType.GUARDRAIL,
    "EVALUATOR": ObservationType.EVALUATOR,
}


def read(view: SpanView) -> Facts | None:
    """The facts of an MLflow span."""
    attributes = view.attributes
    if "mlflow.spanType" not in attributes and not view.scope_name.startswith("mlflow"):
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(attributes, facts)
    facts.type = _TYPES.get((facts.operation or "").upper())
    facts.operation = None
    _content(attributes, facts)
    _usage(attributes, facts)
    return facts


def _content(attributes: Mapping[str, Value], facts: Facts) -> None:
    given, made = attributes.get("mlflow.spanInputs"), attributes.get("mlflow.spanOutputs")
    facts.consumed |= {"mlflow.spanInputs", "mlflow.spanOutputs"} & set(attributes)
    body = load(given) if isinstance(given, str) else None
    answer = load(made) if isinstance(made, str) else None
    if facts.type is ObservationType.GENERATION and isinstance(body, dict):
        facts.parameters.update(request_parameters(body) or {})
        facts.request_model = facts.request_model or as_text(body.get("model"))  # type: ignore[arg-type]  # Json is a Value
        facts.tools = as_tools(body.get("tools"))  # type: ignore[arg-type]  # likewise
        messages = body.get("messages")
        facts.input = as_content(messages) if isinstance(messages, list) else None  # type: ignore[arg-type]  # likewise
    if facts.type is ObservationType.GENERATION and isinstance(answer, dict):
        facts.response_id = as_text(answer.get("id"))  # type: ignore[arg-type]  # likewise
        facts.response_model = as_text(answer.get("model"))  # type: ignore[arg-type]  # likewise
        facts.output = as_answers(answer.get("choices"))
    facts.input = facts.input or raw_content(given)
    facts.output = facts.output or raw_content(made)


def _usage(attributes: Mapping[str, Value], facts: Facts) -> None:
    raw = attributes.get("mlflow.chat.tokenUsage")
    given = load(raw) if isinstance(raw, str) else None
    if isinstance(given, dict):
        facts.consumed.add("mlflow.chat.tokenUsage")
        facts.usage = Usage(
            input=as_integer(given.get("input_tokens")),  # type: ignore[arg-type]  # likewise
            output=as_integer(given.get("output_tokens")),  # type: ignore[arg-type]
            cache_read=as_integer(given.get("cache_read_input_tokens")),  # type: ignore[arg-type]
            cache_write=as_integer(given.get("cache_creation_input_tokens")),  # type: ignore[arg-type]
            total=as_integer(given.get("total_tokens")),  # type: ignore[arg-type]
        )
    raw = attributes.get("mlflow.llm.cost")
    cost = load(raw) if isinstance(raw, str) else None
    if isinstance(cost, dict):
        facts.consumed.add("mlflow.llm.cost")
        names = {"input_cost": "input", "output_cost": "output", "total_cost": "total"}
        found = {names[key]: n for key, item in cost.items() if key in names and (n := as_number(item)) is not None}  # type: ignore[arg-type]
        facts.cost = {**found, "total": found.get("total", sum(found.values()))} if found else None

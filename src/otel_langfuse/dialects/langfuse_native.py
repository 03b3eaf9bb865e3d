"""Langfuse's own attributes, of the Langfuse SDKs and of anybody who sets ``langfuse.*`` by hand.

Source: Langfuse server 4.16, `attributes.ts` and the processors that read it. Explicit keys win over every other
reader and are kept as given, except: parent and context are placed as for any span, a missing usage total is added,
an exact OpenAI usage shape is normalised, non-finite parameters go.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from otel_langfuse.dialects.chat import as_content, as_tools, raw_content
from otel_langfuse.dialects.reading import Row, Table, as_flag, as_integer, as_number, as_text, dump, finite, load
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Facts, Json, ObservationType, PromptLink, Raw, SpanView, Usage, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "langfuse"
HINTS = Hints(scopes=("langfuse-sdk",), keys=("langfuse.",), but=frozenset(("langfuse.trace.url",)))
_OBSERVATION = "langfuse.observation."
_KEPT = ("langfuse.observation.", "langfuse.trace.", "langfuse.experiment.")


def _type(value: Value) -> ObservationType | None:
    return ObservationType(value) if isinstance(value, str) and value in set(ObservationType) else None


def _parameters(value: Value) -> dict[str, object] | None:
    given = load(value) if isinstance(value, str) else value
    if not isinstance(given, dict):
        return None
    return {key: item for key, item in given.items() if finite(item) is not None}  # type: ignore[arg-type]  # JSON text


def _cost(value: Value) -> dict[str, float] | None:
    given = load(value) if isinstance(value, str) else None
    if not isinstance(given, dict):
        return None
    found = {key: number for key, item in given.items() if (number := as_number(item)) is not None}  # type: ignore[arg-type]
    if found and "total" not in found:
        found["total"] = sum(found.values())
    return found or None


def _usage(value: Value) -> Usage | None:
    given = load(value) if isinstance(value, str) else None
    if not isinstance(given, dict):
        return None
    for names in _OPENAI_SHAPES:
        if names <= set(given) <= names | _OPENAI_DETAILS:
            return _openai_usage(given)  # type: ignore[arg-type]  # JSON object
    buckets = {key: count for key, item in given.items() if (count := as_integer(item)) is not None}  # type: ignore[arg-type]
    return Usage(buckets=buckets) if buckets else None


_OPENAI_SHAPES = (
    frozenset(("prompt_tokens", "completion_tokens", "total_tokens")),
    frozenset(("input_tokens", "output_tokens", "total_tokens")),
)
_OPENAI_DETAILS = frozenset(
    ("prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details")
)


def _openai_usage(given: Mapping[str, Value]) -> Usage:
    """Buckets from OpenAI's own usage object, details subtracted and prefixed as the server does (T:UsageDetails)."""
    buckets: dict[str, int] = {}
    for side, prefix in (("input", "prompt"), ("output", "completion")):
        whole = as_integer(given.get(f"{prefix}_tokens", given.get(f"{side}_tokens"))) or 0
        details = given.get(f"{prefix}_tokens_details") or given.get(f"{side}_tokens_details")
        for key, item in details.items() if isinstance(details, dict) else ():
            count = as_integer(item)
            if count:
                buckets[f"{side}_{key}"] = count
                whole -= count
        buckets[side] = max(whole, 0)
    return Usage(buckets=buckets)


def _moment(value: Value) -> int | None:
    """Nanoseconds of an ISO time, also JSON-quoted; an integer counts milliseconds (rules section 12)."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    if isinstance(value, int):
        return value * 1_000_000
    text = value.strip().strip('"')
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def _tags(value: Value) -> tuple[str, ...] | None:
    """Tags as the server reads them (P:extractTags): a list, JSON text of one, or text split at commas."""
    if isinstance(value, str):
        listed = load(value) if value[:1] == "[" else [part.strip() for part in value.split(",")]
        value = listed if isinstance(listed, list) else [value]  # type: ignore[assignment]  # JSON list
    if not isinstance(value, list):
        return None
    return tuple(dict.fromkeys(text for item in value if (text := as_text(item)))) or None


TABLE = Table(
    (
        Row("langfuse.observation.type", "type", _type),
        Row("langfuse.observation.input", "input", raw_content),
        Row("langfuse.observation.output", "output", raw_content),
        Row("langfuse.observation.model.name", "response_model"),
        Row("langfuse.observation.model.parameters", "parameters", _parameters),
        Row("langfuse.observation.usage_details", "usage", _usage),
        Row("langfuse.observation.cost_details", "cost", _cost),
        Row("langfuse.observation.level", "level"),
        Row("langfuse.observation.status_message", "status_message"),
        Row("langfuse.observation.completion_start_time", "first_token_ns", _moment),
        Row("langfuse.observation.metadata.*", "metadata"),
        Row("langfuse.metadata.*", "metadata"),
        Row("langfuse.trace.metadata.*", "trace_metadata"),
        Row("langfuse.trace.name", "trace_name"),
        Row("langfuse.trace.tags", "tags", _tags),
        Row("langfuse.tags", "tags", _tags),
        Row("langfuse.trace.public", "public", as_flag),
        Row("langfuse.public", "public", as_flag),
        Row("langfuse.user.id", "user"),
        Row("langfuse.session.id", "session"),
        Row("langfuse.release", "release"),
        Row("langfuse.version", "version"),
        Row("langfuse.environment", "environment"),
        Row("langfuse.internal.is_app_root", "-"),
        Row("langfuse.internal.as_root", "-"),
        Row("langfuse.internal.route", "-"),  # what our gateway configuration routes by
        Row("langfuse.trace.url", "-"),
    )
)


def read(view: SpanView) -> Facts | None:
    """The facts that ``langfuse.*`` attributes state; context keys alone do not make a span GenAI."""
    keys = [key for key in view.attributes if key.startswith("langfuse.")]
    if not keys and not view.scope_name.startswith("langfuse-sdk"):
        return None
    facts = Facts(dialect=NAME)
    facts.recognised = view.scope_name.startswith("langfuse-sdk") or any(key.startswith(_OBSERVATION) for key in keys)
    TABLE.apply(view.attributes, facts, shape_of(view))
    _prompt(view.attributes, facts)
    _whole_metadata(view.attributes, facts)
    _thread(facts)
    if facts.type is ObservationType.GENERATION and view.scope_name.startswith("langfuse-sdk"):
        _langchain_shapes(facts)
    if facts.recognised and facts.type is None:
        facts.type = ObservationType.GENERATION if facts.response_model else ObservationType.SPAN
    for side in ("input", "output"):
        _trace_value(view.attributes, facts, side)
    # Experiment columns and whatever else Langfuse defines: explicit keys are kept as given.
    facts.passthrough = {key: view.attributes[key] for key in keys if key.startswith(_KEPT) and key not in facts.consumed}
    facts.consumed |= set(facts.passthrough)
    return facts


def _prompt(attributes: Mapping[str, Value], facts: Facts) -> None:
    for prefix in ("langfuse.observation.prompt.", "langfuse.prompt."):
        name, version = as_text(attributes.get(prefix + "name")), as_text(attributes.get(prefix + "version"))
        if name and version:
            facts.prompt = facts.prompt or PromptLink(name, version)
            facts.consumed |= {prefix + "name", prefix + "version"}


def _whole_metadata(attributes: Mapping[str, Value], facts: Facts) -> None:
    """Metadata given as one JSON object; single keys win over it, as on the server."""
    for key, target in (
        ("langfuse.observation.metadata", facts.metadata),
        ("langfuse.metadata", facts.metadata),
        ("langfuse.trace.metadata", facts.trace_metadata),
    ):
        raw = attributes.get(key)
        given = load(raw) if isinstance(raw, str) else None
        if isinstance(given, dict):
            facts.consumed.add(key)
            for name, item in given.items():
                target.setdefault(name, item if isinstance(item, str) else dump(item))


def _trace_value(attributes: Mapping[str, Value], facts: Facts, side: str) -> None:
    """A trace's own input or output: Langfuse v4 shows the root row's, so it stands in for a missing one there."""
    key = f"langfuse.trace.{side}"
    if key in attributes:
        facts.consumed.add(key)
        if getattr(facts, side) is None:
            setattr(facts, side, raw_content(attributes[key]))


def _thread(facts: Facts) -> None:
    """LangGraph's thread is the conversation; the SDK writes it as JSON into metadata."""
    for given in (facts.trace_metadata, facts.metadata):
        raw = given.get("thread_id")
        if raw:
            named = load(raw)
            facts.conversation = facts.conversation or (named if isinstance(named, str) else raw)


def _langchain_shapes(facts: Facts) -> None:
    """The SDK's LangChain callback files tool definitions as tool messages, and calls with ``args``.

    Langfuse recognises neither, so these two shapes, and only these, are brought to the one shape of content.
    """
    if isinstance(facts.input, Raw) and '"role": "tool"' in facts.input.text and '"function"' in facts.input.text:
        listed = load(facts.input.text)
        if isinstance(listed, list):
            tools = [item["content"] for item in listed if _is_misfiled_tool(item)]  # type: ignore[index, call-overload]
            if tools:
                facts.tools = as_tools(dump(tools))
                facts.input = raw_content(dump([item for item in listed if not _is_misfiled_tool(item)]))
    if isinstance(facts.output, Raw) and '"tool_calls"' in facts.output.text and '"args"' in facts.output.text:
        opened = load(facts.output.text)
        if isinstance(opened, dict):
            facts.output = as_content({key: item for key, item in opened.items() if key != "additional_kwargs"}, "assistant")  # type: ignore[misc]


def _is_misfiled_tool(item: Json) -> bool:
    content = item.get("content") if isinstance(item, dict) and item.get("role") == "tool" else None
    return isinstance(content, dict) and content.get("type") == "function" and isinstance(content.get("function"), dict)

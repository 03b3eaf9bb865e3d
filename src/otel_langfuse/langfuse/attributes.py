"""The writer: facts, place and context as explicit ``langfuse.*`` attributes, and nothing else.

Source: Langfuse rules (server 4.16), one section per group of keys. The server gives these keys precedence over
everything that it would guess; a key that it interprets never leaves here under its own name, only below
``langfuse.observation.metadata.``, and names that it interprets even there are renamed (section 6, 9).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from otel_langfuse.dialects.reading import as_text, dump, finite
from otel_langfuse.langfuse.chat import input_text, lifted_text, output_text
from otel_langfuse.langfuse.wire import AttributeValue
from otel_langfuse.model import Facts, Json, ObservationType, Value
from otel_langfuse.pipeline.row import Row
from otel_langfuse.pipeline.usage import buckets

__all__ = ["write"]

# Metadata names that the server lifts out of metadata (rules section 6: user, session, tags; section 9: tools).
_LIFTED = frozenset(("langfuse_user_id", "langfuse_session_id", "langfuse_tags", "tools", "langfuse_prompt"))


def write(row: Row) -> dict[str, AttributeValue]:
    """The attributes of the Langfuse copy of a span, in a fixed order."""
    facts = row.facts
    out: dict[str, AttributeValue] = {"langfuse.observation.type": str(facts.type or ObservationType.SPAN)}
    _put(
        out,
        "langfuse.observation.input",
        input_text(facts.input, facts.system, facts.tools) or lifted_text(row.lifted_input),
    )
    _put(out, "langfuse.observation.output", output_text(facts.output) or lifted_text(row.lifted_output))
    _model(out, facts)
    _put(out, "langfuse.observation.level", facts.level)
    _put(out, "langfuse.observation.status_message", facts.status_message)
    _put(out, "langfuse.observation.completion_start_time", _iso(facts.first_token_ns))
    if facts.prompt is not None and facts.type is ObservationType.GENERATION:
        out["langfuse.observation.prompt.name"] = facts.prompt.name
        out["langfuse.observation.prompt.version"] = facts.prompt.version
    _context(out, row)
    _metadata(out, row)
    for key, value in facts.passthrough.items():
        plain = _plain(value)
        if plain is not None:
            out.setdefault(key, plain)
    return out


def _put(out: dict[str, AttributeValue], key: str, value: str | None) -> None:
    if value:
        out[key] = value


def _model(out: dict[str, AttributeValue], facts: Facts) -> None:
    """Model, parameters, usage, cost (sections 10 to 12); a failed call without usage costs 0: nothing is invented."""
    _put(out, "langfuse.observation.model.name", facts.model)
    parameters = {key: _parameter(value) for key, value in facts.parameters.items() if finite(value) is not None}
    if parameters:
        out["langfuse.observation.model.parameters"] = dump(parameters)
    usage = buckets(facts.usage) if facts.usage is not None else {}
    if usage:
        out["langfuse.observation.usage_details"] = dump(usage)  # type: ignore[arg-type]  # ints are JSON
    cost = facts.cost
    is_call = facts.type is not None and facts.type.is_model_call
    if cost is None and not usage and is_call and (facts.level or "").upper() == "ERROR":
        cost = {"input": 0, "output": 0, "total": 0}
    if cost:
        out["langfuse.observation.cost_details"] = dump(cost)  # type: ignore[arg-type]  # numbers are JSON


def _parameter(value: Json) -> Json:
    return value if isinstance(value, (str, int, float)) else dump(value)


def _context(out: dict[str, AttributeValue], row: Row) -> None:
    _put(out, "langfuse.trace.name", row.trace_name)
    _put(out, "langfuse.user.id", row.user)
    _put(out, "langfuse.session.id", row.session)
    if row.tags:
        out["langfuse.trace.tags"] = list(row.tags)
    if row.facts.public is not None:
        out["langfuse.trace.public"] = row.facts.public
    _put(out, "langfuse.release", row.release)
    _put(out, "langfuse.version", row.version)
    _put(out, "langfuse.environment", row.environment)
    if row.is_root:
        out["langfuse.internal.is_app_root"] = True


def _metadata(out: dict[str, AttributeValue], row: Row) -> None:
    """Observation and trace metadata (section 13); trace metadata of a child never shows, so it is written per span."""
    facts = row.facts
    prefix = "langfuse.observation.metadata."
    for name, text in (*row.note.items(), ("operation", facts.operation), ("provider", facts.provider)):
        _put(out, prefix + name, text)
    _put(out, prefix + "response_id", facts.response_id)
    if facts.response_model and facts.request_model not in (None, facts.response_model):
        _put(out, prefix + "request_model", facts.request_model)
    _put(out, prefix + "conversation_id", facts.conversation)
    for name, text in facts.metadata.items():
        _put(out, prefix + _renamed(name), text)
    for key, value in row.view.attributes.items():
        if key not in facts.consumed:
            _put(out, prefix + _renamed(key), as_text(value))
    for name, text in row.trace_metadata.items():
        _put(out, "langfuse.trace.metadata." + _renamed(name), text)


def _renamed(name: str) -> str:
    return "attribute." + name if name in _LIFTED else name


def _plain(value: Value) -> AttributeValue | None:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [item for item in value if isinstance(item, str)]
    return as_text(value)


def _iso(moment_ns: int | None) -> str | None:
    """ISO 8601 in UTC with Z and milliseconds rounded down: servers that validate want the offset (section 12)."""
    if moment_ns is None:
        return None
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_ns // 1000)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

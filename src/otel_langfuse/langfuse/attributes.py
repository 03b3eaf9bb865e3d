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
_METADATA = "langfuse.observation.metadata."
_ATTRIBUTE_NAMES: dict[str, str] = {}
_MAX_NAMES = 4096


def write(row: Row) -> dict[str, AttributeValue]:
    """The attributes of the Langfuse copy of a span, in a fixed order."""
    facts = row.facts
    out: dict[str, AttributeValue] = {"langfuse.observation.type": str(facts.type or ObservationType.SPAN)}
    if text := input_text(facts.input, facts.system, facts.tools) or lifted_text(row.lifted_input):
        out["langfuse.observation.input"] = text
    if text := output_text(facts.output) or lifted_text(row.lifted_output):
        out["langfuse.observation.output"] = text
    _model(out, facts)
    if facts.level:
        out["langfuse.observation.level"] = facts.level
    if facts.status_message:
        out["langfuse.observation.status_message"] = facts.status_message
    if facts.first_token_ns is not None:
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
    if facts.parameters:
        parameters = {
            key: value if type(value) is int else _parameter(value)
            for key, value in facts.parameters.items()
            if type(value) is int or finite(value) is not None
        }
        if parameters:
            out["langfuse.observation.model.parameters"] = dump(parameters)
    usage = buckets(facts.usage) if facts.usage is not None else {}
    if usage:
        out["langfuse.observation.usage_details"] = dump(usage)  # type: ignore[arg-type]  # ints are JSON
    cost = facts.cost
    if cost is None and not usage and (facts.level or "").upper() == "ERROR":
        is_call = facts.type is not None and facts.type.is_model_call
        cost = {"input": 0, "output": 0, "total": 0} if is_call else None
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
    for name, text in row.note.items():
        _put(out, _METADATA + name, text)
    if facts.operation:
        out["langfuse.observation.metadata.operation"] = facts.operation
    if facts.provider:
        out["langfuse.observation.metadata.provider"] = facts.provider
    if facts.response_id:
        out["langfuse.observation.metadata.response_id"] = facts.response_id
    if facts.response_model and facts.request_model and facts.request_model != facts.response_model:
        out["langfuse.observation.metadata.request_model"] = facts.request_model
    if facts.conversation:
        out["langfuse.observation.metadata.conversation_id"] = facts.conversation
    for name, text in facts.metadata.items():
        if text:
            out[_METADATA + _renamed(name)] = text
    consumed, attributes = facts.consumed, row.view.attributes
    for key in [key for key in attributes if key not in consumed]:
        value = attributes[key]
        shown = value if type(value) is str else as_text(value)
        if shown:
            out[_ATTRIBUTE_NAMES.get(key) or _attribute_name(key)] = shown
    for name, text in row.trace_metadata.items():
        _put(out, "langfuse.trace.metadata." + _renamed(name), text)


def _attribute_name(key: str) -> str:
    """The name under which an attribute shows as metadata; kept, because the same attributes recur."""
    name = _METADATA + _renamed(key)
    if len(_ATTRIBUTE_NAMES) < _MAX_NAMES:
        _ATTRIBUTE_NAMES[key] = name
    return name


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

"""The writer: facts, place and context as explicit ``langfuse.*`` attributes, and nothing else.

Source: Langfuse rules (server 4.16), one section per group of keys. The server gives these keys precedence over
everything that it would guess; a key that it interprets never leaves here under its own name, only below
``langfuse.observation.metadata.``, and names that it interprets even there are renamed (section 6, 9).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from otel_langfuse.dialects.json_text import dump_texts
from otel_langfuse.dialects.reading import as_text, dump, finite
from otel_langfuse.langfuse.chat import input_text, lifted_text, output_text
from otel_langfuse.langfuse.wire import AttributeValue
from otel_langfuse.model import Facts, Json, ObservationType, Value
from otel_langfuse.pipeline.row import Row
from otel_langfuse.pipeline.usage import buckets

__all__ = ["VARYING_METADATA", "as_metadata", "common", "metadata_name", "varying", "write"]

# Metadata names that the server lifts out of metadata (rules section 6: user, session, tags; section 9: tools).
_LIFTED = frozenset(("langfuse_user_id", "langfuse_session_id", "langfuse_tags", "tools", "langfuse_prompt"))
_METADATA = "langfuse.observation.metadata."
_RESPONSE_ID = _METADATA + "response_id"
_CONVERSATION = _METADATA + "conversation_id"
VARYING_METADATA = frozenset((_RESPONSE_ID, _CONVERSATION))
"""Metadata that `varying` writes, the pipeline's notes aside."""
_ATTRIBUTE_NAMES: dict[str, str] = {}
_MAX_NAMES = 4096
_SHORT = 64  # characters of a text that is remembered


def write(row: Row) -> dict[str, AttributeValue]:
    """The attributes of the Langfuse copy of a span, in a fixed order: what calls share, metadata, what varies."""
    out = common(row.facts)
    consumed, attributes = row.facts.consumed, row.view.attributes
    for key in [key for key in attributes if key not in consumed]:
        shown = as_metadata(attributes[key])
        if shown:
            out[metadata_name(key)] = shown
    for key, value in varying(row).items():
        if key.startswith(_METADATA):
            out.setdefault(key, value)  # what the span says itself under this name is shown
        else:
            out[key] = value
    for key, given in row.facts.passthrough.items():
        plain = _plain(given)
        if plain is not None:
            out.setdefault(key, plain)
    return out


def common(facts: Facts) -> dict[str, AttributeValue]:
    """What the facts of many calls give alike: type, model, parameters, error, metadata that readers made.

    A failed call's level and message are among it, since errors are read anew for each span.
    """
    out: dict[str, AttributeValue] = {"langfuse.observation.type": str(facts.type or ObservationType.SPAN)}
    _put(out, "langfuse.observation.model.name", facts.model)
    if facts.parameters:
        parameters = {
            key: value if type(value) is int else _parameter(value)
            for key, value in facts.parameters.items()
            if type(value) is int or finite(value) is not None
        }
        if parameters:
            out["langfuse.observation.model.parameters"] = dump(parameters)
    _put(out, "langfuse.observation.level", facts.level)
    _put(out, "langfuse.observation.status_message", facts.status_message)
    if facts.prompt is not None and facts.type is ObservationType.GENERATION:
        out["langfuse.observation.prompt.name"] = facts.prompt.name
        out["langfuse.observation.prompt.version"] = facts.prompt.version
    if facts.public is not None:
        out["langfuse.trace.public"] = facts.public
    _put(out, "langfuse.observation.metadata.operation", facts.operation)
    _put(out, "langfuse.observation.metadata.provider", facts.provider)
    if facts.response_model and facts.request_model and facts.request_model != facts.response_model:
        out["langfuse.observation.metadata.request_model"] = facts.request_model
    for name, text in facts.metadata.items():
        _put(out, _METADATA + _renamed(name), text)
    return out


def varying(row: Row) -> dict[str, AttributeValue]:
    """What differs from call to call and from trace to trace: content, counts, ids, context (sections 10 to 13).

    A failed call without usage costs 0: nothing is invented. Trace metadata of a child never shows, so it is on each span.
    """
    facts = row.facts
    out: dict[str, AttributeValue] = {}
    said = facts.input is not None or facts.system is not None or facts.tools  # an entry span mostly has nothing of its own
    if text := (said and input_text(facts.input, facts.system, facts.tools)) or lifted_text(row.lifted_input):
        out["langfuse.observation.input"] = text
    if text := output_text(facts.output) or lifted_text(row.lifted_output):
        out["langfuse.observation.output"] = text
    if facts.usage is not None or facts.cost is not None or facts.level is not None:
        _usage(out, facts)
    if facts.first_token_ns is not None:
        _put(out, "langfuse.observation.completion_start_time", _iso(facts.first_token_ns))
    if row.trace_name:
        out["langfuse.trace.name"] = row.trace_name
    if row.user:
        out["langfuse.user.id"] = row.user
    if row.session:
        out["langfuse.session.id"] = row.session
    if row.tags:
        out["langfuse.trace.tags"] = list(row.tags)
    if row.release:
        out["langfuse.release"] = row.release
    if row.version:
        out["langfuse.version"] = row.version
    if row.environment:
        out["langfuse.environment"] = row.environment
    if row.is_root:
        out["langfuse.internal.is_app_root"] = True
    for name, text in row.note.items():
        _put(out, _METADATA + name, text)
    if facts.response_id:
        out[_RESPONSE_ID] = facts.response_id
    if facts.conversation:
        out[_CONVERSATION] = facts.conversation
    for name, text in row.trace_metadata.items():
        _put(out, "langfuse.trace.metadata." + _renamed(name), text)
    return out


def _put(out: dict[str, AttributeValue], key: str, value: str | None) -> None:
    if value:
        out[key] = value


def _usage(out: dict[str, AttributeValue], facts: Facts) -> None:
    usage = buckets(facts.usage) if facts.usage is not None else {}
    if usage:
        out["langfuse.observation.usage_details"] = dump_texts(usage)  # type: ignore[arg-type]  # ints are JSON
    cost = facts.cost
    if cost is None and not usage and (facts.level or "").upper() == "ERROR":
        is_call = facts.type is not None and facts.type.is_model_call
        cost = {"input": 0, "output": 0, "total": 0} if is_call else None
    if cost:
        out["langfuse.observation.cost_details"] = dump(cost)  # type: ignore[arg-type]  # numbers are JSON


def _parameter(value: Json) -> Json:
    return value if isinstance(value, (str, int, float)) else dump(value)


def as_metadata(value: Value) -> str | None:
    """An attribute that no reader took, as it shows in metadata."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]  # that is what it is
    if kind is int:
        return str(value)
    if kind is list and len(value) == 1 and type(item := value[0]) is str and len(item) <= _SHORT:  # type: ignore[arg-type,index]
        return _listed(item)  # a finish reason, nearly always
    return as_text(value)


@lru_cache(maxsize=256)
def _listed(item: str) -> str:
    return dump([item])


def metadata_name(key: str) -> str:
    """The name under which an attribute that no reader took shows as metadata."""
    return _ATTRIBUTE_NAMES.get(key) or _attribute_name(key)


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

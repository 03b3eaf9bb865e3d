"""OpenTelemetry GenAI up to 1.36: ``gen_ai.system``, and one span event or log record per message.

Source: semantic conventions 1.30 to 1.36, ``gen_ai.{system,user,assistant,tool}.message`` and ``gen_ai.choice``;
older still, span events ``gen_ai.content.prompt`` and ``gen_ai.content.completion``. Bodies are structured values
(``content``, ``tool_calls``, ``id``) on log records, attributes on span events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from otel_langfuse.dialects.chat import as_content, message
from otel_langfuse.dialects.operations import OPERATIONS
from otel_langfuse.dialects.reading import Row, Table, as_integer, jsonable, load
from otel_langfuse.dialects.shapes import Hints, shape_of
from otel_langfuse.model import Chat, Facts, Json, Message, SpanView, ToolResponse, Value

__all__ = ["HINTS", "NAME", "TABLE", "read"]

NAME = "otel-genai-1.36"

TABLE = Table(
    (
        Row("gen_ai.system", "provider"),
        Row("gen_ai.operation.name", "operation"),
        Row("gen_ai.request.model", "request_model"),
        Row("gen_ai.response.model", "response_model"),
        Row("gen_ai.usage.prompt_tokens", "usage.input", as_integer),
        Row("gen_ai.usage.completion_tokens", "usage.output", as_integer),
        Row("gen_ai.openai.request.seed", "parameters.seed", as_integer),
        Row("gen_ai.openai.request.*", "parameters", lambda value: jsonable(value)),
    )
)
_CHOICE = "gen_ai.choice"


def _hears(event_name: str) -> bool:
    return event_name == _CHOICE or event_name.startswith("gen_ai.content.") or _role(event_name) is not None


HINTS = Hints(
    keys=("gen_ai.system",), but=frozenset(("gen_ai.system_instructions",)), events=("gen_ai.",), looks=(), hears=_hears
)


def read(view: SpanView) -> Facts | None:
    """The facts of a span in the older conventions, its messages from span events and log records."""
    events = list(_records(view)) if view.events or view.contents else []
    if "gen_ai.system" not in view.attributes and not events:
        return None
    facts = Facts(dialect=NAME)
    TABLE.apply(view.attributes, facts, shape_of(view))
    known = OPERATIONS.get(facts.operation or "")
    facts.type = known
    _read_messages(events, facts)
    return facts


def _role(event_name: str) -> str | None:
    """The role in ``gen_ai.<role>.message``; newer models have roles (developer) that the conventions do not list."""
    if event_name.startswith("gen_ai.") and event_name.endswith(".message"):
        return event_name[7:-8] or None
    return None


def _records(view: SpanView) -> Iterator[tuple[str, Mapping[str, Value], Value]]:
    """Name, attributes and body of each content event, span events first."""
    for event in view.events:
        if _hears(event.name):
            yield event.name, event.attributes, None
    for record in view.contents:
        if _role(record.event_name) or record.event_name == _CHOICE:
            yield record.event_name, record.attributes, record.body


def _read_messages(events: list[tuple[str, Mapping[str, Value], Value]], facts: Facts) -> None:
    given: list[Message] = []
    made: list[Message] = []
    for name, attributes, body in events:
        role = _role(name)
        if role is not None:
            given.append(_message(_body(attributes, body), role))
        elif name == _CHOICE:
            made.append(_choice(_body(attributes, body)))
        elif name == "gen_ai.content.prompt":
            facts.input = facts.input or as_content(attributes.get("gen_ai.prompt"))
        elif name == "gen_ai.content.completion":
            facts.output = facts.output or as_content(attributes.get("gen_ai.completion"), "assistant")
    # With content capture off the events still come, without content: that is no message to show.
    if any(one.parts for one in given):
        facts.input = Chat(tuple(_once(given)))
    if any(one.parts for one in made):
        facts.output = Chat(tuple(made))


def _once(given: list[Message]) -> list[Message]:
    """Without messages that only repeat what tools have answered: Botocore writes it as a tool's and as the user's."""
    answered: set[str] = set()
    kept: list[Message] = []
    for one in given:
        ids = {part.id for part in one.parts if isinstance(part, ToolResponse) and part.id}
        if one.role != "tool" and ids and ids <= answered and all(isinstance(part, ToolResponse) for part in one.parts):
            continue
        answered |= ids
        kept.append(one)
    return kept


def _body(attributes: Mapping[str, Value], body: Value) -> dict[str, Json]:
    if isinstance(body, dict):
        return {key: jsonable(item) for key, item in body.items()}
    found = {key: jsonable(item) for key, item in attributes.items() if not key.startswith(("gen_ai.", "event."))}
    text = attributes.get("gen_ai.event.content", body)
    if isinstance(text, str):
        opened = load(text)
        return {**found, **opened} if isinstance(opened, dict) else {**found, "content": text}
    return found


def _message(body: dict[str, Json], role: str) -> Message:
    # An answer that is a JSON object stays text; only lists of parts and calls are opened.
    opened = {key: _opened(body.get(key)) for key in ("content", "tool_calls")}
    lists = {key: item for key, item in opened.items() if isinstance(item, list)}
    return message({**body, **lists, "role": body.get("role") or role}, role)


def _choice(body: dict[str, Json]) -> Message:
    inner = _opened(body.get("message"))
    merged: dict[str, Json] = (
        {**body, **inner} if isinstance(inner, dict) else {**body, "content": inner or body.get("content")}
    )
    merged.pop("message", None)
    merged.pop("index", None)
    return _message(merged, "assistant")


def _opened(value: Json) -> Json:
    """JSON text of a list or object, opened; span event attributes cannot hold structure."""
    opened = load(value) if isinstance(value, str) else None
    return opened if isinstance(opened, (dict, list)) else value

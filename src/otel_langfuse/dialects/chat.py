"""Messages of any shape as canonical messages.

Takes what instrumentations write as JSON text or structured values: semantic-convention messages (``parts``),
OpenAI chat messages (``content``, ``tool_calls``), OpenAI Responses items (``type``), Anthropic content blocks.
Rules: never raises; never loses text (what has no canonical part is kept as `model.Generic`); content that is no
list of messages stays raw.
"""

from __future__ import annotations

from collections.abc import Callable

from otel_langfuse.dialects.json_text import alike, dump, glance, load, settle
from otel_langfuse.dialects.parts import as_parts, plain_parts, text_of, tool_answer
from otel_langfuse.dialects.reading import jsonable
from otel_langfuse.model import (
    Chat,
    Content,
    Generic,
    Json,
    Message,
    Part,
    Raw,
    Text,
    ToolCall,
    ToolResponse,
    Value,
)

__all__ = ["as_answers", "as_chat", "as_content", "as_parts_text", "as_tools", "message", "raw_content"]

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}
_USUAL_ROLES = frozenset(("assistant", "system", "tool", "user"))  # as they are
_MESSAGE_KEYS = frozenset(
    (
        "role",
        "content",
        "parts",
        "tool_calls",
        "tool_call_id",
        "name",
        "finish_reason",
        "id",
        "type",
        "index",
        "refusal",
    )
)


def as_content(value: Value, role: str = "user") -> Content | None:
    """Content from JSON text or a structured value; ``role`` is for messages that name none."""
    if isinstance(value, str):
        if not value:
            return None
        glanced = glance(value)
        try:
            chat = _chat(glanced, role, glanced=True)
        except _DoubtfulError:
            chat = None
            glanced = None
        if glanced is None:
            chat = _chat(settle(value, None), role)
        return _said(chat) if chat is not None else Raw(value)
    if value is None or value in ([], {}):
        return None
    plain = _plain(value)
    chat = _chat(plain, role)
    return _said(chat) if chat is not None else Raw(plain if isinstance(plain, str) else dump(plain))


def as_chat(parsed: Json, role: str = "user") -> Chat | None:
    """The messages in JSON that has been read; ``None`` if it is no list of messages, or none has anything in it."""
    chat = _chat(parsed, role)
    return _said(chat) if chat is not None else None


def _said(chat: Chat) -> Chat | None:
    """The messages, unless none has any part: then content was not captured."""
    for said in chat.messages:
        if said.parts:
            return chat
    return None


def as_answers(choices: Json) -> Content | None:
    """What a completion's ``choices`` say: the message of each."""
    said = [choice.get("message") for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return as_content([item for item in said if isinstance(item, dict)], "assistant")  # type: ignore[misc]  # Json is a Value


def raw_content(value: Value) -> Content | None:
    """Content kept as given: text stays as it is, structured values become JSON text."""
    if isinstance(value, str):
        return Raw(value) if value else None
    return None if value is None or value in ([], {}) else Raw(dump(jsonable(value)))


def as_parts_text(value: Value) -> Content | None:
    """System instructions: a list of parts, or text, as one system message."""
    glanced = glance(value) if isinstance(value, str) else None
    if type(glanced) is list and (plain := plain_parts(glanced)) is not None:
        return Chat((Message("system", plain),))
    parsed = settle(value, glanced) if isinstance(value, str) else _plain(value)
    if isinstance(parsed, list):
        parts = tuple(part for item in parsed for part in as_parts(item))
        return Chat((Message("system", parts),)) if parts else None
    if isinstance(value, str):
        return Chat((Message("system", (Text(value),)),)) if value else None
    return None


def as_tools(value: Value) -> list[Json] | None:
    """Tool definitions in the form that Langfuse recognises: ``{"type": "function", "function": {...}}``."""
    parsed = load(value) if isinstance(value, str) else _plain(value)
    if not isinstance(parsed, list):
        return None
    tools = [_tool(item) for item in parsed if isinstance(item, (dict, str))]
    return tools or None


def _tool(item: Json) -> Json:
    definition = load(item) if isinstance(item, str) else item
    if not isinstance(definition, dict):
        return item
    inner = definition.get("toolSpec")
    if isinstance(inner, dict):  # Bedrock's
        definition = inner
    if isinstance(definition.get("function"), dict):
        return {"type": "function", **definition}
    if "name" not in definition:
        return definition
    parameters = definition.get("parameters", definition.get("input_schema", definition.get("inputSchema")))
    if isinstance(parameters, dict) and parameters.keys() == {"json"}:
        parameters = parameters["json"]
    function: dict[str, Json] = {"name": definition["name"]}
    if definition.get("description"):
        function["description"] = definition["description"]
    if parameters is not None:
        function["parameters"] = load(parameters) or parameters if isinstance(parameters, str) else parameters
    rest = {
        key: item
        for key, item in definition.items()
        if key not in ("name", "description", "parameters", "input_schema", "inputSchema", "type") and item is not None
    }
    return {"type": "function", "function": {**function, **rest}}


# ------------------------------------------------------------------------------------------- messages


def _plain(value: Value) -> Json:
    """Structured values with bytes as base64 and messages in JSON text opened."""
    return jsonable(value)


class _DoubtfulError(Exception):
    """What `glance` has read may not be what `load` gives."""


def _chat(parsed: Json, role: str, *, glanced: bool = False) -> Chat | None:
    """The messages, if everything looks like one.

    Raises:
        _DoubtfulError: ``parsed`` is from `glance`, and has to be read again.
    """
    messages: list[Message] = []
    for item in parsed if isinstance(parsed, list) else (parsed,):
        if not isinstance(item, dict):
            return None
        found = _plain_message(item)
        if found is None:
            if not ("role" in item or "parts" in item or _item_kind(item) is not None):
                return None
            if glanced and not alike(item):
                raise _DoubtfulError
            found = message(item, role)
        messages.append(found)
    return Chat(tuple(messages)) if messages else None


def _plain_message(item: dict[str, Json]) -> Message | None:
    """What `message` makes of the most frequent shapes; ``None`` for all others. Every value is looked at."""
    named = item.get("role")
    if type(named) is not str or not named:
        return None
    if named not in _USUAL_ROLES:
        named = _ROLES.get(named.lower(), named)
    size = len(item)
    finished = item.get("finish_reason")
    if finished is not None:
        if type(finished) is not str:
            return None
        size -= 1
    parts: tuple[Part, ...] | None = None
    if size == 2:
        given = item.get("parts")
        if given is None and named != "tool":
            given = item.get("content")
        if type(given) is str and "parts" not in item:
            parts = (Text(given),)
        elif type(given) is list:
            parts = plain_parts(given)
    elif size == 3 and "content" in item:
        given = item["content"]
        if named == "tool":
            call_id = item.get("tool_call_id")
            if type(given) is str and type(call_id) is str and call_id:
                parts = (ToolResponse(call_id, given),)
        elif given is None or type(given) is str:
            parts = _plain_calls(item.get("tool_calls"))
            if parts is not None and given is not None:
                parts = (Text(given), *parts)
    return Message(named, parts, None, finished or None) if parts is not None else None


def _plain_calls(calls: Json) -> tuple[Part, ...] | None:
    """The calls that `_tool_calls` finds in OpenAI's shape, with arguments in text; ``None`` for all others."""
    if type(calls) is not list or not calls:
        return None
    found: list[Part] = []
    for call in calls:
        if type(call) is not dict or len(call) != 3 or type(call.get("type")) is not str:
            return None
        function = call.get("function")
        if type(function) is not dict or len(function) != 2:
            return None
        call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
        if type(call_id) is not str or type(name) is not str or type(arguments) is not str or not call_id or not name:
            return None
        found.append(ToolCall(call_id, name, arguments))
    return tuple(found)


def message(item: dict[str, Json], role: str = "user") -> Message:
    """One message from a dict of any known shape."""
    given = item.get("role")
    if given is None and "role" not in item and (kind := _item_kind(item)) is not None:
        return kind(item)
    named = str(given) if given else role
    named = _ROLES.get(named.lower(), named)
    parts: list[Part] = as_parts(item["parts"]) if "parts" in item else []
    content = item.get("content")
    if named == "tool" and "parts" not in item and content is not None:
        answers = [] if isinstance(content, str) else [part for part in as_parts(content) if isinstance(part, ToolResponse)]
        call_id = text_of(item.get("tool_call_id")) or text_of(item.get("id"))
        parts += answers or [ToolResponse(call_id, tool_answer(content))]
    elif content is not None:
        parts += as_parts(content)
    if "tool_calls" in item:
        called = _tool_calls(item["tool_calls"])
        known = {part.id for part in called if isinstance(part, ToolCall) and part.id}
        # Botocore's events have the calls in the content as well.
        parts = [part for part in parts if not (isinstance(part, ToolCall) and part.id in known)] + called
    if isinstance(item.get("refusal"), str) and item["refusal"]:
        parts.append(Generic({"type": "refusal", "refusal": item["refusal"]}))
    if not _MESSAGE_KEYS.issuperset(item):
        parts += [
            Generic({key: rest}) for key, rest in item.items() if key not in _MESSAGE_KEYS and rest not in (None, "", [], {})
        ]
    return Message(named, tuple(parts), text_of(item.get("name")), text_of(item.get("finish_reason")))


def _tool_calls(calls: Json) -> list[Part]:
    found: list[Part] = []
    for call in calls if isinstance(calls, list) else []:
        if not isinstance(call, dict):
            found.append(Generic(call))
            continue
        function = call.get("function")
        source = function if isinstance(function, dict) else call
        name = text_of(source.get("name"))
        if name is None:
            found.append(Generic(call))
        else:
            found.append(ToolCall(text_of(call.get("id")), name, source.get("arguments", source.get("args"))))
    return found


# ------------------------------------------------------------------------------ Responses API items


def _function_call(item: dict[str, Json]) -> Message:
    call = ToolCall(text_of(item.get("call_id")) or text_of(item.get("id")), str(item.get("name") or ""), item.get("arguments"))
    return Message("assistant", (call,))


def _function_output(item: dict[str, Json]) -> Message:
    return Message("tool", (ToolResponse(text_of(item.get("call_id")), item.get("output")),))


def _reasoning_item(item: dict[str, Json]) -> Message:
    return Message("assistant", tuple(as_parts([{**item, "type": "reasoning"}])))


_ITEMS: dict[str, Callable[[dict[str, Json]], Message]] = {
    "function_call": _function_call,
    "function_call_output": _function_output,
    "reasoning": _reasoning_item,
}


def _item_kind(item: dict[str, Json]) -> Callable[[dict[str, Json]], Message] | None:
    kind = item.get("type")
    return _ITEMS.get(kind) if isinstance(kind, str) else None

"""Messages of any shape as canonical messages.

Takes what instrumentations write as JSON text or structured values: semantic-convention messages (``parts``),
OpenAI chat messages (``content``, ``tool_calls``), OpenAI Responses items (``type``), Anthropic content blocks.
Rules: never raises; never loses text (what has no canonical part is kept as `model.Generic`); content that is no
list of messages stays raw.
"""

from __future__ import annotations

from collections.abc import Callable

from otel_langfuse.dialects.parts import as_parts, text_of, tool_answer
from otel_langfuse.dialects.reading import dump, jsonable, load
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

__all__ = ["as_content", "as_parts_text", "as_tools", "message", "raw_content"]

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}
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
        parsed = load(value)
        if parsed is None or isinstance(parsed, str):
            return Raw(value)
        chat = _chat(parsed, role)
        return _said(chat) if chat is not None else Raw(value)
    if value is None or value in ([], {}):
        return None
    plain = _plain(value)
    chat = _chat(plain, role)
    return _said(chat) if chat is not None else Raw(plain if isinstance(plain, str) else dump(plain))


def _said(chat: Chat) -> Chat | None:
    """The messages, unless none has any part: then content was not captured."""
    return chat if any(message.parts for message in chat.messages) else None


def raw_content(value: Value) -> Content | None:
    """Content kept as given: text stays as it is, structured values become JSON text."""
    if isinstance(value, str):
        return Raw(value) if value else None
    return None if value is None or value in ([], {}) else Raw(dump(jsonable(value)))


def as_parts_text(value: Value) -> Content | None:
    """System instructions: a list of parts, or text, as one system message."""
    parsed = load(value) if isinstance(value, str) else _plain(value)
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
    if isinstance(definition.get("function"), dict):
        return {"type": "function", **definition}
    if "name" not in definition:
        return definition
    parameters = definition.get("parameters", definition.get("input_schema", definition.get("inputSchema")))
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


def _chat(parsed: Json, role: str) -> Chat | None:
    """The messages, if everything looks like one."""
    messages: list[Message] = []
    for item in parsed if isinstance(parsed, list) else (parsed,):
        if not isinstance(item, dict) or not ("role" in item or "parts" in item or _item_kind(item) is not None):
            return None
        messages.append(message(item, role))
    return Chat(tuple(messages)) if messages else None


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
        answers = [part for part in as_parts(content) if isinstance(part, ToolResponse)]
        call_id = text_of(item.get("tool_call_id")) or text_of(item.get("id"))
        parts += answers or [ToolResponse(call_id, tool_answer(content))]
    elif content is not None:
        parts += as_parts(content)
    if "tool_calls" in item:
        parts += _tool_calls(item["tool_calls"])
    if isinstance(item.get("refusal"), str) and item["refusal"]:
        parts.append(Generic({"type": "refusal", "refusal": item["refusal"]}))
    if not item.keys() <= _MESSAGE_KEYS:
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

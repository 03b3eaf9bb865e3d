"""Messages of any shape as canonical messages.

Takes what instrumentations write as JSON text or structured values: semantic-convention messages (``parts``),
OpenAI chat messages (``content``, ``tool_calls``), OpenAI Responses items (``type``), Anthropic content blocks.
Rules: never raises; never loses text (what has no canonical part is kept as `model.Generic`); content that is no
list of messages stays raw.
"""

from __future__ import annotations

from collections.abc import Callable

from otel_langfuse.dialects.reading import dump, jsonable, load
from otel_langfuse.model import (
    Blob,
    Chat,
    Content,
    File,
    Generic,
    Json,
    Message,
    Part,
    Raw,
    Reasoning,
    Text,
    ToolCall,
    ToolResponse,
    Uri,
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
        return chat if chat is not None else Raw(value)
    if value is None or value in ([], {}):
        return None
    plain = _plain(value)
    chat = _chat(plain, role)
    return chat if chat is not None else Raw(plain if isinstance(plain, str) else dump(plain))


def raw_content(value: Value) -> Content | None:
    """Content kept as given: text stays as it is, structured values become JSON text."""
    if isinstance(value, str):
        return Raw(value) if value else None
    return None if value is None or value in ([], {}) else Raw(dump(jsonable(value)))


def as_parts_text(value: Value) -> Content | None:
    """System instructions: a list of parts, or text, as one system message."""
    parsed = load(value) if isinstance(value, str) else _plain(value)
    if isinstance(parsed, list):
        parts = tuple(part for item in parsed for part in _parts(item))
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


def _looks_like_message(item: Json) -> bool:
    return isinstance(item, dict) and ("role" in item or "parts" in item or _item_kind(item) is not None)


def _chat(parsed: Json, role: str) -> Chat | None:
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items or not all(_looks_like_message(item) for item in items):
        return None
    return Chat(tuple(message(item, role) for item in items if isinstance(item, dict)))


def message(item: dict[str, Json], role: str = "user") -> Message:
    """One message from a dict of any known shape."""
    kind = _item_kind(item)
    if kind is not None and "role" not in item:
        return kind(item)
    given = item.get("role")
    named = str(given) if given else role
    named = _ROLES.get(named.lower(), named)
    parts: list[Part] = []
    call_id = _text(item.get("tool_call_id"))
    if "parts" in item:
        parts += _parts(item["parts"])
    content = item.get("content")
    if named == "tool" and "parts" not in item and content is not None:
        parts.append(ToolResponse(call_id or _text(item.get("id")), _tool_content(content)))
    elif content is not None:
        parts += _parts(content)
    parts += _tool_calls(item.get("tool_calls"))
    if isinstance(item.get("refusal"), str) and item["refusal"]:
        parts.append(Generic({"type": "refusal", "refusal": item["refusal"]}))
    parts += [
        Generic({key: rest})
        for key, rest in item.items()
        if key not in _MESSAGE_KEYS and rest not in (None, "", [], {})
    ]
    return Message(named, tuple(parts), _text(item.get("name")), _text(item.get("finish_reason")))


def _tool_content(content: Json) -> Json:
    """A tool's answer: text blocks become their text, anything else stays."""
    if (
        isinstance(content, list)
        and content
        and all(isinstance(block, dict) and block.get("type") == "text" for block in content)
    ):
        return "\n".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return content


def _tool_calls(calls: Json) -> list[Part]:
    found: list[Part] = []
    for call in calls if isinstance(calls, list) else []:
        if not isinstance(call, dict):
            found.append(Generic(call))
            continue
        function = call.get("function")
        source = function if isinstance(function, dict) else call
        name = _text(source.get("name"))
        if name is None:
            found.append(Generic(call))
        else:
            found.append(ToolCall(_text(call.get("id")), name, source.get("arguments", source.get("args"))))
    return found


# ------------------------------------------------------------------------------ Responses API items


def _function_call(item: dict[str, Json]) -> Message:
    call = ToolCall(
        _text(item.get("call_id")) or _text(item.get("id")), str(item.get("name") or ""), item.get("arguments")
    )
    return Message("assistant", (call,))


def _function_output(item: dict[str, Json]) -> Message:
    return Message("tool", (ToolResponse(_text(item.get("call_id")), item.get("output")),))


def _reasoning_item(item: dict[str, Json]) -> Message:
    return Message("assistant", tuple(_parts([{**item, "type": "reasoning"}])))


_ITEMS: dict[str, Callable[[dict[str, Json]], Message]] = {
    "function_call": _function_call,
    "function_call_output": _function_output,
    "reasoning": _reasoning_item,
}


def _item_kind(item: dict[str, Json]) -> Callable[[dict[str, Json]], Message] | None:
    kind = item.get("type")
    return _ITEMS.get(kind) if isinstance(kind, str) else None


# ----------------------------------------------------------------------------------------------- parts


def _text(value: Json) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _parts(value: Json) -> list[Part]:
    if value is None:
        return []
    if isinstance(value, str):
        return [Text(value)]
    if isinstance(value, list):
        return [_part(item) for item in value]
    return [_part(value)]


def _part(item: Json) -> Part:
    if isinstance(item, str):
        return Text(item)
    if not isinstance(item, dict):
        return Generic(item)
    kind = item.get("type")
    reader = _PARTS.get(kind) if isinstance(kind, str) else None
    part = reader(item) if reader is not None else None
    if part is None and kind is None and isinstance(item.get("text"), str):
        part = Text(str(item["text"]))
    return part if part is not None else Generic(item)


def _text_part(item: dict[str, Json]) -> Part | None:
    content = item.get("content", item.get("text"))
    return Text(content) if isinstance(content, str) else None


def _reasoning_part(item: dict[str, Json]) -> Part | None:
    content = (
        item.get("content") or item.get("summary") or item.get("text") or item.get("reasoning") or item.get("thinking")
    )
    opened = load(content) if isinstance(content, str) and content[:2] == "[{" else content
    if isinstance(opened, list):
        texts = [
            str(block["text"]) for block in opened if isinstance(block, dict) and isinstance(block.get("text"), str)
        ]
        if texts and len(texts) == len(opened):
            return Reasoning("\n".join(texts))
    return Reasoning(content) if isinstance(content, str) else None


def _call_part(item: dict[str, Json]) -> Part | None:
    name = _text(item.get("name"))
    return ToolCall(_text(item.get("id")), name, item.get("arguments", item.get("input"))) if name else None


def _response_part(item: dict[str, Json]) -> Part | None:
    for key in ("response", "result", "content", "output"):
        if key in item:
            return ToolResponse(_text(item.get("id")) or _text(item.get("tool_use_id")), _tool_content(item[key]))
    return None


def _blob_part(item: dict[str, Json]) -> Part | None:
    data = item.get("content", item.get("data"))
    if not isinstance(data, str):
        return None
    mime = _text(item.get("mime_type")) or "application/octet-stream"
    return Blob(mime, _text(item.get("modality")) or mime.split("/")[0], data)


def _uri_part(item: dict[str, Json]) -> Part | None:
    uri = _text(item.get("uri"))
    return Uri(uri, _text(item.get("mime_type")) or "", _text(item.get("modality")) or "") if uri else None


def _file_part(item: dict[str, Json]) -> Part | None:
    file_id = _text(item.get("file_id"))
    return File(file_id, _text(item.get("mime_type")) or "", _text(item.get("modality")) or "") if file_id else None


def _image_url_part(item: dict[str, Json]) -> Part | None:
    image = item.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return _image(url) if isinstance(url, str) and url else None


def _image(url: str) -> Part:
    if url.startswith("data:") and ";base64," in url[:128]:
        head, data = url.split(";base64,", 1)
        return Blob(head[5:] or "image/png", "image", data)
    return Uri(url, "", "image")


def _audio_part(item: dict[str, Json]) -> Part | None:
    audio = item.get("input_audio")
    if not isinstance(audio, dict) or not isinstance(audio.get("data"), str):
        return None
    return Blob(f"audio/{audio.get('format') or 'wav'}", "audio", str(audio["data"]))


def _source_part(item: dict[str, Json]) -> Part | None:
    """An Anthropic image or document block."""
    source = item.get("source")
    if not isinstance(source, dict):
        return _image_url_part(item)
    mime = _text(source.get("media_type")) or ""
    modality = "image" if item.get("type") == "image" else "document"
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return Blob(mime, modality, str(source["data"]))
    if isinstance(source.get("url"), str):
        return Uri(str(source["url"]), mime, modality)
    return None


_PARTS: dict[str, Callable[[dict[str, Json]], Part | None]] = {
    "text": _text_part,
    "input_text": _text_part,
    "output_text": _text_part,
    "reasoning": _reasoning_part,
    "thinking": _reasoning_part,
    "tool_call": _call_part,
    "tool_use": _call_part,
    "tool_call_response": _response_part,
    "tool_result": _response_part,
    "blob": _blob_part,
    "uri": _uri_part,
    "file": _file_part,
    "image_url": _image_url_part,
    "input_image": _image_url_part,
    "input_audio": _audio_part,
    "image": _source_part,
    "document": _source_part,
}

"""Content parts of any shape as canonical parts.

Typed parts (``{"type": …}``) of the GenAI conventions, OpenAI, Anthropic and the Vercel AI SDK; untyped ones of Bedrock
(``text``, ``toolUse``, ``toolResult``) and Google (``functionCall``, ``inlineData``). What has no canonical part is kept as
`model.Generic`, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from otel_langfuse.dialects.json_text import alike, load
from otel_langfuse.model import Blob, File, Generic, Json, Part, Reasoning, Text, ToolCall, ToolResponse, Uri

__all__ = ["as_parts", "plain_parts", "text_of", "tool_answer"]


def text_of(value: Json) -> str | None:
    """A name or id as text; ``None`` when empty."""
    if value is None:
        return None
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def as_parts(value: Json) -> list[Part]:
    """A message's content as parts."""
    if value is None:
        return []
    if isinstance(value, str):
        return [Text(value)]
    if isinstance(value, list):
        # With content capture off some libraries still name the parts' types; that is nothing to show.
        return [_part(item) for item in value if not (isinstance(item, dict) and _says_nothing(item))]
    return [_part(value)]


def plain_parts(value: list[Json]) -> tuple[Part, ...] | None:
    """The parts that `as_parts` finds where each is of the most frequent kinds; ``None`` for all others, and for none.

    Those are text, and the conventions' tool calls and answers, with nothing beside. Every value is looked at, so that it is
    as good as `load`'s even if `glance` has read it.
    """
    found: list[Part] = []
    for item in value:
        if type(item) is not dict:
            return None
        part = item.get("type")
        if part == "text" and len(item) == 2:
            text = item.get("content", item.get("text"))
            if type(text) is not str:
                return None
            found.append(Text(text))
        elif part == "tool_call" and len(item) == 4:
            call_id, name, arguments = item.get("id"), item.get("name"), item.get("arguments")
            if type(call_id) is not str or type(name) is not str or not call_id or not name:
                return None
            if type(arguments) is not str and (arguments is None or not alike(arguments)):
                return None
            found.append(ToolCall(call_id, name, arguments))
        elif part == "tool_call_response" and len(item) == 3:
            call_id, answer = item.get("id"), item.get("response")
            if type(call_id) is not str or type(answer) is not str or not call_id:
                return None
            found.append(ToolResponse(call_id, answer))
        else:
            return None
    return tuple(found) or None


def _says_nothing(item: dict[str, Json]) -> bool:
    return not item or (len(item) == 1 and "type" in item)


def tool_answer(content: Json) -> Json:
    """A tool's answer: wrappings are opened, text blocks become their text, anything else stays."""
    if isinstance(content, dict) and set(content) == {"type", "value"}:
        return content["value"]  # the Vercel AI SDK says what kind of value it is
    if isinstance(content, list) and content and all(_is_text_block(block) for block in content):
        return "\n".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return content


def _is_text_block(block: Json) -> bool:
    return isinstance(block, dict) and isinstance(block.get("text"), str) and block.get("type", "text") == "text"


def _part(item: Json) -> Part:
    if isinstance(item, str):
        return Text(item)
    if not isinstance(item, dict):
        return Generic(item)
    kind = item.get("type")
    if isinstance(kind, str):
        reader = _PARTS.get(kind)
        part = reader(item) if reader is not None else None
    else:
        part = next((found for key, untyped in _UNTYPED if key in item and (found := untyped(item)) is not None), None)
    return part if part is not None else Generic(item)


def _text_part(item: dict[str, Json]) -> Part | None:
    content = item.get("content", item.get("text"))
    return Text(content) if isinstance(content, str) else None


def _reasoning_part(item: dict[str, Json]) -> Part | None:
    content = item.get("content") or item.get("summary") or item.get("text") or item.get("reasoning") or item.get("thinking")
    opened = load(content) if isinstance(content, str) and content[:2] == "[{" else content
    if isinstance(opened, list):
        texts = [str(block["text"]) for block in opened if isinstance(block, dict) and isinstance(block.get("text"), str)]
        if texts and len(texts) == len(opened):
            return Reasoning("\n".join(texts))
    return Reasoning(content) if isinstance(content, str) else None


def _call_part(item: dict[str, Json]) -> Part | None:
    name = text_of(item.get("name")) or text_of(item.get("toolName"))
    call_id = text_of(item.get("id")) or text_of(item.get("toolCallId"))
    return ToolCall(call_id, name, item.get("arguments", item.get("input", item.get("args")))) if name else None


def _response_part(item: dict[str, Json]) -> Part | None:
    call_id = next((found for key in _CALL_IDS if (found := text_of(item.get(key)))), None)
    for key in ("response", "result", "content", "output"):
        if key in item:
            return ToolResponse(call_id, tool_answer(item[key]))
    return None


_CALL_IDS = ("id", "tool_use_id", "toolCallId", "tool_call_id", "call_id")


def _blob_part(item: dict[str, Json]) -> Part | None:
    data = item.get("content", item.get("data"))
    if not isinstance(data, str):
        return None
    mime = text_of(item.get("mime_type")) or "application/octet-stream"
    return Blob(mime, text_of(item.get("modality")) or mime.split("/")[0], data)


def _uri_part(item: dict[str, Json]) -> Part | None:
    uri = text_of(item.get("uri"))
    return Uri(uri, text_of(item.get("mime_type")) or "", text_of(item.get("modality")) or "") if uri else None


def _file_part(item: dict[str, Json]) -> Part | None:
    file_id = text_of(item.get("file_id"))
    return File(file_id, text_of(item.get("mime_type")) or "", text_of(item.get("modality")) or "") if file_id else None


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
    mime = text_of(source.get("media_type")) or ""
    modality = "image" if item.get("type") == "image" else "document"
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return Blob(mime, modality, str(source["data"]))
    if isinstance(source.get("url"), str):
        return Uri(str(source["url"]), mime, modality)
    return None


def _vercel_media(item: dict[str, Json]) -> Part | None:
    """The Vercel AI SDK's image and file parts: data URL, address or base64 text beside a media type."""
    data = item.get("image", item.get("data", item.get("file")))
    mime = text_of(item.get("mediaType")) or text_of(item.get("mimeType")) or ""
    modality = "image" if item.get("type") == "image" else (mime.split("/")[0] or "document")
    if not isinstance(data, str) or not data:
        return None
    if data.startswith(("data:", "http:", "https:")):
        return _image(data) if modality == "image" else Uri(data, mime, modality)
    return Blob(mime or "image/png", modality, data)


def _image_part(item: dict[str, Json]) -> Part | None:
    return _source_part(item) or _vercel_media(item)


def _file_like_part(item: dict[str, Json]) -> Part | None:
    return _file_part(item) or _vercel_media(item)


# ------------------------------------------------------------------------- untyped parts, by their one key


def _bedrock_call(item: dict[str, Json]) -> Part | None:
    call = item.get("toolUse")
    name = text_of(call.get("name")) if isinstance(call, dict) else None
    if not isinstance(call, dict) or name is None:
        return None
    return ToolCall(text_of(call.get("toolUseId")), name, call.get("input"))


def _bedrock_answer(item: dict[str, Json]) -> Part | None:
    answer = item.get("toolResult")
    if not isinstance(answer, dict):
        return None
    content = answer.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict) and "json" in content[0]:
        content = content[0]["json"]
    return ToolResponse(text_of(answer.get("toolUseId")), tool_answer(content))


def _bedrock_reasoning(item: dict[str, Json]) -> Part | None:
    inner = item.get("reasoningContent")
    text = inner.get("reasoningText") if isinstance(inner, dict) else None
    words = text.get("text") if isinstance(text, dict) else text
    return Reasoning(words) if isinstance(words, str) else None


def _google_call(item: dict[str, Json]) -> Part | None:
    call = item.get("functionCall") or item.get("function_call")
    name = text_of(call.get("name")) if isinstance(call, dict) else None
    if not isinstance(call, dict) or name is None:
        return None
    return ToolCall(text_of(call.get("id")), name, call.get("args"))


def _google_answer(item: dict[str, Json]) -> Part | None:
    answer = item.get("functionResponse") or item.get("function_response")
    if not isinstance(answer, dict):
        return None
    return ToolResponse(text_of(answer.get("id")) or text_of(answer.get("name")), answer.get("response"))


def _google_blob(item: dict[str, Json]) -> Part | None:
    inner = item.get("inlineData") or item.get("inline_data")
    if not isinstance(inner, dict) or not isinstance(inner.get("data"), str):
        return None
    mime = text_of(inner.get("mimeType")) or text_of(inner.get("mime_type")) or "application/octet-stream"
    return Blob(mime, mime.split("/")[0], str(inner["data"]))


def _google_thought(item: dict[str, Json]) -> Part | None:
    return Reasoning(str(item["text"])) if item["thought"] is True and isinstance(item.get("text"), str) else None


_UNTYPED: tuple[tuple[str, Callable[[dict[str, Json]], Part | None]], ...] = (
    ("thought", _google_thought),
    ("text", _text_part),
    ("toolUse", _bedrock_call),
    ("toolResult", _bedrock_answer),
    ("reasoningContent", _bedrock_reasoning),
    ("functionCall", _google_call),
    ("function_call", _google_call),
    ("functionResponse", _google_answer),
    ("function_response", _google_answer),
    ("inlineData", _google_blob),
    ("inline_data", _google_blob),
)

_PARTS: dict[str, Callable[[dict[str, Json]], Part | None]] = {
    "text": _text_part,
    "input_text": _text_part,
    "output_text": _text_part,
    "reasoning": _reasoning_part,
    "thinking": _reasoning_part,
    "tool_call": _call_part,
    "tool_use": _call_part,
    "tool-call": _call_part,
    "tool_call_response": _response_part,
    "tool_result": _response_part,
    "tool-result": _response_part,
    "blob": _blob_part,
    "uri": _uri_part,
    "file": _file_like_part,
    "image_url": _image_url_part,
    "input_image": _image_url_part,
    "input_audio": _audio_part,
    "image": _image_part,
    "document": _source_part,
}

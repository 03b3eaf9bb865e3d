"""Canonical messages in the one shape that Langfuse renders: OpenAI chat JSON.

Langfuse counts tool calls from ``tool_calls`` on a message and tool definitions from ``tools`` beside ``messages``
(rules section 9); its playground opens the same shape. Reasoning, images, audio and files keep their part type.
"""

from __future__ import annotations

from collections.abc import Sequence

from otel_langfuse.dialects.reading import dump, load
from otel_langfuse.model import (
    Blob,
    Chat,
    Content,
    File,
    Json,
    Message,
    Part,
    Raw,
    Reasoning,
    Text,
    ToolCall,
    ToolResponse,
    Uri,
)

__all__ = ["input_text", "lifted_text", "output_text"]

_LIFTED_LIMIT = 65_536  # characters of a trace's input or output that stands in for the entry span's own


def input_text(content: Content | None, system: Content | None, tools: Sequence[Json] | None) -> str | None:
    """The value of ``langfuse.observation.input``; ``None`` when there is nothing to show."""
    if isinstance(content, Raw) and not tools and system is None:
        return content.text
    messages = _input_messages(content, system)
    if tools:
        return dump({"messages": messages, "tools": list(tools)})
    return dump(messages) if messages else None


def output_text(content: Content | None) -> str | None:
    """The value of ``langfuse.observation.output``: one message, or a list when there are several choices."""
    if content is None:
        return None
    if isinstance(content, Raw):
        return content.text
    messages = _messages(content.messages)
    if not messages:
        return None
    return dump(messages[0] if len(messages) == 1 else messages)


def lifted_text(content: Content | None) -> str | None:
    """One message of a generation below, for the entry row: cut at 64 KiB, media left out when it does not fit."""
    if content is None:
        return None
    if isinstance(content, Raw):
        return _cut(content.text)
    messages = _messages(content.messages)
    if not messages:
        return None
    text = dump(messages[-1])
    if len(text) <= _LIFTED_LIMIT:
        return text
    words = "\n".join(part.content for message in content.messages for part in message.parts if isinstance(part, Text))
    return dump({"role": content.messages[-1].role, "content": _cut(words or "[media]")})


def _cut(text: str) -> str:
    return text if len(text) <= _LIFTED_LIMIT else f"{text[:_LIFTED_LIMIT]} [cut: {len(text)} characters]"


def _input_messages(content: Content | None, system: Content | None) -> Json:
    given: Json = []
    if isinstance(content, Chat):
        given = _messages(content.messages)
    elif isinstance(content, Raw):
        opened = load(content.text)
        given = opened if isinstance(opened, list) else [{"role": "user", "content": content.text}]
    assert isinstance(given, list)
    if not isinstance(system, Chat):
        return given
    has_system = any(isinstance(item, dict) and item.get("role") in ("system", "developer") for item in given)
    return given if has_system else [*_messages(system.messages), *given]


def _messages(messages: Sequence[Message]) -> list[Json]:
    out: list[Json] = []
    for message in messages:
        out += _message(message)
    return out


def _message(message: Message) -> list[Json]:
    """One message in OpenAI's shape; several when it carries more than one tool answer."""
    parts = message.parts
    if len(parts) == 1 and type(parts[0]) is Text and not message.name:
        return [{"role": message.role, "content": parts[0].content}]
    answers: list[Json] = []
    content: list[Json] = []
    calls: list[Json] = []
    only_text = True
    for part in message.parts:
        if isinstance(part, ToolResponse):
            answers.append(_answer(part))
        elif isinstance(part, ToolCall):
            calls.append(_call(part))
        else:
            only_text = only_text and isinstance(part, Text)
            content.append(_content(part))
    if answers and not content and not calls:
        return answers
    out: dict[str, Json] = {"role": message.role}
    if message.name:
        out["name"] = message.name
    out["content"] = _joined(message.parts) if only_text and len(content) == 1 else content or (None if calls else "")
    if calls:
        out["tool_calls"] = calls
    return [out, *answers]


def _joined(parts: Sequence[Part]) -> str:
    return "\n".join(part.content for part in parts if isinstance(part, Text))


def _answer(part: ToolResponse) -> Json:
    text = part.response if isinstance(part.response, str) else dump(part.response)
    out: dict[str, Json] = {"role": "tool", "content": text}
    if part.id:
        out["tool_call_id"] = part.id
    return out


def _call(part: ToolCall) -> Json:
    arguments = part.arguments if isinstance(part.arguments, str) else dump({} if part.arguments is None else part.arguments)
    out: dict[str, Json] = {"type": "function", "function": {"name": part.name, "arguments": arguments}}
    return {"id": part.id, **out} if part.id else out


def _content(part: Part) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.content}
    if isinstance(part, Reasoning):
        return {"type": "reasoning", "text": part.content}
    if isinstance(part, Blob):
        return _blob(part)
    if isinstance(part, Uri):
        if part.modality == "image":
            return {"type": "image_url", "image_url": {"url": part.uri}}
        return {
            "type": part.modality or "file",
            "uri": part.uri,
            **({"mime_type": part.mime_type} if part.mime_type else {}),
        }
    if isinstance(part, File):
        return {"type": "file", "file": {"file_id": part.file_id}}
    assert not isinstance(part, (ToolCall, ToolResponse))
    return part.value


def _blob(part: Blob) -> Json:
    url = f"data:{part.mime_type};base64,{part.data}"
    if part.modality == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if part.modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": url, "format": part.mime_type.split("/")[-1]}}
    return {"type": "file", "file": {"file_data": url}}

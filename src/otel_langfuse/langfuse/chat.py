"""Canonical messages in the one shape that Langfuse renders: OpenAI chat JSON.

Langfuse counts tool calls from ``tool_calls`` on a message and tool definitions from ``tools`` beside ``messages``
(rules section 9); its playground opens the same shape. Reasoning, images, audio and files keep their part type.
A message that the entry row shows, too, is written once (`model.Message.kept`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from otel_langfuse.dialects.json_text import dump, dump_texts, load
from otel_langfuse.model import (
    Blob,
    Chat,
    Content,
    File,
    Generic,
    Json,
    Message,
    Raw,
    Reasoning,
    Text,
    ToolCall,
    ToolResponse,
    Uri,
)

__all__ = ["input_text", "lifted_text", "output_text"]

_Writer: TypeAlias = Callable[[Json], str]
_INSTRUCTING = ("system", "developer")
_LIFTED_LIMIT = 65_536  # characters of a trace's input or output that stands in for the entry span's own
_MAX_SHARED = 16
_LONGEST_SHARED = 65_536


class _Shared:
    """Texts of what many calls have in common, which is read once (`dialects.constants`) and is therefore one object.

    The last 16 of other objects are held along, too, each until it is pushed out.

    Args:
        write: Makes the text.
    """

    def __init__(self, write: Callable[[Any], str]) -> None:
        self._write = write
        self._known: dict[int, tuple[object, str]] = {}

    def __call__(self, shared: object) -> str:
        """The text of an object."""
        known = self._known.get(id(shared))
        if known is not None and known[0] is shared:
            return known[1]
        text = self._write(shared)
        if len(self._known) >= _MAX_SHARED:
            self._known.clear()
        if len(text) <= _LONGEST_SHARED:
            self._known[id(shared)] = (shared, text)  # the object is held along, so that its id stays its own
        return text


def input_text(content: Content | None, system: Content | None, tools: Sequence[Json] | None) -> str | None:
    """The value of ``langfuse.observation.input``; ``None`` when there is nothing to show."""
    if isinstance(content, Raw) and not tools and system is None:
        return content.text
    if isinstance(content, Chat) and content.messages:
        last = content.messages[-1]
        if last.role not in _INSTRUCTING and (shown := _kept(last)) is not None:
            if len(content.messages) == 1:
                listed = _system_text(system) if isinstance(system, Chat) else ""
            else:
                before, write = _input_messages(Chat(content.messages[:-1]), system)
                listed = write(before) if before else ""
            text = f"{listed[:-1]},{shown}]" if listed[-1:] == "]" else listed or f"[{shown}]"
            return f'{{"messages":{text},"tools":{_tools_text(tools)}}}' if tools else text
    messages, write = _input_messages(content, system)
    if tools:
        return f'{{"messages":{write(messages)},"tools":{_tools_text(tools)}}}'
    return write(messages) if messages else None


def output_text(content: Content | None) -> str | None:
    """The value of ``langfuse.observation.output``: one message, or a list when there are several choices."""
    if content is None:
        return None
    if isinstance(content, Raw):
        return content.text
    if not content.messages:
        return None
    if len(content.messages) == 1 and (shown := _kept(content.messages[0])) is not None:
        return shown
    messages, write = _messages(content.messages)
    return write(messages[0] if len(messages) == 1 else messages)


def lifted_text(content: Content | None) -> str | None:
    """One message of a generation below, for the entry row: cut at 64 KiB, media left out when it does not fit."""
    if content is None:
        return None
    if isinstance(content, Raw):
        return _cut(content.text)
    if not content.messages:
        return None
    last = content.messages[-1]
    text = _fitting(last)
    if text is not None:
        return text
    words = "\n".join(part.content for message in content.messages for part in message.parts if isinstance(part, Text))
    return dump_texts({"role": last.role, "content": _cut(words or "[media]")})


def _kept(message: Message) -> str | None:
    """The text of a message that the entry row shows as it stands here; ``None`` for all others."""
    if message.kept == "":
        _fitting(message)
    return message.kept or None


def _fitting(message: Message) -> str | None:
    """The text of a message, or of the last that it becomes; ``None`` if it does not fit. It is kept if it is shown twice."""
    if message.kept:
        return message.kept
    if _too_large(message):
        return None
    messages, write = _messages((message,))
    text = write(messages[-1])
    if len(text) > _LIFTED_LIMIT:
        return None
    if message.kept is not None and len(messages) == 1:
        message.kept = text
    return text


def _too_large(message: Message) -> bool:
    """Whether a message cannot fit, as far as that can be told without writing it."""
    parts = message.parts
    if len(parts) == 1 and type(parts[0]) is Text:  # nearly all
        return len(parts[0].content) > _LIFTED_LIMIT
    size = 0
    for part in parts:
        if isinstance(part, (Text, Reasoning)):
            size += len(part.content)
        elif isinstance(part, Blob):
            size += len(part.data)
        elif isinstance(part, (ToolResponse, Generic)):
            return False
    return size > _LIFTED_LIMIT


def _cut(text: str) -> str:
    return text if len(text) <= _LIFTED_LIMIT else f"{text[:_LIFTED_LIMIT]} [cut: {len(text)} characters]"


def _input_messages(content: Content | None, system: Content | None) -> tuple[list[Json], _Writer]:
    given: list[Json] = []
    write: _Writer = dump_texts
    if isinstance(content, Chat):
        given, write = _messages(content.messages)
    elif isinstance(content, Raw):
        opened = load(content.text)
        given = opened if isinstance(opened, list) else [{"role": "user", "content": content.text}]
        write = dump
    if not isinstance(system, Chat):
        return given, write
    for item in given:
        if isinstance(item, dict) and item.get("role") in _INSTRUCTING:
            return given, write
    before, first = _messages(system.messages)
    return before + given, write if first is dump_texts else first


def _written(messages: Sequence[Message]) -> str:
    """A list of messages as text; empty without any."""
    found, write = _messages(messages)
    return write(found) if found else ""


_tools_text = _Shared(lambda tools: dump(list(tools)))
_system_text = _Shared(lambda system: _written(system.messages))


def _messages(messages: Sequence[Message]) -> tuple[list[Json], _Writer]:
    """Messages in OpenAI's shape, and what writes them as text: where all values are texts, that need not be checked."""
    out: list[Json] = []
    write: _Writer = dump_texts
    for message in messages:
        parts = message.parts
        if len(parts) == 1 and not message.name:
            part = parts[0]
            if type(part) is Text:
                out.append({"role": message.role, "content": part.content})
                continue
            if type(part) is ToolResponse:
                out.append(_answer(part))
                continue
        out += _message(message)
        for part in parts:
            if type(part) is Generic:
                write = dump
    return out, write


def _message(message: Message) -> list[Json]:
    """One message in OpenAI's shape; several when it carries more than one tool answer."""
    answers: list[Json] = []
    content: list[Json] = []
    calls: list[Json] = []
    texts: list[str] = []
    for part in message.parts:
        if isinstance(part, Text):
            texts.append(part.content)
            content.append({"type": "text", "text": part.content})
        elif isinstance(part, ToolCall):
            calls.append(_call(part))
        elif isinstance(part, ToolResponse):
            answers.append(_answer(part, message.name))
        else:
            content.append(_content(part))
    if answers and not content and not calls:
        return answers
    out: dict[str, Json] = {"role": message.role}
    if message.name:
        out["name"] = message.name
    out["content"] = texts[0] if len(content) == 1 and texts else content or (None if calls else "")
    if calls:
        out["tool_calls"] = calls
    return [out, *answers]


def _answer(part: ToolResponse, name: str | None = None) -> Json:
    text = part.response if isinstance(part.response, str) else dump(part.response)
    out: dict[str, Json] = {"role": "tool", "content": text}
    if name:
        out["name"] = name
    if part.id:
        out["tool_call_id"] = part.id
    return out


def _call(part: ToolCall) -> Json:
    arguments = part.arguments if isinstance(part.arguments, str) else dump({} if part.arguments is None else part.arguments)
    out: dict[str, Json] = {"type": "function", "function": {"name": part.name, "arguments": arguments}}
    return {"id": part.id, **out} if part.id else out


def _content(part: Reasoning | Blob | Uri | File | Generic) -> Json:
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
    return part.value


def _blob(part: Blob) -> Json:
    url = f"data:{part.mime_type};base64,{part.data}"
    if part.modality == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if part.modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": url, "format": part.mime_type.split("/")[-1]}}
    return {"type": "file", "file": {"file_data": url}}

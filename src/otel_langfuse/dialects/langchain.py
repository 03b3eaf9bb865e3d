"""LangChain's own shapes, which several dialects carry: messages, results, and marks of steps.

Source: langchain-core ``messages``, ``load.dump`` (a constructor's ``id`` and ``kwargs``) and ``outputs``.
"""

from __future__ import annotations

from otel_langfuse.model import Json

__all__ = ["STEP_TAGS", "generations", "plain", "plain_message", "response_metadata"]

STEP_TAGS = ("seq:step:", "graph:step:", "map:key:", "langsmith:")
"""Beginnings of tags that the framework sets, not the application."""

_ROLES = {
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
}
# What a message has; something else with a type and content is none.
_FIELDS = frozenset(
    """
    additional_kwargs artifact chunk_position content example id invalid_tool_calls name response_metadata role status
    tool_call_chunks tool_call_id tool_calls type usage_metadata
    """.split()
)
_SUFFIXES = ("MessageChunk", "Message")


def plain_message(item: Json) -> dict[str, Json] | None:
    """A message in OpenAI's shape; ``None`` if it is none of LangChain's."""
    if isinstance(item, list):  # the short form: role and text
        role = _ROLES.get(item[0]) if len(item) == 2 and isinstance(item[0], str) else None
        return {"role": role, "content": item[1]} if role else None
    body, kind = _body(item)
    if body is None or "content" not in body:
        return None
    named = body.get("role") if kind == "chat" else _ROLES.get(kind)
    if not named or not _FIELDS.issuperset(body):
        return None
    said: dict[str, Json] = {"role": named, "content": body["content"]}
    for key in ("tool_calls", "tool_call_id", "name", "invalid_tool_calls", "artifact"):
        if body.get(key):
            said[key] = body[key]
    if body.get("status") == "error":
        said["status"] = "error"
    more = body.get("additional_kwargs")
    for key, item in more.items() if isinstance(more, dict) else ():
        if item not in (None, "", [], {}) and key not in ("tool_calls", "function_call") and key not in said:
            said[key] = item
    return said


def _body(item: Json) -> tuple[dict[str, Json] | None, str]:
    """What a message says, and its type in LangChain's words."""
    if not isinstance(item, dict):
        return None, ""
    if item.get("lc") is None:
        return (item, kind) if isinstance(kind := item.get("type"), str) and "role" not in item else (None, "")
    body, path = item.get("kwargs"), item.get("id")
    if not isinstance(body, dict):
        return None, ""
    kind = body.get("type")
    if not isinstance(kind, str) and isinstance(path, list) and path and isinstance(path[-1], str):
        kind = next((path[-1][: -len(end)] for end in _SUFFIXES if path[-1].endswith(end)), "").lower()
    return body, kind.removesuffix("MessageChunk").lower() if isinstance(kind, str) else ""


def plain(value: Json) -> Json:
    """A value with the messages in it in OpenAI's shape: one, a list of them, or a prompt that holds a list."""
    if isinstance(value, dict):
        inner = value.get("kwargs") if value.get("lc") is not None else None
        if isinstance(inner, dict) and isinstance(inner.get("messages"), list):
            return plain(inner["messages"])
        return plain_message(value) or value
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], list) and value[0] and isinstance(value[0][0], dict):
            return plain(value[0])  # one batch
        return [plain_message(item) or item for item in value]
    return value


def generations(body: Json) -> list[Json]:
    """The answers in a result, the first batch's, in OpenAI's shape."""
    listed = body.get("generations") if isinstance(body, dict) else None
    batch = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], list) else listed
    return [
        plain_message(item.get("message")) or {"role": "assistant", "content": item.get("text")}
        for item in (batch if isinstance(batch, list) else ())
        if isinstance(item, dict)
    ]


def response_metadata(body: dict[str, Json]) -> dict[str, Json]:
    """``response_metadata`` of the first answer in a result; empty without."""
    node: Json = body.get("generations")
    for step in (0, 0, "message", "kwargs", "response_metadata"):
        if isinstance(step, int) and isinstance(node, list) and node:
            node = node[step]
        elif isinstance(step, str) and isinstance(node, dict):
            node = node.get(step)
        else:
            return {}
    return node if isinstance(node, dict) else {}

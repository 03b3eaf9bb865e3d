"""The stub's Responses API bodies: request in, answer or events out, nothing sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from otel_langfuse.testing._stub_chat import content_text, dated, token
from otel_langfuse.testing._stub_model import Message, Prompt, Tool, Turn, pieces, take_turn

__all__ = ["answer_responses", "read_responses", "stream_responses"]

Body = Mapping[str, Any]


def read_responses(body: Body) -> Prompt:
    """Reduces a Responses API request to a prompt."""
    messages: list[Message] = []
    if body.get("instructions"):
        messages.append(Message("system", content_text(body["instructions"])))
    given = body.get("input") or ""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    messages.extend(_message(item) for item in items)
    chosen = body.get("tool_choice", "auto")
    tools = [tool for tool in body.get("tools") or [] if tool.get("type") == "function"]
    if isinstance(chosen, Mapping) and chosen.get("name"):
        tools = [tool for tool in tools if tool["name"] == chosen["name"]]
    wanted = (body.get("text") or {}).get("format") or {}
    return Prompt(
        messages=tuple(messages),
        tools=() if chosen == "none" else tuple(Tool(t["name"], t.get("parameters") or {}) for t in tools),
        parallel=body.get("parallel_tool_calls") is not False,
        schema=wanted.get("schema") if wanted.get("type") == "json_schema" else None,
        max_tokens=body.get("max_output_tokens"),
    )


def _message(item: Body) -> Message:
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return Message("tool", content_text(item.get("output")))
    if kind == "function_call":
        return Message("assistant", str(item.get("arguments", "")))
    return Message(str(item.get("role", "assistant")), content_text(item.get("content")))


def answer_responses(body: Body, number: int, created: int) -> dict[str, Any]:
    """The body of a whole answer; ``number`` is the request's, so that ids differ."""
    turn = take_turn(read_responses(body))
    return _response(body, turn, number, created, output=_items(turn, number))


def stream_responses(body: Body, number: int, created: int) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer, in OpenAI's order; each has its type and sequence number."""
    turn = take_turn(read_responses(body))
    sequence = count()
    items = _items(turn, number)

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "sequence_number": next(sequence), **fields}

    started = _response(body, turn, number, created, output=None)
    yield event("response.created", response=started)
    yield event("response.in_progress", response=started)
    for index, item in enumerate(items):
        place = {"output_index": index}
        yield event("response.output_item.added", item=_opened(item), **place)
        for kind, fields in _item_events(item):
            yield event(kind, item_id=item["id"], **place, **fields)
        yield event("response.output_item.done", item=item, **place)
    done = _response(body, turn, number, created, output=items)
    yield event("response.incomplete" if turn.cut else "response.completed", response=done)


def _item_events(item: Body) -> Iterator[tuple[str, dict[str, Any]]]:
    if item["type"] == "function_call":
        kind = "response.function_call_arguments"
        for piece in pieces(item["arguments"]):
            yield f"{kind}.delta", {"delta": piece}
        yield f"{kind}.done", {"name": item["name"], "arguments": item["arguments"]}
    elif item["type"] == "message":
        part = item["content"][0]
        place = {"content_index": 0}
        yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
        for piece in pieces(part["text"]):
            yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
        yield "response.content_part.done", {**place, "part": part}


def _opened(item: Body) -> dict[str, Any]:
    """The item as it is announced: nothing in it yet."""
    opened = {**item, **({"status": "in_progress"} if "status" in item else {})}
    empty: dict[str, Any] = {"arguments": "", "content": []}
    return {name: empty.get(name, value) for name, value in opened.items()}


def _items(turn: Turn, number: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if turn.reasoning_tokens:
        summary = [{"type": "summary_text", "text": "Thinking about what was asked."}]
        items.append({"id": "rs_" + token("reasoning", number, length=48), "type": "reasoning", "summary": summary})
    for i, call in enumerate(turn.tool_calls):
        items.append(
            {
                "id": "fc_" + token("function call", number, i, length=48),
                "type": "function_call",
                "status": "completed",
                "call_id": "call_" + token("call", number, i),
                "name": call.name,
                "arguments": call.arguments,
            }
        )
    if not turn.tool_calls:
        items.append(
            {
                "id": "msg_" + token("message", number, length=48),
                "type": "message",
                "status": "incomplete" if turn.cut else "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": turn.text}],
            }
        )
    return items


def _response(body: Body, turn: Turn, number: int, created: int, *, output: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The response object; without ``output`` it has only just begun."""
    done = output is not None
    status = "in_progress" if not done else "incomplete" if turn.cut else "completed"
    return {
        "id": "resp_" + token("response", number, length=48),
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "completed_at": created if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": dated(str(body["model"])),
        "output": output or [],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": _usage(turn) if done else None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def _usage(turn: Turn) -> dict[str, Any]:
    return {
        "input_tokens": turn.input_tokens,
        "input_tokens_details": {"cached_tokens": turn.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": turn.output_tokens,
        "output_tokens_details": {"reasoning_tokens": turn.reasoning_tokens},
        "total_tokens": turn.input_tokens + turn.output_tokens,
    }

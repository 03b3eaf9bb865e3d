"""The stub's Chat Completions and Embeddings bodies: request in, answer out, nothing sent."""

from __future__ import annotations

import base64
import hashlib
import math
import random
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from otel_langfuse.testing._stub_model import Message, Prompt, Tool, ToolCall, Turn, count_tokens, pieces, take_turn

__all__ = ["answer_chat", "answer_embeddings", "content_text", "dated", "read_chat", "stream_chat", "token"]

Body = Mapping[str, Any]

_DATE = "-2025-08-07"
_DIMENSIONS = {"text-embedding-3-large": 3072}
_PIECE = 12


def token(*parts: object, length: int = 24) -> str:
    """A fixed run of letters and digits for ``parts``, as ids and fingerprints have them."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:length]


def dated(model: str) -> str:
    """The model name in the answer: the requested name with the date of its snapshot."""
    return model if model.endswith(_DATE) else model + _DATE


def content_text(content: object) -> str:
    """The text of a message's content, which is text or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return " ".join(str(part.get("text", part.get("type", ""))) for part in content if isinstance(part, Mapping))


def read_chat(body: Body) -> Prompt:
    """Reduces a Chat Completions request to a prompt."""
    chosen = body.get("tool_choice", "auto")
    tools = [tool["function"] for tool in body.get("tools") or [] if tool.get("type") == "function"]
    if isinstance(chosen, Mapping):
        tools = [tool for tool in tools if tool["name"] == chosen.get("function", {}).get("name")]
    wanted = body.get("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema", {}) if wanted.get("type") == "json_schema" else None
    return Prompt(
        messages=tuple(Message(str(m.get("role")), content_text(m.get("content"))) for m in body["messages"]),
        tools=() if chosen == "none" else tuple(Tool(t["name"], t.get("parameters") or {}) for t in tools),
        parallel=body.get("parallel_tool_calls") is not False,
        schema={"properties": {"answer": {"type": "string"}}} if wanted.get("type") == "json_object" else schema,
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
    )


def answer_chat(body: Body, number: int, created: int) -> dict[str, Any]:
    """The body of a whole answer; ``number`` is the request's, so that ids differ."""
    turn = take_turn(read_chat(body))
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": None if turn.tool_calls else turn.text,
                **({"tool_calls": _calls(turn, number, index)} if turn.tool_calls else {}),
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": _finish(turn),
        }
        for index in range(_count(body))
    ]
    return {**_envelope("chat.completion", body, number, created), "choices": choices, "usage": _usage(turn, body)}


def stream_chat(body: Body, number: int, created: int) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed answer, without the final ``[DONE]``."""
    turn = take_turn(read_chat(body))
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    envelope = _envelope("chat.completion.chunk", body, number, created)
    if with_usage:
        envelope["usage"] = None

    def chunk(index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return {**envelope, "choices": [choice]}

    choices = range(_count(body))
    for index in choices:
        yield chunk(index, {"role": "assistant", "content": None if turn.tool_calls else "", "refusal": None})
    for index in choices:
        if turn.tool_calls:
            for delta in _call_deltas(turn, number, index):
                yield chunk(index, {"tool_calls": [delta]})
        for piece in pieces(turn.text):
            yield chunk(index, {"content": piece})
    for index in choices:
        yield chunk(index, {}, _finish(turn))
    if with_usage:
        yield {**envelope, "choices": [], "usage": _usage(turn, body)}


def answer_embeddings(body: Body) -> dict[str, Any]:
    """The body of an embeddings answer: unit vectors that depend on the text only."""
    given = body["input"]
    inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    model = str(body["model"])
    size = int(body.get("dimensions") or _DIMENSIONS.get(model, 1536))
    as_base64 = body.get("encoding_format") == "base64"
    tokens = sum(count_tokens(item) if isinstance(item, str) else len(item) for item in inputs)
    data = []
    for index, item in enumerate(inputs):
        vector = _vector(str(item), size)
        encoded = base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _envelope(kind: str, body: Body, number: int, created: int) -> dict[str, Any]:
    return {
        "id": "chatcmpl-" + token("chat", number),
        "object": kind,
        "created": created,
        "model": dated(str(body["model"])),
        "service_tier": "default",
        "system_fingerprint": "fp_" + token(body["model"], length=10),
    }


def _usage(turn: Turn, body: Body) -> dict[str, Any]:
    output = turn.output_tokens * _count(body)
    return {
        "prompt_tokens": turn.input_tokens,
        "completion_tokens": output,
        "total_tokens": turn.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": turn.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": turn.reasoning_tokens * _count(body),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _count(body: Body) -> int:
    return int(body.get("n") or 1)


def _finish(turn: Turn) -> str:
    if turn.tool_calls:
        return "tool_calls"
    return "length" if turn.cut else "stop"


def _call(call: ToolCall, *key: object) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": "call_" + token("call", *key), "type": "function", "function": function}


def _calls(turn: Turn, number: int, choice: int) -> list[dict[str, Any]]:
    return [_call(call, number, choice, i) for i, call in enumerate(turn.tool_calls)]


def _call_deltas(turn: Turn, number: int, choice: int) -> Iterator[dict[str, Any]]:
    """A call comes with its id and name first, then its arguments in pieces that carry only the index."""
    for i, call in enumerate(turn.tool_calls):
        first = _call(ToolCall(call.name, ""), number, choice, i)
        yield {"index": i, **first}
        for start in range(0, len(call.arguments), _PIECE):
            yield {"index": i, "function": {"arguments": call.arguments[start : start + _PIECE]}}


def _vector(text: str, size: int) -> array[float]:
    source = random.Random(text)  # noqa: S311 -- the same text has to give the same vector
    values = [source.gauss(0.0, 1.0) for _ in range(size)]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return array("f", (value / norm for value in values))

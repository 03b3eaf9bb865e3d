"""A stub of Anthropic's Messages API on a local port: plain and streamed answers, tool calls, errors, cached tokens.

What it says is fixed by the request, as with the OpenAI stub. Words in the prompt change the bill:

=====================  ================================================================
``TRIGGER_CACHED``     1024 tokens read from the cache, beside the other input tokens
``TRIGGER_WRITTEN``    1500 tokens written to the cache, likewise
=====================  ================================================================

A model whose name starts with ``no-such-`` does not exist: 404.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from otel_langfuse.testing._stub_model import Message, Prompt, Tool, Turn, pieces, take_turn
from otel_langfuse.testing.http_server import Handler, HttpEndpoint, Received

__all__ = ["Billed", "StubAnthropic"]

_WRITTEN = 1500
_FIRST_TOKEN_DELAY = 0.02
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Billed:
    """A request, its answer, and what that cost in tokens: exclusive counts. A failure has neither."""

    body: Mapping[str, Any] = field(repr=False)
    blocks: Sequence[Mapping[str, Any]] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)


class StubAnthropic(HttpEndpoint):
    """The stub; a context manager. ``url`` is what belongs into ``ANTHROPIC_BASE_URL``."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self.bill: list[Billed] = []

    def handle(self, handler: Handler, request: Received) -> None:
        """Answers a request for a message; anything else does not exist."""
        self._note(request)
        body = json.loads(request.payload) if request.path.partition("?")[0] == "/v1/messages" else {}
        model = str(body.get("model", "no-such-path"))
        if model.startswith("no-such-"):
            self._charge(Billed(body))
            error = {"type": "error", "error": {"type": "not_found_error", "message": f"model: {model}"}}
            handler.reply(404, _JSON, json.dumps(error).encode())
            return
        turn = take_turn(_prompt(body))
        number = next(self._numbers)
        usage, blocks = _usage(turn, body), _blocks(turn, number)
        self._charge(Billed(body, blocks, usage))
        message = {
            "id": f"msg_{number:024}",
            "type": "message",
            "role": "assistant",
            "model": f"{model}-20261101",
            "content": blocks,
            "stop_reason": "tool_use" if turn.tool_calls else "end_turn",
            "stop_sequence": None,
            "usage": {**usage, "service_tier": "standard"},
        }
        if not body.get("stream"):
            handler.reply(200, _JSON, json.dumps(message).encode())
            return
        handler.send_response_only(200)
        handler.send_header("content-type", "text/event-stream; charset=utf-8")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        self.stopping.wait(_FIRST_TOKEN_DELAY)
        for event in _events(message):
            handler.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def _charge(self, billed: Billed) -> None:
        with self._lock:
            self.bill.append(billed)


def _texts(content: object) -> str:
    """The text of a message, which is text or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return " ".join(str(block.get("text") or _texts(block.get("content"))) for block in blocks)


def _role(message: Mapping[str, Any]) -> str:
    content = message["content"]
    told = isinstance(content, list) and any(block["type"] == "tool_result" for block in content)
    return "tool" if told else str(message["role"])


def _prompt(body: Mapping[str, Any]) -> Prompt:
    said = [Message("system", _texts(body["system"]))] if body.get("system") else []
    said += [Message(_role(message), _texts(message["content"])) for message in body["messages"]]
    tools = tuple(Tool(tool["name"], tool["input_schema"]) for tool in body.get("tools", ()))
    return Prompt(tuple(said), tools)


def _usage(turn: Turn, body: Mapping[str, Any]) -> dict[str, int]:
    """As Anthropic counts: what was read from or written to the cache is not among the input tokens."""
    return {
        "input_tokens": turn.input_tokens - turn.cached_tokens,
        "cache_creation_input_tokens": _WRITTEN if "TRIGGER_WRITTEN" in json.dumps(body) else 0,
        "cache_read_input_tokens": turn.cached_tokens,
        "output_tokens": turn.output_tokens,
    }


def _blocks(turn: Turn, number: int) -> list[dict[str, Any]]:
    if not turn.tool_calls:
        return [{"type": "text", "text": turn.text, "citations": None}]
    return [
        {"type": "tool_use", "id": f"toolu_{number:020}{index:04}", "name": call.name, "input": json.loads(call.arguments)}
        for index, call in enumerate(turn.tool_calls)
    ]


def _events(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {"content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield {"type": "message_start", "message": {**message, **begun}}
    for index, block in enumerate(message["content"]):
        is_text = block["type"] == "text"
        blank: dict[str, Any] = {"text": ""} if is_text else {"input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": {**block, **blank}}
        for piece in pieces(block["text"] if is_text else json.dumps(block["input"])):
            delta = {"type": "text_delta", "text": piece} if is_text else {"type": "input_json_delta", "partial_json": piece}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": message["usage"]["output_tokens"]},
    }
    yield {"type": "message_stop"}

"""An application of the Anthropic SDK, which traces itself, under the launcher with an instrumentation of it."""

from __future__ import annotations

from typing import Any

import anthropic
from dialect_application import play, scenario
from dialect_prompts import FAILING, SYSTEM, get_weather, said

MODEL = "claude-opus-5"
TOOL: Any = {
    "name": "get_weather",
    "description": get_weather.__doc__,
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def request(name: str, question: str = "", model: str = MODEL) -> Any:
    asked = [{"role": "user", "content": said(name, question)}]
    return {"model": model, "max_tokens": 200, "system": SYSTEM, "messages": asked}


@scenario()
def chat() -> None:
    client.messages.create(**request("chat"))


@scenario(bare=True)
def bare_chat() -> None:
    client.messages.create(**request("bare_chat", "TRIGGER_CACHED"))


@scenario()
def cached() -> None:
    client.messages.create(**request("cached", "TRIGGER_CACHED TRIGGER_WRITTEN"))


@scenario()
def stream() -> None:
    answer = client.messages.create(**request("stream", "TRIGGER_CACHED TRIGGER_WRITTEN"), stream=True)
    assert len(list(answer)) > 3


@scenario(bare=True)
def bare_stream() -> None:
    assert len(list(client.messages.create(**request("bare_stream"), stream=True))) > 3


@scenario()
def helper_stream() -> None:
    with client.messages.stream(**request("helper_stream", "TRIGGER_CACHED")) as answer:
        assert "stub model's answer" in "".join(answer.text_stream)


@scenario()
def lost_stream() -> None:
    """Below a ``with`` the instrumentation loses the stream it wraps, and its span never ends."""
    with client.messages.create(**request("lost_stream", "TRIGGER_CACHED"), stream=True) as answer:
        assert len(list(answer)) > 3


@scenario()
def tools() -> None:
    asked = request("tools", "Is it warmer in Paris or in Rome?")
    answer = client.messages.create(**asked, tools=[TOOL])
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": get_weather(**block.input)}
        for block in answer.content
        if block.type == "tool_use"
    ]
    spoken = [block.model_dump(include={"type", "id", "name", "input"}) for block in answer.content]
    asked["messages"] += [{"role": "assistant", "content": spoken}, {"role": "user", "content": results}]
    client.messages.create(**asked, tools=[TOOL])


@scenario()
def failure() -> None:
    try:
        client.messages.create(**request("failure", model=FAILING))
    except anthropic.NotFoundError:
        return
    raise AssertionError("the stub knows no such model")


if __name__ == "__main__":
    with anthropic.Anthropic(max_retries=0) as client:
        play()

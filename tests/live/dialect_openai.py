"""An application of the OpenAI SDK, traced by the instrumentation that ``INSTRUMENTATION`` names."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import openai
from dialect_application import play, scenario, tracing
from dialect_prompts import FAILING, MODEL, SYSTEM, get_weather, said

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": get_weather.__doc__,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def messages(name: str, question: str = "") -> Any:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said(name, question)}]


@scenario()
def chat() -> None:
    asked = messages("chat", "TRIGGER_CACHED TRIGGER_REASONING")
    client.chat.completions.create(model=MODEL, messages=asked, temperature=0.5)


@scenario(bare=True)
def bare_chat() -> None:
    client.chat.completions.create(model=MODEL, messages=messages("bare_chat"))


@scenario()
def stream() -> None:
    asked = messages("stream", "TRIGGER_CACHED TRIGGER_REASONING")
    with client.chat.completions.create(
        model=MODEL, messages=asked, stream=True, stream_options={"include_usage": True}
    ) as answer:
        assert len(list(answer)) > 3


@scenario()
def coroutine_stream() -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI() as asynchronous:
            answer = await asynchronous.chat.completions.create(
                model=MODEL,
                messages=messages("coroutine_stream"),
                stream=True,
                stream_options={"include_usage": True},
            )
            assert len([chunk async for chunk in answer]) > 3

    asyncio.run(ask())


@scenario()
def tools() -> None:
    asked = messages("tools", "Is it warmer in Paris or in Rome?")
    answer = client.chat.completions.create(model=MODEL, messages=asked, tools=[TOOL]).choices[0].message
    asked.append(answer.model_dump(exclude_none=True))
    for call in answer.tool_calls or []:
        result = get_weather(**json.loads(call.function.arguments))
        asked.append({"role": "tool", "tool_call_id": call.id, "content": result})
    client.chat.completions.create(model=MODEL, messages=asked, tools=[TOOL])


@scenario()
def responses() -> None:
    client.responses.create(model=MODEL, instructions=SYSTEM, input=said("responses"))


@scenario()
def embeddings() -> None:
    client.embeddings.create(model="text-embedding-3-small", input=said("embeddings"))


@scenario()
def failure() -> None:
    try:
        client.chat.completions.create(model=FAILING, messages=messages("failure"))
    except openai.NotFoundError:
        return
    raise AssertionError("the stub knows no such model")


def instrument() -> None:
    provider = tracing()
    if os.environ["INSTRUMENTATION"] == "openlit":
        import openlit

        # It takes the global provider that it finds. Without a price list of ours it downloads one.
        openlit.init(pricing_json=os.environ["PRICES"], disable_metrics=True)
    else:
        from openinference.instrumentation.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=provider)


if __name__ == "__main__":
    instrument()
    with openai.OpenAI(max_retries=0) as client:
        play()

"""An application that uses the OpenAI SDK in every way, one trace for each; it runs in a process of its own.

It sets up no tracing. The last line it prints is a JSON object: for each scenario the trace id, and for each of its
calls the response id and the tokens that the API put on the bill. ``SCENARIOS`` names those to run, else all run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
from opentelemetry import trace
from pydantic import BaseModel

from otel_langfuse import propagate_attributes

MODEL = "gpt-4o-mini"
SYSTEM = "SYSTEM-INSTRUCTION-TEXT be brief"
USER = "USER-PROMPT-TEXT"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "TOOL-DESCRIPTION-TEXT the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCENARIOS: dict[str, Callable[[], list[Any]]] = {}


class Capital(BaseModel):
    city: str
    inhabitants: int


def scenario(run: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    SCENARIOS[run.__name__] = run
    return run


def messages(text: str) -> Any:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{USER} {text}"}]


@scenario
def plain() -> list[Any]:
    urllib.request.urlopen(os.environ["PING_URL"]).close()
    return [client.chat.completions.create(model=MODEL, messages=messages("plain"), temperature=0.5)]


@scenario
def coroutine() -> list[Any]:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI() as asynchronous:
            calls = (
                asynchronous.chat.completions.create(model=MODEL, messages=messages(f"coroutine {number}"))
                for number in range(2)
            )
            return list(await asyncio.gather(*calls))

    return asyncio.run(ask())


@scenario
def streaming() -> list[Any]:
    with client.chat.completions.create(
        model=MODEL, messages=messages("streaming"), stream=True, stream_options={"include_usage": True}
    ) as stream:
        return [list(stream)[-1]]


@scenario
def streaming_coroutine() -> list[Any]:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI() as asynchronous:
            stream = await asynchronous.chat.completions.create(
                model=MODEL,
                messages=messages("streaming coroutine"),
                stream=True,
                stream_options={"include_usage": True},
            )
            return [[chunk async for chunk in stream][-1]]

    return asyncio.run(ask())


@scenario
def tools() -> list[Any]:
    said = messages("Is it warmer in Paris or in Rome?")
    first = client.chat.completions.create(model=MODEL, messages=said, tools=[TOOL])
    said.append(first.choices[0].message.model_dump(exclude_none=True))
    for call in first.choices[0].message.tool_calls or []:
        city = json.loads(call.function.arguments)["city"]
        said.append({"role": "tool", "tool_call_id": call.id, "content": f"TOOL-RESULT-TEXT {city} 20 degrees"})
    return [first, client.chat.completions.create(model=MODEL, messages=said, tools=[TOOL])]


@scenario
def structured() -> list[Any]:
    return [client.chat.completions.parse(model=MODEL, messages=messages("structured Oslo"), response_format=Capital)]


@scenario
def failure() -> list[Any]:
    try:
        client.chat.completions.create(model="no-such-model", messages=messages("failure"))
    except openai.NotFoundError:
        return []
    raise AssertionError("the stub knows no such model")


@scenario
def responses() -> list[Any]:
    return [client.responses.create(model=MODEL, instructions=SYSTEM, input=f"{USER} responses")]


@scenario
def embeddings() -> list[Any]:
    return [client.embeddings.create(model="text-embedding-3-small", input="EMBEDDED-TEXT of four words")]


def main() -> None:
    tracer = trace.get_tracer("application")
    told: dict[str, Any] = {}
    chosen = os.environ.get("SCENARIOS", "").split(",")
    for name, run in SCENARIOS.items():
        if chosen != [""] and name not in chosen:
            continue
        with (
            propagate_attributes(user_id="ada", session_id=f"session-{name}"),
            tracer.start_as_current_span(f"scenario {name}") as span,
            tracer.start_as_current_span("application noise"),
        ):
            answers = run()
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        calls = [{"id": getattr(answer, "id", ""), "tokens": answer.usage.total_tokens} for answer in answers]
        told[name] = {"trace_id": trace_id, "calls": calls}
    print(json.dumps({"done_at": time.time(), "scenarios": told}), flush=True)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    client = openai.OpenAI(max_retries=0)
    main()
    client.close()

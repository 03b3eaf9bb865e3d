"""An application of Pydantic AI: an agent with one tool, asked in every way, in the default instrumentation version."""

from __future__ import annotations

import asyncio

from dialect_application import play, scenario, tracing
from dialect_prompts import FAILING, MODEL, SYSTEM, get_weather, said
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError

QUESTION = "Is it warmer in Paris or in Rome?"


def agent(model: str = MODEL) -> Agent[None, str]:
    return Agent(f"openai-chat:{model}", instructions=SYSTEM, name="weather_agent", tools=[get_weather])


@scenario()
def run() -> None:
    agent().run_sync(said("run", f"{QUESTION} TRIGGER_CACHED TRIGGER_REASONING"))


@scenario(bare=True)
def bare_run() -> None:
    agent().run_sync(said("bare_run", QUESTION))


@scenario()
def stream() -> None:
    async def ask() -> None:
        async with agent().run_stream(said("stream", QUESTION)) as answer:
            assert "TOOL-RESULT-TEXT" in await answer.get_output()

    asyncio.run(ask())


@scenario()
def failure() -> None:
    try:
        agent(FAILING).run_sync(said("failure", QUESTION))
    except ModelHTTPError:
        return
    raise AssertionError("the stub knows no such model")


if __name__ == "__main__":
    tracing()
    Agent.instrument_all()
    play()

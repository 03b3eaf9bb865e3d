"""An application of LangChain under two instrumentations at once: of LangChain, and of the OpenAI SDK below it."""

from __future__ import annotations

import contextlib
from typing import Any

import openai
from dialect_application import play, scenario, tracing
from dialect_prompts import FAILING, MODEL, SYSTEM, get_weather, said
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openinference.instrumentation.langchain import LangChainInstrumentor
from openinference.instrumentation.openai import OpenAIInstrumentor

PROMPT = ChatPromptTemplate.from_messages([("system", SYSTEM), ("user", "{question}")])
WEATHER = tool(get_weather)


def model(name: str = MODEL) -> ChatOpenAI:
    return ChatOpenAI(model=name, max_retries=0, stream_usage=True)


def asking() -> Runnable[Any, str]:
    """Prompt, model with tools, tools, model again."""

    def use_tools(given: Any) -> Any:
        question = PROMPT.invoke(given).to_messages()
        answer = model().bind_tools([WEATHER]).invoke(question)
        assert isinstance(answer, AIMessage)
        return [*question, answer, *(WEATHER.invoke(call) for call in answer.tool_calls)]

    return (RunnableLambda(use_tools) | model() | StrOutputParser()).with_config(run_name="weather_chain")


@scenario()
def chain() -> None:
    (PROMPT | model() | StrOutputParser()).invoke({"question": said("chain", "TRIGGER_CACHED TRIGGER_REASONING")})


@scenario(bare=True)
def bare_chain() -> None:
    (PROMPT | model() | StrOutputParser()).invoke({"question": said("bare_chain")})


@scenario()
def tools() -> None:
    asking().invoke({"question": said("tools", "Is it warmer in Paris or in Rome?")})


@scenario(bare=True)
def bare_tools() -> None:
    asking().invoke({"question": said("bare_tools", "Is it warmer in Paris or in Rome?")})


@scenario()
def stream() -> None:
    asked = {"question": said("stream", "TRIGGER_CACHED TRIGGER_REASONING")}
    assert len(list((PROMPT | model() | StrOutputParser()).stream(asked))) > 3


@scenario(bare=True)
def bare_stream() -> None:
    assert len(list((PROMPT | model() | StrOutputParser()).stream({"question": said("bare_stream")}))) > 3


@scenario()
def embeddings() -> None:
    OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False).embed_query(said("embeddings"))


@scenario()
def failure() -> None:
    with contextlib.suppress(openai.NotFoundError):
        (PROMPT | model(FAILING)).invoke({"question": said("failure")})
        raise AssertionError("the stub knows no such model")


if __name__ == "__main__":
    provider = tracing()
    LangChainInstrumentor().instrument(tracer_provider=provider)
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    play()

"""A small travel assistant: a FastAPI app with a database, an HTTP call and the OpenAI SDK.

    POST /ask {"text": "Is it warmer in Paris or in Rome?", "user": "ada", "session": "trip-7"}

Nothing in here sets up tracing. ``opentelemetry-instrument`` and environment variables do; ``propagate_attributes``
says whose request it is, so that user and session stand on every row in Langfuse.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
from contextlib import closing, suppress
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from openai import OpenAI, OpenAIError
from opentelemetry import trace
from pydantic import BaseModel

from otel_langfuse import propagate_attributes

CHAT_MODEL = "gpt-4o-mini"
EMBEDDING_MODEL = "text-embedding-3-small"
WEATHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

app = FastAPI(title="Travel assistant")
client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY


class Question(BaseModel):
    """What is asked, by whom, in which conversation."""

    text: str
    user: str = "ada"
    session: str = "trip-7"


class Answer(BaseModel):
    """The answer, and the id of the trace that both copies share."""

    text: str
    trace_id: str


@app.post("/ask")
def ask(question: Question) -> Answer:
    """Answers a question: two queries, one HTTP call and five calls of models, one of which fails."""
    with propagate_attributes(user_id=question.user, session_id=question.session, tags=["demo"], trace_name="travel-assistant"):
        remember(question)
        check_weather_service()
        find_similar(question.text)
        facts = find_facts(question.text)
        answer = write_answer(question.text, facts)
        return Answer(text=shorten(answer), trace_id=current_trace_id())


def remember(question: Question) -> None:
    """Writes the question into a database: spans that Tempo gets and Langfuse does not."""
    with closing(sqlite3.connect(":memory:")) as database:
        cursor = database.cursor()
        cursor.execute("CREATE TABLE questions (user TEXT, text TEXT)")
        cursor.execute("INSERT INTO questions VALUES (?, ?)", (question.user, question.text))


def check_weather_service() -> None:
    """Calls another service over HTTP: likewise only in Tempo."""
    httpx.get(os.environ.get("WEATHER_URL", "https://example.com")).raise_for_status()


def find_similar(text: str) -> list[float]:
    """Embeds the question."""
    return client.embeddings.create(model=EMBEDDING_MODEL, input=text).data[0].embedding


def find_facts(text: str) -> str:
    """Lets the model call the weather tool, then lets it sum up the results."""
    messages: list[Any] = [
        {"role": "system", "content": "You collect facts for a travel assistant."},
        {"role": "user", "content": text},
    ]
    reply = client.chat.completions.create(model=CHAT_MODEL, messages=messages, tools=[WEATHER_TOOL]).choices[0].message
    messages.append(reply.model_dump(exclude_none=True))
    for call in reply.tool_calls or []:
        if call.type == "function":
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    final = client.chat.completions.create(model=CHAT_MODEL, messages=messages, tools=[WEATHER_TOOL])
    return final.choices[0].message.content or ""


def get_weather(city: str) -> str:
    """The weather, made up from the city's name."""
    return f"{city}: {10 + len(city)} degrees, sunny"


def write_answer(text: str, facts: str) -> str:
    """Streams the answer; the usage comes with the stream's last chunk."""
    messages: Any = [
        {"role": "system", "content": "You are a travel assistant. Be brief."},
        {"role": "user", "content": f"{text} {facts}"},
    ]
    with client.chat.completions.create(
        model=CHAT_MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
    ) as stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def shorten(text: str) -> str:
    """Asks a model that does not exist, to show what a failed call looks like; keeps the text as it is."""
    messages: Any = [{"role": "user", "content": f"Shorten: {text}"}]
    try:
        reply = client.chat.completions.create(model="no-such-model", messages=messages)
    except OpenAIError:
        return text
    return reply.choices[0].message.content or text


def current_trace_id() -> str:
    """The trace's id as Tempo and Langfuse show it."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)


def main() -> None:
    """Serves on the port in ``DEMO_PORT``, or on a free one, and prints its address."""
    # Uvicorn ends gracefully on SIGTERM and then raises it again, which would skip all that runs at exit: the flush.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.create_server(("127.0.0.1", int(os.environ.get("DEMO_PORT", "0")))) as listener:
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()

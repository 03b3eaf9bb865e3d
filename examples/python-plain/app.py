"""A service with nothing of tracing in it: it asks a model, which calls a tool, and streams the answer.

curl 'localhost:8080/ask?question=Is+it+warmer+in+Paris+or+in+Rome%3F'
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from openai import OpenAI

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

app = FastAPI()
client = OpenAI()  # reads OPENAI_API_KEY and OPENAI_BASE_URL


@app.get("/ask")
def answer(question: str) -> str:
    """Answers a question in two calls."""
    messages: list[Any] = [
        {"role": "system", "content": "You are a travel assistant. Be brief."},
        {"role": "user", "content": question},
    ]
    asked = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER]).choices[0].message
    messages.append(asked.model_dump(exclude_none=True))
    for call in asked.tool_calls or []:
        city = json.loads(call.function.arguments)["city"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"{city}: {10 + len(city)} degrees, sunny"})
    stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True})
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


if __name__ == "__main__":
    # Uvicorn raises the signal again when it is done, which would skip the flush of what has not been sent yet.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "8080")))) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])

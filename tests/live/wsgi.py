"""A WSGI application for a server with several worker processes: each request is one call of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import openai
from opentelemetry import trace

from otel_langfuse import propagate_attributes

client = openai.OpenAI(max_retries=0)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    text = environ["PATH_INFO"]
    with (
        propagate_attributes(metadata={"worker": str(os.getpid())}),
        trace.get_tracer("application").start_as_current_span(f"GET {text}"),
    ):
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": f"path {text}"}])
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]

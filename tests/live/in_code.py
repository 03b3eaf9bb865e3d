"""An application that sets tracing up in code, with two processors, and has the OpenAI SDK instrumented by a setting."""

from __future__ import annotations

import json

import openai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_langfuse import LangfuseSpanProcessor, propagate_attributes


def main() -> None:
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    provider.add_span_processor(LangfuseSpanProcessor())
    LangfuseSpanProcessor()  # a second one must not instrument again
    with (
        openai.OpenAI(max_retries=0) as client,
        propagate_attributes(user_id="ada"),
        trace.get_tracer("application").start_as_current_span("turn"),
    ):
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "PROMPT-TEXT"}])
    print(json.dumps({"done_at": 0, "scenarios": {}}))


if __name__ == "__main__":
    main()

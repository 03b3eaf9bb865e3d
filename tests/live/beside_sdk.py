"""An application with the Langfuse SDK and otel-langfuse in one process; ``CASE`` says how they meet."""

from __future__ import annotations

import json
import os

import langfuse
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_langfuse import LangfuseSpanExporter, LangfuseSpanProcessor


def main() -> None:
    case = os.environ["CASE"]
    own = {"base_url": os.environ["LANGFUSE_BASE_URL"], "secret_key": os.environ["LANGFUSE_SECRET_KEY"]}
    public_key = "pk-lf-other" if case == "another project" else os.environ["LANGFUSE_PUBLIC_KEY"]
    if case != "exporter only" and not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(LangfuseSpanProcessor())
        trace.set_tracer_provider(provider)
    exporter = LangfuseSpanExporter() if "exporter" in case else None
    client = langfuse.Langfuse(public_key=public_key, span_exporter=exporter, **own)
    with (
        client.start_as_current_observation(name="turn", as_type="span"),
        client.start_as_current_observation(
            name="answer",
            as_type="generation",
            model="gpt-4o-mini",
            input=[{"role": "user", "content": "asked by the SDK"}],
            output="answered by the SDK",
            usage_details={"input": 3, "output": 4},
        ),
    ):
        pass
    client.flush()
    print(json.dumps({"done_at": 0, "scenarios": {}}))


if __name__ == "__main__":
    main()

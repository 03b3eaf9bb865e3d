"""What the applications of the dialect tests share: tracing set up in code, and one session for each scenario.

An application registers scenarios and calls ``play``. A scenario that is not ``bare`` runs below a span of the
application's own; below a bare one the library's first span is the root. The last line printed is a JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_langfuse import LangfuseSpanProcessor, propagate_attributes

__all__ = ["play", "scenario", "tracing"]

_SCENARIOS: list[tuple[Callable[[], Any], bool]] = []


def tracing() -> TracerProvider:
    """The global provider, made as an application makes it: both copies, each by a processor of its own."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    provider.add_span_processor(LangfuseSpanProcessor())
    trace.set_tracer_provider(provider)
    return provider


def scenario(*, bare: bool = False) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a function; its name is the scenario's."""

    def register(run: Callable[[], Any]) -> Callable[[], Any]:
        _SCENARIOS.append((run, bare))
        return run

    return register


def play() -> None:
    """Runs every scenario."""
    tracer = trace.get_tracer("application")
    for run, bare in _SCENARIOS:
        name = run.__name__
        with (
            propagate_attributes(user_id="ada", session_id=name),
            nullcontext() if bare else tracer.start_as_current_span(f"scenario {name}"),
        ):
            run()
    print(json.dumps({"done_at": time.time(), "scenarios": {run.__name__: {} for run, _ in _SCENARIOS}}), flush=True)

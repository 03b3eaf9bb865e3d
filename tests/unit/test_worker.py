"""The engine's worker: what it makes of spans does not depend on how many it takes at a time."""

from __future__ import annotations

import threading
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_langfuse import LangfuseSpanProcessor
from otel_langfuse.model import SpanView
from otel_langfuse.sdk import worker
from otel_langfuse.testing import ScriptedTransport

ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {},
    {"http.route": "/ask", "http.request.method": "POST"},
    {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"},
    {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 3},
    {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"},
)
LATER: tuple[dict[str, Any], ...] = (
    {},
    {"gen_ai.operation.name": "chat", "gen_ai.response.id": "response-1"},
    {"gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"why?"}]}]', "session.id": "session-1"},
)
SCOPES = ("app", "opentelemetry.instrumentation.openai_v2", "openlit.otel")

# What an application does next: start a span below another one (or none), or end one; by number, as far as there are any.
starts = st.tuples(st.just("start"), st.integers(-1, 30), st.sampled_from(ATTRIBUTES), st.sampled_from(SCOPES))
ends = st.tuples(st.just("end"), st.integers(0, 30), st.sampled_from(LATER), st.just(""))


class Ids(IdGenerator):
    """The same ids each time."""

    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    generate_trace_id = generate_span_id


def rows_of(steps: list[tuple[str, int, dict[str, Any], str]]) -> list[bytes]:
    """The spans that Langfuse gets, in one thread: no other one can be had, as when an interpreter goes down."""
    transport = ScriptedTransport()
    provider = TracerProvider(resource=Resource({}), id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(
        LangfuseSpanProcessor(public_key="pk-lf-1", secret_key="sk-lf-1", transport=transport, compression="none")
    )
    spans: list[Any] = []
    for clock, (what, number, attributes, scope) in enumerate(steps, 1):
        if what == "start":
            context = set_span_in_context(spans[number]) if 0 <= number < len(spans) else None
            tracer = provider.get_tracer(scope)
            spans.append(tracer.start_span(f"span {len(spans)}", context, attributes=attributes, start_time=clock))
        elif number < len(spans) and spans[number].is_recording():
            spans[number].set_attributes(attributes)
            spans[number].end(clock)
    for span in reversed(spans):  # a placeholder for one that stays open would show the time of day
        if span.is_recording():
            span.end(len(steps) + 1)
    provider.shutdown()
    return sorted(spans_in(transport))


def spans_in(transport: ScriptedTransport) -> list[bytes]:
    return [
        span.SerializeToString(deterministic=True)
        for body in transport.bodies
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("no_threads")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(starts | ends, min_size=1, max_size=60), st.sampled_from([2, 7, 64]))
def test_how_many_spans_are_taken_at_a_time_changes_nothing(steps: Any, handful: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_HANDFUL", 1)
        alone = rows_of(steps)
        patch.setattr(worker, "_HANDFUL", handful)
        assert rows_of(steps) == alone


def flushing_provider(at: int) -> tuple[TracerProvider, ScriptedTransport]:
    """A provider whose filter flushes when it is asked for the ``at``-th time; and what is sent."""
    asked: list[str] = []

    def flushing(view: SpanView) -> None:
        asked.append(view.name)
        if len(asked) == at:
            processor.force_flush(0)

    transport = ScriptedTransport()
    processor = LangfuseSpanProcessor(
        public_key="pk-lf-1", secret_key="sk-lf-1", transport=transport, compression="none", should_export=flushing
    )
    provider = TracerProvider(resource=Resource({}), id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider, transport


@pytest.mark.usefixtures("no_threads")
def test_a_flush_from_within_a_filter_goes_on_where_the_worker_is() -> None:
    provider, transport = flushing_provider(2)
    tracer = provider.get_tracer("app")
    agent = tracer.start_span("agent", attributes=ATTRIBUTES[2])
    for number in range(20):
        tracer.start_span(f"tool {number}", set_span_in_context(agent), attributes=ATTRIBUTES[4]).end()
    agent.end()
    provider.shutdown()
    found = [Span.FromString(row) for row in spans_in(transport)]
    assert len(found) == 21
    agent_id = agent.get_span_context().span_id.to_bytes(8, "big")
    assert {span.parent_span_id for span in found if span.name.startswith("search")} == {agent_id}


@pytest.mark.usefixtures("no_threads")
def test_a_flush_from_within_a_filter_leaves_the_trace_in_hand_as_it_is() -> None:
    provider, transport = flushing_provider(1)
    caller = SpanContext(trace_id=7, span_id=9, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    below = set_span_in_context(NonRecordingSpan(caller))
    tracer = provider.get_tracer("app")
    spans = [tracer.start_span(name, below, attributes=ATTRIBUTES[2]) for name in ("first", "second")]
    for span in spans:
        span.end()
    provider.shutdown()
    parents = [Span.FromString(row).parent_span_id for row in spans_in(transport)]
    assert len(parents) == 2
    assert parents.count(b"") == 1


def test_what_the_worker_has_in_hand_counts_as_lost_when_shutdown_gives_up() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waiting(_: SpanView) -> None:
        begun.set()
        go_on.wait(30)

    processor = LangfuseSpanProcessor(
        public_key="pk-lf-1", secret_key="sk-lf-1", transport=ScriptedTransport(), should_export=waiting
    )
    provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("app")
    for number in range(150):  # more entries than wake the worker
        tracer.start_span(f"chat {number}", attributes=ATTRIBUTES[3]).end()
    assert begun.wait(10)
    assert processor.engine is not None
    processor.engine.shutdown(0.1)
    try:
        assert processor.status()["dropped"] == {"shutdown": 149}  # all but the one that is being handled
    finally:
        go_on.set()

"""The encoder for SDK spans says what the SDK's reference encoder says, whatever is on the span."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from otel_langfuse.langfuse.wire import assemble
from otel_langfuse.otlp.content import Content
from otel_langfuse.otlp.encode import SpanEncoder
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.entry import Signal
from support import case_id, cases, load, sdk_spans

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = st.one_of(
    st.none(), texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=20)
)
nested = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)), max_leaves=8
)
homogeneous = st.one_of(
    st.lists(texts, max_size=3).map(tuple), st.lists(st.integers(-5, 2**40), max_size=3).map(tuple), st.lists(st.floats(0, 1))
)
attributes = st.dictionaries(keys, st.one_of(scalars, homogeneous, nested), max_size=6)
ids = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
    st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), st.just("v"), max_size=3).map(
        lambda pairs: TraceState(list(pairs.items()))
    ),
)
schemas = st.one_of(st.none(), st.just(""), st.just("https://opentelemetry.io/schemas/1.30.0"))


def encoded(spans: Sequence[ReadableSpan], encoder: SpanEncoder | None = None) -> ExportTraceServiceRequest:
    encoder = encoder or SpanEncoder(Content())
    return ExportTraceServiceRequest.FromString(assemble([done for span in spans if (done := encoder.encode(span))]))


class Ids(IdGenerator):
    """Always the same."""

    def __init__(self, trace_id: int, span_id: int) -> None:
        self._trace_id, self._span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def generate_span_id(self) -> int:
        return self._span_id


@st.composite
def ended_spans(draw: Any) -> ReadableSpan:
    """A span as an SDK with narrow limits makes it, so that some things are dropped."""
    limits = SpanLimits(max_attributes=4, max_events=2, max_links=2, max_event_attributes=2, max_link_attributes=2)
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        id_generator=Ids(draw(st.integers(1, 2**128 - 1)), draw(st.integers(1, 2**64 - 1))),
        resource=Resource(draw(attributes), draw(schemas)),
        span_limits=limits,
        shutdown_on_exit=False,
    )
    tracer = provider.get_tracer(
        draw(texts), draw(st.one_of(st.none(), texts)), schema_url=draw(schemas), attributes=draw(attributes)
    )
    parent = draw(st.one_of(st.none(), ids))
    span = tracer.start_span(
        draw(texts),
        context=set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None,
        kind=draw(st.sampled_from(list(SpanKind))),
        attributes=draw(attributes),
        links=[Link(draw(ids), draw(attributes)) for _ in range(draw(st.integers(0, 3)))],
        start_time=draw(st.integers(0, 2**63)),
    )
    assert isinstance(span, Span)
    for _ in range(draw(st.integers(0, 3))):
        span.add_event(draw(texts), draw(attributes), draw(st.integers(1, 2**63)))
    code = draw(st.sampled_from(list(StatusCode)))
    span.set_status(Status(code, draw(st.one_of(st.none(), texts)) if code is StatusCode.ERROR else None))
    span.end(draw(st.integers(1, 2**63)))
    provider.shutdown()
    return span


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The SDK says what it drops; here that is what is asked for."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(span=ended_spans())
def test_every_span_reads_as_from_the_reference(span: ReadableSpan) -> None:
    assert encoded([span]) == encode_spans([span])


def made(given_: Mapping[str, Any] | None = None, name: str = "span", **more: Any) -> ReadableSpan:
    context = SpanContext(1, 2, False, TraceFlags(1))
    scope = more.pop("scope", InstrumentationScope("lib"))
    return ReadableSpan(name, context, attributes=given_, start_time=1, end_time=2, instrumentation_scope=scope, **more)


@given(st.floats())
@example(float("nan"))
@example(float("-inf"))
def test_every_float_keeps_its_bits(value: float) -> None:
    span = made({"x": value})
    assert encoded([span]).SerializeToString(deterministic=True) == encode_spans([span]).SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [1, 2**70], {"a": {"b": 2**64}}, object(), {1, 2}])
def test_a_value_that_otlp_cannot_hold_costs_its_attribute_and_is_counted(value: object) -> None:
    span = made({"before": 1, "x": value, "after": "2"})
    encoder = SpanEncoder(Content())
    assert encoded([span], encoder) == encode_spans([span])
    assert encoder.unfit == 1
    (group,) = encoded([span]).resource_spans
    assert [pair.key for pair in group.scope_spans[0].spans[0].attributes] == ["before", "after"]


def test_what_no_reader_of_protobuf_would_take_costs_its_attribute() -> None:
    value: Any = "core"
    for _ in range(2000):
        value = [value]
    encoder = SpanEncoder(Content())
    (group,) = encoded([made({"x": value, "y": 1})], encoder).resource_spans
    assert [pair.key for pair in group.scope_spans[0].spans[0].attributes] == ["y"]
    assert encoder.unfit == 1


def test_a_lone_surrogate_becomes_a_question_mark_where_the_reference_gives_up() -> None:
    span = made({"k\ud800": "v\ud800", "list": ["\udfff"], "map": {"\ud800": "\ud800"}}, name="n\ud800")
    (group,) = encoded([span]).resource_spans
    (found,) = group.scope_spans[0].spans
    assert found.name == "n?"
    assert [pair.key for pair in found.attributes] == ["k?", "list", "map"]
    assert found.attributes[0].value.string_value == "v?"
    assert found.attributes[1].value.array_value.values[0].string_value == "?"
    assert found.attributes[2].value.kvlist_value.values[0].key == "?"


def test_spans_of_one_resource_and_scope_stand_together_as_in_the_reference() -> None:
    homes = [Resource({"service.name": name}, "https://schema") for name in "ab"]
    scopes = [InstrumentationScope(name, "1", url) for name in "xy" for url in ("", "https://scope")]
    spans = [made(name=f"{n}", resource=homes[n % 2], scope=scopes[n % 4]) for n in range(16)]
    spans.append(made(name="no scope", resource=homes[0], scope=None))
    assert encoded(spans) == encode_spans(spans)


def test_what_is_remembered_of_resources_never_belongs_to_another() -> None:
    encoder = SpanEncoder(Content())
    for number in range(600):
        span = made(resource=Resource({"number": number}), scope=InstrumentationScope(f"scope {number}"))
        assert encoded([span], encoder) == encode_spans([span])
        del span
        gc.collect(0)
    assert len(encoder._resources) < 600  # its bound


def test_a_span_without_a_context_is_left_out() -> None:
    assert SpanEncoder(Content()).encode(ReadableSpan("nothing", None)) is None


RULES = ["drop", "truncate: 0", "truncate: 7", "truncate: 100"]


@pytest.mark.parametrize("case", cases("*"), ids=case_id)
def test_content_leaves_as_it_does_from_bytes(case: Any) -> None:
    """The policy within the pass and the sidecar's policy on finished bytes give the same."""
    spans = sdk_spans(load(case)[0])
    assert encoded(spans) == encode_spans(spans)
    whole = encode_spans(spans).SerializeToString()
    for rule in RULES:
        wanted = ExportTraceServiceRequest.FromString(Policy(content=rule).apply(Signal.TRACES, whole, len(spans)).payload)
        assert encoded(spans, SpanEncoder(Content(rule))) == wanted


def test_the_given_span_keeps_its_content() -> None:
    given_ = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": "secret",
        "llm.invocation_parameters": '{"tools": [1], "temperature": 1}',
    }
    span = made(given_)
    before = dict(span.attributes or {})
    encoded([span], SpanEncoder(Content("drop")))
    assert dict(span.attributes or {}) == before

"""What the encoder remembers of names, keys and values changes nothing: each span reads as the first time, and as from the
SDK's reference encoder, whatever came before it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, TraceFlags

from otel_langfuse.dialects.merge import may_be_genai
from otel_langfuse.langfuse.wire import assemble
from otel_langfuse.model import EventView, SpanView
from otel_langfuse.otlp.content import Content, looks_genai
from otel_langfuse.otlp.encode import SpanEncoder
from otel_langfuse.sidecar.destinations.policy import Policy
from otel_langfuse.sidecar.entry import Signal

HOME, SCOPE = Resource.get_empty(), InstrumentationScope("lib")
CONTEXT = SpanContext(1, 2, False, TraceFlags(1))


class Word(str):
    """Equal to its text, and no ``str`` to those who ask for the type."""

    __slots__ = ()


# Equal to each other in Python, different in OTLP; and neighbours of every bound of a length's bytes.
ALIKE: list[Any] = [0, False, 0.0, -0.0, 1, True, 1.0, "1", b"1", Word("1"), None, float("nan"), 2**53, float(2**53)]
LISTS: list[Any] = [(), [], (1,), (True,), (1.0,), ("1",), ["1"], ("1", 1), ("1", True), (0.0,), (-0.0,), ({"a": 1},), ([1],)]
PAIRS: list[Any] = [{}, {"a": 1}, {"a": True}, {"a": "1"}, {"b" * 300: "1"}, {1: 1}, {"a": {"a": (1, "1", None)}}]
NUMBERS: list[Any] = [127, 128, 2**14 - 1, 2**14, 2**63 - 1, -1, -(2**63), 2**63, 1e300]
LENGTHS = [0, 90, 100, *range(110, 131), 160, 161, 2**14 - 30, 2**14, 2**14 + 5]
TEXTS: list[Any] = ["x" * length for length in LENGTHS] + ["ü" * 70, "語" * 43, ("語" * 60,), ("x" * 126, "x" * 200)]
VALUES = [*ALIKE, *LISTS, *PAIRS, *NUMBERS, *TEXTS]
KEYS = ["k", "ke", "größe", "k" * 112, "k" * 116, "k" * 130, "k" * 161, "k" * 17_000]

values = st.sampled_from(VALUES)
mappings = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The reference says what it drops."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def made(attributes: Mapping[str, Any], name: str = "span", **more: Any) -> ReadableSpan:
    scope = more.pop("scope", SCOPE)
    return ReadableSpan(
        name, CONTEXT, resource=HOME, attributes=attributes, start_time=1, end_time=2, instrumentation_scope=scope, **more
    )


def through_sdk(mappings: Sequence[Mapping[str, Any]]) -> list[ReadableSpan]:
    """Spans as a processor gets them."""
    provider = TracerProvider(sampler=ALWAYS_ON, resource=HOME, shutdown_on_exit=False)
    tracer = provider.get_tracer("lib")
    ended = []
    for attributes in mappings:
        span: Any = tracer.start_span("span", attributes=dict(attributes), links=[Link(CONTEXT, attributes)], start_time=1)
        span.add_event("event", dict(attributes), 1)
        span.end(2)
        ended.append(span._readable_span())
    provider.shutdown()
    return ended


def same_bits(spans: Sequence[ReadableSpan], encoder: SpanEncoder, times: int = 2) -> None:
    """Compares bytes, since a message with 0.0 equals one with -0.0."""
    wanted = [encode_spans([span]).SerializeToString(deterministic=True) for span in spans]
    for _ in range(times):
        found = [assemble([done]) for span in spans if (done := encoder.encode(span)) is not None]
        assert [ExportTraceServiceRequest.FromString(one).SerializeToString(deterministic=True) for one in found] == wanted


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mappings, min_size=1, max_size=8))
@example([{"k": value, "list": (value,), "map": {"a": value, "b": [value]}} for value in VALUES])
def test_what_is_remembered_changes_nothing(given_: list[dict[str, Any]]) -> None:
    events = [[Event("event", attributes, 1)] for attributes in given_]
    same_bits(
        [made(a, events=e, links=[Link(CONTEXT, a)]) for a, e in zip(given_, events, strict=True)], SpanEncoder(Content())
    )
    same_bits(through_sdk(given_), SpanEncoder(Content()))


@pytest.mark.parametrize("first", [*ALIKE, *LISTS, *PAIRS], ids=repr)
def test_whatever_a_key_held_first_its_values_keep_their_types(first: Any) -> None:
    same_bits([made({"k": value}) for value in [first, *VALUES, *reversed(VALUES)]], SpanEncoder(Content()))


@pytest.mark.parametrize("value", [1, 2**63 - 1, -1, 0.5, True, "", "x" * 10, "x" * 127, "x" * 2**14, ("1",), {"a": 1}])
def test_keys_of_all_lengths(value: Any) -> None:
    encoder = SpanEncoder(Content())
    same_bits([made({"k" * length: value, "map": {"k" * length: value}}) for length in range(1, 170)], encoder, times=1)
    # Values that are remembered are written in another place than those that are not.
    wrong: Any = None if value == "" else ""
    encoder = SpanEncoder(Content())
    same_bits([made({"k" * length: item}) for length in range(1, 170) for item in (wrong, value)], encoder)


def within_bounds(encoder: SpanEncoder) -> None:
    for known in (encoder._attributes, encoder._event_attributes):
        assert len(known._keys) <= 1024
        assert max(map(len, known._keys), default=0) <= 160
        assert known._values == sum(len(key.values) for key in known._keys.values()) <= 4096
        assert known._heads_known == sum(len(key.heads) for key in known._keys.values()) <= 4096
        assert all(len(key.values) <= 64 for key in known._keys.values())
    for names in (encoder._names, encoder._event_names):
        assert len(names) <= 1024
        assert max(map(len, names), default=0) <= 128


@pytest.mark.parametrize("kind", [str, int, lambda number: (str(number),), lambda number: number % 2 == 0], ids=str)
def test_a_key_with_more_values_than_are_remembered(kind: Any) -> None:
    encoder = SpanEncoder(Content())
    same_bits([made({"id": kind(number), "constant": "chat"}) for number in range(300)], encoder)
    # Rarely a new value, often one that is known: its room is cleared and fills again.
    same_bits([made({"id": "new", "slow": kind(number // 40)}) for number in range(40 * 130)], encoder, times=1)
    within_bounds(encoder)
    assert encoder._attributes._keys["constant"].values


def test_more_keys_and_values_than_are_remembered() -> None:
    encoder = SpanEncoder(Content())
    spans = [made({f"key {number}": f"value {value}" for number in range(100)}) for value in range(60)]
    same_bits(spans, encoder)
    within_bounds(encoder)
    spans = [made({f"made up {number}": "value", "constant": "chat", "k" * number: 1}) for number in range(2000)]
    same_bits(spans, encoder)
    within_bounds(encoder)


def test_more_names_than_are_remembered() -> None:
    encoder = SpanEncoder(Content())
    names: list[Any] = [
        None,
        "",
        "n" * 127,
        "n" * 128,
        "n" * 129,
        "n" * 20_000,
        *(f"GET /items/{number}" for number in range(1500)),
    ]
    same_bits([made({}, name, events=[Event(name, {}, 1)]) for name in names[:10]], encoder)
    within_bounds(encoder)
    same_bits([made({}, name, events=[Event(name, {}, 1)]) for name in names], encoder)
    within_bounds(encoder)


def test_a_span_that_shows_less_than_it_holds_is_taken_at_its_word() -> None:
    class Masked(ReadableSpan):
        @property
        def attributes(self) -> Any:
            return dict.fromkeys(self._attributes or {}, "***")

    class MaskedEvent(Event):
        @property
        def attributes(self) -> Any:
            return {"said": "***"}

    whole = through_sdk([{"said": "secret"}])[0]
    events = BoundedList(None)
    events.append(MaskedEvent("event", whole._attributes, 1))
    inner: dict[str, Any] = {"attributes": whole._attributes, "events": events, "links": BoundedList(None)}
    span = Masked("span", CONTEXT, resource=HOME, instrumentation_scope=SCOPE, **inner)
    same_bits([span, whole, span], SpanEncoder(Content()))
    done = SpanEncoder(Content()).encode(span)
    assert done is not None
    assert b"secret" not in done.span


KEYED = [
    "gen_ai.prompt.0.content",
    "gen_ai.prompt.0.role",
    "input",
    "custom.query",
    "custom.role",
    "role",
    "db.statement",
    "n" * 9000,
    "m" * 9000,
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(KEYED), st.sampled_from(["a" * 300, 5, ("a" * 300,)]), max_size=3),
            st.sampled_from(["gen_ai.user.message", "gen_ai.client.inference.operation.details", "exception", "other"]),
            st.sampled_from(["lib", "logfire", "logfire" + "x" * 300]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["drop", "truncate: 5"]),
)
def test_what_leaves_does_not_depend_on_what_came_before(given_: list[tuple[dict[str, Any], str, str]], rule: str) -> None:
    """The sidecar's policy on finished bytes says the same of each span alone."""
    encoder = SpanEncoder(Content(rule))
    for attributes, event, scope in given_:
        span = made(attributes, events=[Event(event, attributes, 1)], scope=InstrumentationScope(scope))
        whole = encode_spans([span]).SerializeToString()
        done = encoder.encode(span)
        assert done is not None
        wanted = Policy(content=rule).apply(Signal.TRACES, whole, 1).payload
        assert ExportTraceServiceRequest.FromString(assemble([done])) == ExportTraceServiceRequest.FromString(wanted)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["", "lib", "logfire", "logfire" + "x" * 300]),
    st.lists(st.sampled_from(["llm.model_name", "a", "b", "n" * 20_000]), unique=True),
    st.lists(st.sampled_from(["gen_ai.choice", "exception"]), max_size=2),
)
def test_a_span_looks_as_its_scope_keys_and_events_do(scope: str, keys_: list[str], events: list[str]) -> None:
    seen = [EventView(name, 0, {}) for name in events]
    view = SpanView(b"", b"", b"", False, "", 0, 0, 0, dict.fromkeys(keys_), seen, scope_name=scope)
    assert looks_genai(scope, iter(keys_), iter(events)) == may_be_genai(view)

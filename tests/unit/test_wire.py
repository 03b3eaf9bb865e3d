"""The encoder writes what opentelemetry-proto reads: same fields, same order, whatever the values."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_langfuse.langfuse.wire import EncodedSpan, assemble, encode_resource, encode_scope, encode_span

# Lone surrogates included: they come from json.loads('"\\ud800"') and from undecodable file names.
texts = st.text(st.characters(), max_size=40)
integers = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(texts, st.booleans(), integers, st.floats(), st.lists(texts, max_size=4))
attributes = st.dictionaries(texts, values, max_size=6)
times = st.integers(0, 2**64 - 1)
parents = st.one_of(st.just(b""), st.binary(min_size=8, max_size=8))


def clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def read(value: AnyValue) -> object:
    if value.HasField("array_value"):
        return [item.string_value for item in value.array_value.values]
    return getattr(value, value.WhichOneof("value"))


def same(found: object, given_: object) -> bool:
    if isinstance(given_, float) and math.isnan(given_):
        return isinstance(found, float) and math.isnan(found)
    if isinstance(given_, str):
        given_ = clean(given_)
    if isinstance(given_, list):
        given_ = [clean(item) for item in given_]
    return type(found) is type(given_) and found == given_


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parent=parents,
    name=texts,
    kind=st.integers(0, 5),
    times_=st.tuples(times, times),
    given_=attributes,
    code=st.integers(0, 2),
    message=texts,
)
def test_span_reads_back(
    parent: bytes, name: str, kind: int, times_: tuple[int, int], given_: dict[str, object], code: int, message: str
) -> None:
    encoded = encode_span(
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_id=parent,
        name=name,
        kind=kind,
        start_ns=times_[0],
        end_ns=times_[1],
        attributes=given_,  # type: ignore[arg-type]
        status_code=code,
        status_message=message,
    )
    span = Span.FromString(encoded)
    assert (span.trace_id, span.span_id, span.parent_span_id) == (b"t" * 16, b"s" * 8, parent)
    assert (span.name, span.kind) == (clean(name), kind)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == times_
    assert [item.key for item in span.attributes] == [clean(key) for key in given_]
    for item, value in zip(span.attributes, given_.values(), strict=True):
        assert item.HasField("value")
        assert same(read(item.value), value)
    assert (span.status.code, span.status.message) == (code, clean(message))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_=attributes, name=texts, version=texts)
@example(given_={"\ud800": "a\udfff", "n": -(2**63), "m": 2**63 - 1, "e": []}, name="\ud800", version="")
def test_resource_and_scope_read_back(given_: dict[str, object], name: str, version: str) -> None:
    resource = Resource.FromString(encode_resource(given_))  # type: ignore[arg-type]
    assert [item.key for item in resource.attributes] == [clean(key) for key in given_]
    assert all(same(read(item.value), value) for item, value in zip(resource.attributes, given_.values(), strict=True))
    scope = InstrumentationScope.FromString(encode_scope(name, version))
    assert (scope.name, scope.version) == (clean(name), clean(version))


def encoded(resource: str, scope: str, name: str) -> EncodedSpan:
    span = encode_span(
        trace_id=b"t" * 16,
        span_id=name.encode().rjust(8, b"0"),
        parent_id=b"",
        name=name,
        kind=1,
        start_ns=1,
        end_ns=2,
        attributes={},
        status_code=0,
        status_message="",
    )
    return EncodedSpan(b"t" * 16, b"s" * 8, encode_resource({"service.name": resource}), encode_scope(scope, "1"), span)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=12))
def test_request_groups_by_resource_and_scope(homes: list[tuple[str, str]]) -> None:
    """Each span is under its own resource and scope, in order of arrival; no group comes twice."""
    spans = [encoded(resource, scope, str(index)) for index, (resource, scope) in enumerate(homes)]
    payload = ExportTraceServiceRequest.FromString(assemble(spans))
    found = {
        (group.resource.attributes[0].value.string_value, scoped.scope.name): [span.name for span in scoped.spans]
        for group in payload.resource_spans
        for scoped in group.scope_spans
    }
    expected: dict[tuple[str, str], list[str]] = {}
    for index, home in enumerate(homes):
        expected.setdefault(home, []).append(str(index))
    assert found == expected
    assert len(payload.resource_spans) == len({resource for resource, _ in homes})


def test_a_root_has_no_parent_field() -> None:
    """Langfuse takes eight zero bytes for a parent."""
    assert b"\x22\x08" not in encoded("r", "s", "n").span


def test_size_is_what_a_span_adds() -> None:
    one, two = encoded("r", "s", "a"), encoded("r", "s", "b")
    assert len(assemble([one, two])) - len(assemble([one])) <= two.size

"""Decoding what comes in: a view says what the protobuf says, whatever kind its values have."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_langfuse.views.otlp import parse_traces

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def fill(target: AnyValue, value: Any) -> None:
    """Sets the kind that a Python value stands for; ``None``: no kind."""
    if value is None:
        return
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bytes):
        target.bytes_value = value
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for item in value:
            fill(target.array_value.values.add(), item)
    else:
        target.kvlist_value.SetInParent()
        for key, item in value.items():
            fill(target.kvlist_value.values.add(key=key).value, item)


def exactly(value: Any) -> str:
    """Tells apart what compares as equal: 0, 0.0, False, and the order of keys."""
    return repr(value)


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.dictionaries(st.text(), VALUES, max_size=2))
def test_attributes_come_out_as_they_went_in(attributes: dict[str, Any], of_event: dict[str, Any]) -> None:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(trace_id=bytes(range(16)), span_id=bytes(range(8)))
    event = span.events.add(name="e", time_unix_nano=1)
    for target, given_ in ((span.attributes, attributes), (event.attributes, of_event)):
        for key, value in given_.items():
            fill(target.add(key=key).value, value)
    (view,) = parse_traces(request.SerializeToString())
    assert view is not None
    assert exactly(view.attributes) == exactly(attributes)
    assert exactly(view.events[0].attributes) == exactly(of_event)


@given(
    st.just(bytes(range(16))) | st.binary(max_size=20),
    st.just(bytes(range(8))) | st.binary(max_size=10),
    st.sampled_from([b"", bytes(8), bytes(7), b"12345678", b"123456789"]),
    st.integers(0, 2**32 - 1),
    st.integers(-3, 9),
    st.none() | st.integers(-3, 9),
    st.text(),
)
def test_what_a_span_says_of_itself(
    trace_id: bytes, span_id: bytes, parent: bytes, flags: int, kind: int, code: int | None, message: str
) -> None:
    request = ExportTraceServiceRequest()
    scoped = request.resource_spans.add().scope_spans.add()
    scoped.scope.name, scoped.scope.version = "scope", "1"
    span = scoped.spans.add(trace_id=trace_id, span_id=span_id, parent_span_id=parent, flags=flags, name=message)
    span.kind = kind
    if code is not None:
        span.status.code = code
        span.status.message = message
    (view,) = parse_traces(request.SerializeToString())
    if len(trace_id) != 16 or len(span_id) != 8:
        assert view is None
        return
    assert view is not None
    assert (view.trace_id, view.span_id, view.name) == (trace_id, span_id, message)
    assert view.parent_id == (parent if parent == b"12345678" else b"")
    assert view.parent_remote == bool(flags & 0x200)
    assert view.kind == (kind if 0 <= kind <= 5 else 0)
    assert view.status_code == (code if code is not None and 0 <= code <= 2 else 0)
    assert view.status_message == ("" if code is None else message)
    assert (view.scope_name, view.scope_version) == ("scope", "1")

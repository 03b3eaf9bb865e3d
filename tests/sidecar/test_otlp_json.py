"""OTLP/JSON into protobuf: the same request, or a ``PayloadError`` that names the place and shows no content."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_langfuse.errors import PayloadError
from otel_langfuse.sidecar.receivers.otlp_json import logs_from_json, traces_from_json
from sidecar.receiving import TRACE_ID, json_request, json_span, nested_json, nested_protobuf

SECRET = "the prompt that nobody may see"


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


def of_value(value: dict[str, Any]) -> dict[str, Any]:
    return {"attributes": [{"value": value}]}


def span_of(**more: Any) -> Any:
    request = ExportTraceServiceRequest.FromString(traces_from_json(json_request(json_span(**more))))
    return request.resource_spans[0].scope_spans[0].spans[0]


def value_of(value: dict[str, Any]) -> AnyValue:
    result = span_of(attributes=[{"key": "k", "value": value}]).attributes[0].value
    assert isinstance(result, AnyValue)
    return result


def refused(body: bytes | dict[str, Any]) -> str:
    with pytest.raises(PayloadError) as caught:
        traces_from_json(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert SECRET not in str(caught.value)
    return str(caught.value)


def refused_span(**more: Any) -> str:
    return refused(json_request(json_span(), json_span(**more))).removeprefix("resourceSpans[0].scopeSpans[0].spans[1].")


# ------------------------------------------------------------------------------------------------------ what is read


def test_a_whole_request_comes_out_as_it_would_have_come_in_protobuf() -> None:
    span = json_span(
        traceState="a=1",
        parentSpanId="B7AD6B7169203331",
        flags=257,
        kind=3,
        startTimeUnixNano="1731000000000000001",
        endTimeUnixNano=1731000001000000001,
        attributes=[{"key": "k", "value": {"stringValue": "v"}}],
        droppedAttributesCount=1,
        events=[{"timeUnixNano": "5", "name": "e", "attributes": [], "droppedAttributesCount": 2}],
        links=[{"traceId": TRACE_ID, "spanId": "00f067aa0ba902b7"}],
        status={"message": "m", "code": 2},
    )
    body = {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": "s"}}],
                    "droppedAttributesCount": 3,
                },
                "scopeSpans": [{"scope": {"name": "n", "version": "1"}, "spans": [span], "schemaUrl": "u"}],
                "schemaUrl": "w",
            }
        ]
    }
    expected = ExportTraceServiceRequest()
    group = expected.resource_spans.add(schema_url="w")
    group.resource.attributes.add(key="service.name").value.string_value = "s"
    group.resource.dropped_attributes_count = 3
    scoped = group.scope_spans.add(schema_url="u")
    scoped.scope.name, scoped.scope.version = "n", "1"
    want = scoped.spans.add(
        trace_id=bytes.fromhex(TRACE_ID),
        span_id=bytes.fromhex("00f067aa0ba902b7"),
        parent_span_id=bytes.fromhex("b7ad6b7169203331"),
        name="a span",
        trace_state="a=1",
        flags=257,
        kind=3,
        start_time_unix_nano=1731000000000000001,
        end_time_unix_nano=1731000001000000001,
        dropped_attributes_count=1,
    )
    want.attributes.add(key="k").value.string_value = "v"
    want.events.add(time_unix_nano=5, name="e", dropped_attributes_count=2)
    want.links.add(trace_id=want.trace_id, span_id=want.span_id)
    want.status.message, want.status.code = "m", 2  # type: ignore[assignment]
    assert ExportTraceServiceRequest.FromString(traces_from_json(json.dumps(body).encode())) == expected


def test_log_records_are_read() -> None:
    record = {
        "timeUnixNano": "7",
        "severityNumber": "SEVERITY_NUMBER_INFO",
        "severityText": "INFO",
        "body": {"kvlistValue": {"values": [{"key": "a", "value": {"intValue": "1"}}]}},
        "traceId": TRACE_ID,
        "spanId": "00f067aa0ba902b7",
        "eventName": "gen_ai.choice",
    }
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode()
    out = ExportLogsServiceRequest.FromString(logs_from_json(body)).resource_logs[0].scope_logs[0].log_records[0]
    assert (out.time_unix_nano, out.severity_number, out.event_name) == (7, 9, "gen_ai.choice")
    assert out.trace_id.hex() == TRACE_ID
    assert out.body.kvlist_value.values[0].value.int_value == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"stringValue": ""}, AnyValue(string_value="")),
        ({"boolValue": False}, AnyValue(bool_value=False)),
        ({"intValue": 0}, AnyValue(int_value=0)),
        ({"intValue": "-9223372036854775808"}, AnyValue(int_value=-(2**63))),
        ({"intValue": 1e3}, AnyValue(int_value=1000)),
        ({"doubleValue": 0}, AnyValue(double_value=0.0)),
        ({"doubleValue": "2.5e3"}, AnyValue(double_value=2500.0)),
        ({"doubleValue": "-Infinity"}, AnyValue(double_value=-math.inf)),
        ({"bytesValue": base64.b64encode(b"\xfb\xff").decode()}, AnyValue(bytes_value=b"\xfb\xff")),
        ({"bytesValue": "-_8"}, AnyValue(bytes_value=b"\xfb\xff")),
        ({"string_value": "snake"}, AnyValue(string_value="snake")),
        ({"stringValue": None}, AnyValue()),
        ({}, AnyValue()),
    ],
)
def test_each_kind_of_value_is_read_and_a_default_stays_set(value: dict[str, Any], expected: AnyValue) -> None:
    assert value_of(value) == expected


def test_not_a_number_is_written_as_a_string() -> None:
    assert math.isnan(value_of({"doubleValue": "NaN"}).double_value)


def test_arrays_and_maps_are_read_inside_each_other() -> None:
    value = value_of(
        {
            "kvlistValue": {
                "values": [{"key": "a", "value": {"arrayValue": {"values": [{"intValue": 1}, {"stringValue": "x"}]}}}]
            }
        }
    )
    inner = value.kvlist_value.values[0].value.array_value.values
    assert (inner[0].int_value, inner[1].string_value) == (1, "x")


@pytest.mark.parametrize(("kind", "number"), [(3, 3), ("SPAN_KIND_CLIENT", 3), (99, 99), (2.0, 2), (None, 0)])
def test_enums_may_be_numbers_or_names(kind: Any, number: int) -> None:
    assert span_of(kind=kind).kind == number


def test_unknown_fields_are_ignored_at_every_level() -> None:
    body = {
        "new": {"deep": [1, {}]},
        "resourceSpans": [{"other": True, "scopeSpans": [{"spans": [json_span(later=[SECRET])]}]}],
    }
    request = ExportTraceServiceRequest.FromString(traces_from_json(json.dumps(body).encode()))
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "a span"


def test_an_empty_object_is_an_empty_request_and_a_byte_order_mark_does_no_harm() -> None:
    assert traces_from_json(b"{}") == b""
    assert traces_from_json(b"\xef\xbb\xbf{}") == b""


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        (TRACE_ID.upper(), bytes.fromhex(TRACE_ID)),
        ("0af7", b"\x0a\xf7"),
        ("", b""),
        ("0af", b""),
        ("not hexadecimal", b""),
        ("0a f7", b""),
        (base64.b64encode(bytes.fromhex(TRACE_ID)).decode(), b""),
    ],
)
def test_a_wrong_id_is_passed_on_for_the_intake_to_leave_its_span_out(given_id: str, expected: bytes) -> None:
    assert span_of(traceId=given_id).trace_id == expected


def test_a_lone_surrogate_becomes_the_replacement_character_and_an_emoji_stays() -> None:
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a\\ud83db \\ud83d\\ude00"}]}]}]}'
    request = ExportTraceServiceRequest.FromString(traces_from_json(body))
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "a\ufffdb \U0001f600"


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": 5}, "name: expected a string, got a number"),
        ({"name": [SECRET]}, "name: expected a string, got an array"),
        ({"startTimeUnixNano": SECRET}, "startTimeUnixNano: expected an integer from 0 to 18446744073709551615, got a string"),
        ({"startTimeUnixNano": -1}, "startTimeUnixNano: expected an integer from 0 to 18446744073709551615, got a number"),
        ({"startTimeUnixNano": 2**64}, "startTimeUnixNano: expected an integer from 0 to 18446744073709551615, got a number"),
        ({"startTimeUnixNano": 1.5}, "startTimeUnixNano: expected an integer from 0 to 18446744073709551615, got a number"),
        ({"startTimeUnixNano": True}, "startTimeUnixNano: expected an integer from 0 to 18446744073709551615, got a boolean"),
        ({"kind": SECRET}, "kind: expected a number or name of SpanKind, got a string"),
        ({"kind": 2**31}, "kind: expected an integer from -2147483648 to 2147483647, got a number"),
        ({"traceId": 7}, "traceId: expected hexadecimal digits in a string, got a number"),
        ({"attributes": {}}, "attributes: expected an array, got an object"),
        ({"attributes": [SECRET]}, "attributes[0]: expected an object, got a string"),
        ({"attributes": [None]}, "attributes[0]: expected an object, got null"),
        ({"status": SECRET}, "status: expected an object, got a string"),
        (
            {"attributes": [{"value": {"boolValue": "true"}}]},
            "attributes[0].value.boolValue: expected true or false, got a string",
        ),
        (of_value({"bytesValue": "=!"}), "attributes[0].value.bytesValue: expected base64, got a string"),
        (
            {"attributes": [{"value": {"bytesValue": 1}}]},
            "attributes[0].value.bytesValue: expected base64 in a string, got a number",
        ),
        (
            of_value({"doubleValue": SECRET}),
            "attributes[0].value.doubleValue: expected a number that fits a double, got a string",
        ),
        (
            of_value({"doubleValue": 10**400}),
            "attributes[0].value.doubleValue: expected a number that fits a double, got a number",
        ),
        (
            of_value({"stringValue": SECRET, "intValue": 1}),
            'attributes[0].value.intValue: expected nothing beside "stringValue", got a number',
        ),
        (
            {"startTimeUnixNano": 1, "start_time_unix_nano": 2},
            "startTimeUnixNano: expected one spelling of this field, got a number",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(more: dict[str, Any], message: str) -> None:
    assert refused_span(**more) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is no JSON: Expecting value (line 1, column 1)"),
        (b'{"resourceSpans": [', "the body is no JSON: Expecting value (line 1, column 20)"),
        (b"[]", "the body: expected an object, got an array"),
        (b"null", "the body: expected an object, got null"),
        (b'{"resourceSpans": 1}', "resourceSpans: expected an array, got a number"),
        (b'{"resourceSpans": [], "resourceSpans": []}', 'the body is no OTLP/JSON: an object has "resourceSpans" twice'),
        (
            b'{"%s": 1, "%s": 2}' % (SECRET.encode(), SECRET.encode()),
            "the body is no OTLP/JSON: an object has a key that OTLP does not have twice",
        ),
        (b'{"a": NaN}', 'the body is no JSON: it has a bare NaN; as a double it is written "NaN"'),
        (b'{"a": -Infinity}', 'the body is no JSON: it has a bare -Infinity; as a double it is written "-Infinity"'),
        (b'{"a": "\xff"}', "the body is no UTF-8: byte 7 cannot be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "the body is no OTLP/JSON: a number in it has too many digits"),
    ],
)
def test_a_body_that_is_no_otlp_json_is_refused(body: bytes, message: str) -> None:
    assert refused(body) == message


def test_an_overflowing_number_is_no_infinity() -> None:
    body = json_request(json_span(attributes=[{"key": "k", "value": {"doubleValue": 7}}])).replace(b"7}", b"1e999}")
    assert "doubleValue: expected a number that fits a double" in refused(body)


# ----------------------------------------------------------------------------------------------------------- nesting


def test_as_deep_as_the_protobuf_reader_takes_is_taken() -> None:
    depth = next(n for n in range(200) if not parses(nested_protobuf(n + 1)))
    assert depth > 20
    assert parses(traces_from_json(nested_json(depth - 1)))


def parses(payload: bytes) -> bool:
    try:
        ExportTraceServiceRequest.FromString(payload)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("depth", [60, 200])
def test_deeper_values_are_refused_in_a_short_message(depth: int) -> None:
    message = refused(nested_json(depth))
    assert "no more than 100 messages inside each other" in message
    assert message.startswith("resourceSpans[0].scopeSpans[0].spans[0].attributes[0].value.arrayValue.values[0]")
    assert len(message) < 400


@pytest.mark.parametrize("body", [nested_json(100_000), b"[" * 100_000, b'{"a":' * 100_000, b'{"unknown":' + b"[" * 100_000])
def test_a_hundred_thousand_levels_are_refused(body: bytes) -> None:
    assert refused(body) == "the body is nested too deeply"


# ---------------------------------------------------------------------------------------------------------- the laws

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.one_of(
        st.builds(lambda v: AnyValue(string_value=v), TEXT),
        st.builds(lambda v: AnyValue(bool_value=v), st.booleans()),
        st.builds(lambda v: AnyValue(int_value=v), st.integers(-(2**63), 2**63 - 1)),
        st.builds(lambda v: AnyValue(double_value=v), st.floats(allow_nan=False)),
        st.builds(lambda v: AnyValue(bytes_value=v), st.binary(max_size=20)),
    ),
    lambda inner: st.builds(lambda items: AnyValue(array_value={"values": items}), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, start=st.integers(0, 2**64 - 1), name=TEXT, kind=st.integers(0, 5), snake=st.booleans())
def test_what_protobuf_writes_as_json_comes_back(value: AnyValue, start: int, name: str, kind: int, snake: bool) -> None:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name=name, start_time_unix_nano=start)
    span.kind = kind  # type: ignore[assignment]
    span.attributes.add(key="k").value.CopyFrom(value)
    written = json_format.MessageToJson(request, preserving_proto_field_name=snake).encode()
    assert ExportTraceServiceRequest.FromString(traces_from_json(written)) == request


NAMES = "resourceSpans scopeSpans spans attributes key value arrayValue values intValue kind traceId status code x".split()
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(body=JSON)
def test_any_json_is_a_request_or_a_payload_error(body: Any) -> None:
    try:
        payload = traces_from_json(json.dumps(body).encode())
    except PayloadError:
        return
    ExportTraceServiceRequest.FromString(payload)


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_payload_error(body: bytes) -> None:
    try:
        traces_from_json(body)
    except PayloadError:
        pass

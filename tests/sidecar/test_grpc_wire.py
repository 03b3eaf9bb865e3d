"""The gRPC listener's HTTP/2: what no gRPC library does by itself, and what none may do."""

from __future__ import annotations

import base64
import gc
import logging
import struct
from contextlib import ExitStack
from typing import Any

import h2.settings
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_langfuse.sidecar.entry import Signal
from otel_langfuse.sidecar.receivers.answers import Verdict
from otel_langfuse.sidecar.receivers.bodies import BODIES_AT_ONCE
from otel_langfuse.sidecar.receivers.grpc_calls import Call, refusal
from sidecar.http2_client import (
    ACK,
    CALM,
    CANCEL,
    CLOSED,
    COMPRESSION,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PROTOCOL,
    PUSH,
    REFUSED,
    RST,
    SETTINGS,
    SIZE,
    WINDOW,
    RawLine,
    Wire,
    block,
    message,
    raw,
    still_serves,
)
from sidecar.receiving import COMPRESSIONS, Bench, grpc_protocol, receiving, trace_request, wait_until

MIB = 1 << 20
HEAD = 9  # bytes of a frame that say what it is; what comes after a violation may meet a closed socket
SECRET = "the prompt that nobody may see"


pytestmark = pytest.mark.usefixtures("loop")


def details_of(answer: Any) -> Status | None:
    text = answer.headers.get("grpc-status-details-bin")
    return None if text is None else Status.FromString(base64.b64decode(text + "=" * (-len(text) % 4)))


# ---------------------------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB])
@pytest.mark.parametrize("encoding", ["identity", *COMPRESSIONS])
def test_a_message_of_any_size_is_taken(inline: bool, size: int, encoding: str) -> None:
    body = trace_request(text="x" * size)
    with receiving(grpc_protocol(), inline=inline) as bench, Wire(bench.address) as wire:
        for _ in range(2):
            if encoding in COMPRESSIONS:
                answer = wire.call(COMPRESSIONS[encoding](body), ("grpc-encoding", encoding), flag=1)
            else:
                answer = wire.call(body)
            assert (answer.headers[":status"], answer.status, answer.body) == ("200", "0", bytes(5))
        assert [entry.payload for entry in bench.taken(Signal.TRACES)] == [body, body]


def test_calls_on_one_connection_may_interleave(bench: Bench, wire: Wire) -> None:
    bodies = [message(trace_request(text=f"{number}" * 1000)) for number in range(10)]
    streams = [wire.begin() for _ in bodies]
    for at in range(0, max(map(len, bodies)), 100):
        for stream, body in zip(streams, bodies, strict=True):
            if at < len(body):
                wire.send(stream, body[at : at + 100], ended=at + 100 >= len(body))
    assert {wire.answered(stream).status for stream in streams} == {"0"}
    assert len(bench.spans) == 10


def test_what_most_clients_do_not_do_is_understood(bench: Bench) -> None:
    """Padding, priorities, header blocks in pieces, frames of extensions, bodies in pieces and trailers."""
    head, body = block(("x-long", "y" * 9_000)), message(trace_request())
    with RawLine(bench.address) as line:
        line.send(
            raw(PRIORITY, struct.pack(">IB", 0, 7), 9),
            raw(0xFA, b"an extension's"),
            raw(HEADERS, bytes((3,)) + struct.pack(">IB", 0, 1) + head[:100] + bytes(3), 1, PADDED | PRIORITISED),
            raw(CONTINUATION, head[100:5_000], 1),
            raw(CONTINUATION, head[5_000:], 1, END_HEADERS),
            raw(DATA, bytes((200,)) + body[:3] + bytes(200), 1, PADDED),
            raw(DATA, b"", 1),
            raw(DATA, body[3:], 1),
            raw(DATA, bytes((0,)), 1, PADDED),
            raw(HEADERS, b"\x00\x01a\x01b", 1, END_HEADERS | END_STREAM),
        )
        answer = line.fields_of(line.until(HEADERS))
        assert (answer[":status"], answer["content-type"]) == ("200", "application/grpc")
        assert line.until(DATA).payload == bytes(5)
        trailers = line.until(HEADERS)
        assert line.fields_of(trailers) == {"grpc-status": "0"}
        assert trailers.flags == END_HEADERS | END_STREAM
    assert len(bench.spans) == 1


def test_bytes_may_come_one_by_one(bench: Bench) -> None:
    """As a test of the socket; that no cut of the bytes matters is a law of its own."""
    call = (raw(HEADERS, block(), 1, END_HEADERS), raw(DATA, message(trace_request()), 1, END_STREAM))
    with RawLine(bench.address, greeting=b"") as line:
        for byte in PREFACE + raw(SETTINGS) + b"".join(call):
            line.send(bytes((byte,)))
        assert line.until(HEADERS).stream == 1
    assert len(bench.spans) == 1


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("replaced", "status"), [({"method": "GET"}, "405"), ({"content-type": "application/x-protobuf"}, "415")]
)
def test_what_is_no_grpc_call_is_refused_in_https_terms(bench: Bench, wire: Wire, replaced: Any, status: str) -> None:
    stream = wire.begin(ended=True, **replaced)
    assert wire.answered(stream).headers[":status"] == status
    assert bench.counters.counts["unsupported_requests"] == 1
    assert wire.call(trace_request()).status == "0"


def test_the_log_names_each_kind_of_lost_call_once(bench: Bench, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        wire.call(SECRET.encode(), ("grpc-encoding", "snappy"), flag=1)
        wire.call(b"\x0a\xff" + SECRET.encode())
        wire.answered(wire.begin(ended=True, method="GET"))
        wire.call(b"", path="/grpc.health.v1.Health/Check")
        wire.call(b"", path="/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.rpartition(" ")[2] for line in lines] == ["unsupported_requests.", "bad_requests.", "unsupported_requests."]
    assert SECRET not in caplog.text


def test_an_unknown_compression_is_unimplemented_and_the_known_ones_are_named(bench: Bench, wire: Wire) -> None:
    answer = wire.call(b"", ("grpc-encoding", "snappy"), flag=1)
    assert answer.status == "12"
    assert answer.headers["grpc-accept-encoding"] == "gzip,zstd,deflate,identity"
    assert bench.counters.counts["unsupported_requests"] == 1


def test_an_unknown_method_is_unimplemented_and_the_known_ones_are_named(wire: Wire) -> None:
    answer = wire.call(b"", path="/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
    assert answer.status == "12"
    assert "TraceService/Export" in answer.words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (message(b"one") + message(b"two"), "the call has more than one message"),
        (message(b"x", flag=1), "the message is said to be compressed, and not how"),
        (message(b"x", flag=2), "the message is said to be compressed, and not how"),
        (message(b"x", size=2), "the call has no message"),
        (b"\0\0", "the call has no message"),
        (b"", "the call has no message"),
    ],
)
def test_a_body_that_is_not_one_message_is_an_invalid_argument(bench: Bench, wire: Wire, body: bytes, words: str) -> None:
    stream = wire.begin()
    wire.send(stream, body)
    answer = wire.answered(stream)
    assert (answer.status, answer.words) == ("3", words)
    assert bench.sink.entries == []
    assert wire.call(trace_request()).status == "0"


def test_a_token_is_judged_before_the_message_comes() -> None:
    with receiving(grpc_protocol(), token="secret-token") as bench, Wire(bench.address) as wire:
        stream = wire.begin(("authorization", "Bearer wrong"))
        assert wire.answered(stream).status == "16"
        while wire.answers[stream].reset is None:  # The rest is not wanted.
            wire.hear()
        assert wire.answers[stream].reset == NO_ERROR
        assert wire.call(trace_request(), ("authorization", "Bearer secret-token")).status == "0"


def test_tokens_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), receiving(grpc_protocol(), token="secret-token") as bench, Wire(bench.address) as wire:
        assert wire.call(trace_request(), ("authorization", "Bearer secret-token")).status == "0"
        assert wire.call(trace_request(), ("authorization", "Bearer other-token")).status == "16"
    assert not [record for record in caplog.records if "-token" in record.getMessage()]


def test_a_refusal_fits_into_a_frame() -> None:
    """Whatever it says, it is one header block in one frame."""
    assert len(refusal(Verdict(8, 429, "\u20ac" * 10_000, 1.0, ""))) < 16_384


def test_a_message_is_refused_by_what_it_says_of_its_length() -> None:
    with receiving(grpc_protocol(max_recv_msg_size_mib=1)) as bench, Wire(bench.address) as wire:
        stream = wire.begin()
        wire.send(stream, message(b"the beginning", size=MIB + 1), ended=False)
        answer = wire.answered(stream)
        assert (answer.status, answer.words) == ("8", "the message is larger than 1048576 bytes; send less in one request")
        assert details_of(answer) is None
        assert bench.counters.counts["too_large"] == 1


def test_messages_beyond_what_may_be_held_are_told_to_come_again() -> None:
    part = message(bytes(MIB // 2), size=MIB)
    with receiving(grpc_protocol(max_recv_msg_size_mib=1)) as bench, ExitStack() as stack:
        wires = [stack.enter_context(Wire(bench.address)) for _ in range(BODIES_AT_ONCE)]
        held = [(wire, wire.begin()) for wire in wires for _ in range(2)]
        for wire, stream in held[:-1]:
            wire.send(stream, part, ended=False)
            wire.ping()
        wire, stream = held[-1]
        wire.send(stream, part, ended=False)
        answer = wire.answered(stream)
        assert (answer.status, answer.words) == ("8", "too many large requests at once; come again")
        assert details_of(answer) is not None
        assert bench.counters.counts["requests_told_to_wait"] == 1
        for wire, stream in held[:-1]:
            wire.http.reset_stream(stream)
            wire.flush()
        assert bench.wait_for_count("incomplete_requests", len(held) - 1)
        for _ in range(3):
            assert wires[0].call(bytes(MIB), flag=0).status == "3"


def test_streams_beyond_the_limit_are_refused_and_may_come_again() -> None:
    with receiving(grpc_protocol(max_concurrent_streams=2)) as bench, RawLine(bench.address) as line:
        line.send(*(raw(HEADERS, block(), stream, END_HEADERS) for stream in (1, 3, 5)))
        reset = line.until(RST)
        assert (reset.stream, reset.number) == (5, REFUSED)
        line.send(raw(DATA, message(b""), 1, END_STREAM))
        line.until(HEADERS, 1)
        line.send(raw(HEADERS, block(), 7, END_HEADERS), raw(DATA, message(b""), 7, END_STREAM))
        line.until(HEADERS, 7)


def test_a_call_that_is_given_up_is_counted_and_forgotten(bench: Bench, wire: Wire) -> None:
    stream = wire.begin()
    wire.send(stream, message(b"a part", size=100), ended=False)
    wire.http.reset_stream(stream)
    wire.flush()
    assert bench.wait_for_count("incomplete_requests")
    assert wire.call(trace_request()).status == "0"


def test_a_connection_that_breaks_in_a_call_is_counted(bench: Bench) -> None:
    with Wire(bench.address) as wire:
        wire.send(wire.begin(), message(b"a part", size=100), ended=False)
        wire.ping()
    assert bench.wait_for_count("incomplete_requests")


# --------------------------------------------------------------------------------------------------------- its windows


def test_an_answer_waits_for_the_clients_window(bench: Bench) -> None:
    window = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    with Wire(bench.address, window) as wire:
        streams = [wire.begin() for _ in range(3)]
        for stream in streams:
            wire.send(stream, message(trace_request()))
        assert wait_until(lambda: len(bench.spans) == 3)
        wire.ping()
        assert not any(wire.answers[stream].headers for stream in streams)
        wire.http.increment_flow_control_window(100, streams[0])
        wire.flush()
        assert wire.answered(streams[0]).status == "0"
        wire.http.update_settings(window | {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
        wire.flush()
        assert {wire.answered(stream).status for stream in streams} == {"0"}


def test_an_answer_does_not_wait_for_anothers_window(bench: Bench) -> None:
    with Wire(bench.address, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}) as wire:
        first, second = wire.begin(), wire.begin()
        for stream in (first, second):
            wire.send(stream, message(trace_request()))
        assert wait_until(lambda: len(bench.spans) == 2)
        wire.http.increment_flow_control_window(100, second)
        wire.flush()
        assert wire.answered(second).status == "0"
        assert not wire.answers[first].headers


def test_answers_that_nobody_waits_for_are_let_go(bench: Bench) -> None:
    with Wire(bench.address, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}) as wire:
        for number in range(300):
            stream = wire.begin()
            wire.send(stream, message(b""))
            assert bench.wait_for_count("requests_received", number + 1)
            wire.http.reset_stream(stream)
        wire.flush()
        wire.answer_pings = False
        wire.http.ping(bytes(8))
        wire.flush()
        while not wire.pongs:
            wire.hear()
        gc.collect()
        assert sum(type(found) is Call for found in gc.get_objects()) < 50


def test_an_answer_that_is_not_taken_in_time_is_given_up() -> None:
    window = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    with receiving(grpc_protocol(), message_timeout=0.2) as bench, Wire(bench.address, window) as wire:
        stream = wire.begin()
        wire.send(stream, message(trace_request()))
        wire.answered(stream)
        assert wire.answers[stream].reset == CANCEL
        assert len(bench.spans) == 1
        assert bench.counters.counts["slow_clients"] == 1


def test_the_connections_window_is_kept(bench: Bench, wire: Wire) -> None:
    """h2 ends a connection whose other end sends more than it may."""
    wire.acknowledge = False
    body, sent = message(trace_request(0, bad=1)), 0
    size = len(wire.call(trace_request(0, bad=1)).body)
    waiting: list[int] = []
    while len(waiting) < 3:
        stream = wire.begin()
        wire.send(stream, body)
        sent += 1
        assert bench.wait_for_count("requests_received", sent + 1)
        wire.ping()
        wire.ping()
        if not wire.answers[stream].ended:
            waiting.append(stream)
    assert sent > 65_535 // size - 1
    wire.http.increment_flow_control_window(size * 4)
    wire.flush()
    for stream in waiting:
        answer = ExportTraceServiceResponse.FromString(wire.answered(stream).body[5:])
        assert answer.partial_success.rejected_spans == 1


def test_more_than_a_stream_has_room_for_ends_the_connection(bench: Bench) -> None:
    part = raw(DATA, bytes(MIB), 1)
    with RawLine(bench.address) as line:
        line.send(raw(HEADERS, block(), 1, END_HEADERS), raw(DATA, message(b"", size=2 * MIB), 1))
        assert line.until(WINDOW, 1).number > 0
        line.send(part, part, part)
        assert line.until(GOAWAY).number == FLOW_CONTROL
    assert still_serves(bench)


# ------------------------------------------------------------------------------------------- what no client may do

CALL = raw(HEADERS, block(), 1, END_HEADERS)
WHOLE = raw(HEADERS, block(), 1, END_HEADERS | END_STREAM)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(raw(DATA, b"x", 1), PROTOCOL, id="a body without a request"),
        pytest.param(raw(DATA, b"x", 0), PROTOCOL, id="a body of the connection"),
        pytest.param(raw(HEADERS, block(), 2, END_HEADERS), PROTOCOL, id="a stream of the server's"),
        pytest.param(raw(HEADERS, block(), 0, END_HEADERS), PROTOCOL, id="a stream without number"),
        pytest.param(raw(HEADERS, block(), 1) + raw(PING, bytes(8)), PROTOCOL, id="an interrupted block"),
        pytest.param(raw(HEADERS, block(), 1) + raw(CONTINUATION, b"x", 3), PROTOCOL, id="another's block"),
        pytest.param(raw(CONTINUATION, block(), 1, END_HEADERS), PROTOCOL, id="a block without beginning"),
        pytest.param(raw(HEADERS, b"x", 1) + raw(CONTINUATION, b"", 1), CALM, id="a block that goes on with nothing"),
        pytest.param(raw(HEADERS, bytes(9_000), 1) + raw(CONTINUATION, bytes(9_000), 1), CALM, id="an endless block"),
        pytest.param(raw(HEADERS, bytes(20_000), 1)[:HEAD], SIZE, id="a large block"),
        pytest.param(raw(HEADERS, b"\xff\xff\xff\xff", 1, END_HEADERS), COMPRESSION, id="no block"),
        pytest.param(raw(HEADERS, b"\x09x", 1, END_HEADERS | PADDED), PROTOCOL, id="a padded block of padding"),
        pytest.param(raw(PUSH, bytes(8), 1), PROTOCOL, id="a push"),
        pytest.param(raw(SETTINGS, bytes(5)), SIZE, id="settings that are cut off"),
        pytest.param(raw(SETTINGS, bytes(6), flags=ACK), SIZE, id="an acknowledgement with settings"),
        pytest.param(raw(SETTINGS, struct.pack(">HI", 4, 1 << 31)), FLOW_CONTROL, id="too large a window to begin with"),
        pytest.param(raw(SETTINGS, struct.pack(">HI", 5, 100)), PROTOCOL, id="too small a frame"),
        pytest.param(raw(PING, bytes(7)), SIZE, id="a short ping"),
        pytest.param(raw(WINDOW, bytes(4)), FLOW_CONTROL, id="a window that does not grow"),
        pytest.param(raw(WINDOW, (2**31 - 1).to_bytes(4, "big")), FLOW_CONTROL, id="too large a window"),
        pytest.param(raw(RST, bytes(4), 1), PROTOCOL, id="a reset of nothing"),
        pytest.param(raw(RST, bytes(4)), PROTOCOL, id="a reset of the connection"),
        pytest.param(raw(PING, bytes(8), 1), PROTOCOL, id="a ping of a stream"),
        pytest.param(raw(GOAWAY, bytes(8), 1), PROTOCOL, id="a goodbye of a stream"),
        pytest.param(raw(SETTINGS, b"", 1), PROTOCOL, id="settings of a stream"),
        pytest.param(raw(SETTINGS, struct.pack(">HI", 2, 2)), PROTOCOL, id="a push that is neither on nor off"),
        pytest.param(raw(PRIORITY, bytes(5)), PROTOCOL, id="a priority of the connection"),
        pytest.param(raw(PRIORITY, bytes(4), 1), SIZE, id="a short priority"),
        pytest.param(raw(0xFA, bytes(MIB + 1))[:HEAD], SIZE, id="too large a frame"),
        pytest.param(CALL + raw(DATA, b"\x02x", 1, PADDED), PROTOCOL, id="more padding than there is"),
        pytest.param(CALL + raw(DATA, b"", 1, PADDED), PROTOCOL, id="padding without its length"),
        pytest.param(CALL + raw(DATA, bytes(MIB + 1), 1)[:HEAD], SIZE, id="too large a part of a body"),
        pytest.param(CALL + raw(HEADERS, block(), 1, END_HEADERS), PROTOCOL, id="trailers that end nothing"),
        pytest.param(CALL + raw(WINDOW, (2**31 - 1).to_bytes(4, "big"), 1), FLOW_CONTROL, id="a stream's window"),
    ],
)
def test_a_client_that_breaks_the_rules_is_told_and_left(
    bench: Bench, frames: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), RawLine(bench.address) as line:
        line.send(frames)
        assert line.until(GOAWAY).number == code
        assert list(line.frames()) == []
    assert still_serves(bench)
    (complaint,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert complaint.startswith("Receiver otlp ended a connection: ")
    assert bench.counters.counts["unsupported_requests"] == 1
    assert "receiver_errors" not in bench.counters.counts


def test_a_request_that_goes_on_after_its_end_breaks_the_rules(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with RawLine(bench.address) as line:
        line.send(CALL, raw(DATA, message(trace_request()), 1, END_STREAM), raw(DATA, b"x", 1))
        assert line.until(GOAWAY).number == CLOSED


def test_frames_of_calls_that_are_over_do_no_harm(bench: Bench) -> None:
    with RawLine(bench.address) as line:
        line.send(WHOLE)
        line.until(HEADERS, 1)
        window = raw(WINDOW, (1).to_bytes(4, "big"), 1)
        line.send(raw(DATA, b"late", 1), raw(RST, bytes(4), 1), window, raw(PRIORITY, bytes(5), 1))
        line.send(raw(HEADERS, block(), 3, END_HEADERS), raw(DATA, message(trace_request()), 3, END_STREAM))
        line.until(HEADERS, 3)
    assert len(bench.spans) == 1


def test_a_defect_of_ours_ends_the_connection_and_says_so_without_content(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr("otel_langfuse.sidecar.receivers.grpc_calls.Call.feed", fail)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            with Wire(bench.address) as wire:
                wire.send(wire.begin(), message(b"x"))
                assert wire.gone() is None
    assert bench.counters.counts["receiver_errors"] == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "KeyError at test_grpc_wire.py:" in line
    assert SECRET not in caplog.text

"""The life of the gRPC listener's connections: who does not speak HTTP/2, who is slow, who pings, and how all ends."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import h2.settings
import pytest

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.entry import Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers import GrpcReceiver, otlp_grpc
from otel_langfuse.sidecar.receivers.bodies import BODIES_AT_ONCE
from otel_langfuse.sidecar.receivers.grpc_connections import GrpcConnections
from otel_langfuse.sidecar.receivers.grpc_exports import GrpcService
from otel_langfuse.sidecar.receivers.otlp_grpc import THREADS
from sidecar.http2_client import (
    CALM,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    RawLine,
    Wire,
    block,
    message,
    raw,
    still_serves,
)
from sidecar.receiving import DEADLINE, Bench, grpc_protocol, receiving, trace_request, wait_until

MIB = 1 << 20
SECRET = "the prompt that nobody may see"


pytestmark = pytest.mark.usefixtures("loop")

CALL = raw(HEADERS, block(), 1, END_HEADERS)


# --------------------------------------------------------------------------------------------------- not HTTP/2 at all


@pytest.mark.parametrize("request_line", [b"POST /v1/traces HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"PRI / HTTP/1.1\r\n\r\n"])
def test_http_1_is_told_where_it_belongs(bench: Bench, request_line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with bench.raw() as sock:
            sock.sendall(request_line + b"Host: x\r\nContent-Length: 5\r\n\r\nhello")
            answer = sock.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head
        assert b"OTLP over HTTP" in body
    assert bench.counters.counts["unsupported_requests"] == 2
    assert [record.getMessage() for record in caplog.records] == [
        "Receiver otlp ended a connection: a client speaks HTTP/1.1 to the gRPC port; OTLP over HTTP has a port of its own."
    ]


@pytest.mark.parametrize(
    ("rubbish", "words"), [(b"\x16\x03\x01\x02\x00", "a client speaks TLS"), (b"\0" * 100, "what came is not HTTP/2")]
)
def test_what_is_not_http_is_named(bench: Bench, rubbish: bytes, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with bench.raw() as sock:
        sock.sendall(rubbish)
        frames = sock.makefile("rb").read()
    assert GOAWAY not in frames[3:4]
    assert words in caplog.text
    assert bench.counters.counts["unsupported_requests"] == 1


# ---------------------------------------------------------------------------------------------------- slow and many


def test_a_connection_that_never_speaks_is_ended() -> None:
    with receiving(grpc_protocol(), message_timeout=0.2) as bench, bench.raw() as sock:
        sock.sendall(PREFACE[:5])
        with sock.makefile("rb") as stream:
            stream.read()
        assert bench.counters.counts["slow_clients"] == 1


def test_a_client_that_does_not_read_is_not_read_from_and_then_ended() -> None:
    keepalive = {"enforcement_policy": {"min_time": "1ns", "permit_without_stream": True}}
    with receiving(grpc_protocol(keepalive=keepalive), message_timeout=0.5) as bench, RawLine(bench.address) as line:
        pings = raw(PING, bytes(8)) * 4096
        line.sock.settimeout(DEADLINE)
        with pytest.raises(ConnectionError):
            line.send(*[pings] * 4096)
        assert bench.wait_for_count("slow_clients")


def test_a_header_block_that_is_never_finished_ends_the_connection() -> None:
    with receiving(grpc_protocol(), message_timeout=0.2) as bench:
        for begun in (raw(HEADERS, block(), 1), raw(HEADERS, block(), 1)[:30]):
            with RawLine(bench.address) as line:
                line.send(begun)
                assert [frame.kind for frame in line.frames()] == [SETTINGS, WINDOW, SETTINGS]
        assert bench.counters.counts["slow_clients"] == 2


def test_a_call_in_tiny_pieces_takes_little_more_than_its_bytes(bench: Bench) -> None:
    pieces, size = 50_000, 2
    with RawLine(bench.address) as line:
        line.send(CALL, raw(DATA, message(b"", size=MIB), 1))
        line.until(WINDOW, 1)
        tracemalloc.start()
        try:
            line.send(*[raw(DATA, bytes(size), 1)] * pieces, raw(PING, bytes(8)))
            line.until(PING)
            held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/grpc_calls.py")])
        finally:
            tracemalloc.stop()
    assert sum(found.size for found in held.statistics("filename")) < 4 * pieces * size


def test_many_small_frames_are_worked_off_in_turns(bench: Bench) -> None:
    keepalive = {"enforcement_policy": {"min_time": "1ns", "permit_without_stream": True}}
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, RawLine(bench.address) as line:
        line.send(*[raw(PING, bytes(8))] * 5000, CALL, raw(DATA, message(trace_request()), 1, END_STREAM))
        answered = 0
        while (frame := next(line.frames())).kind != HEADERS:
            answered += frame.kind == PING
        assert answered == 5000
    assert len(bench.spans) == 1


def test_a_connection_that_is_closed_and_whose_client_does_not_listen_is_ended(bench: Bench) -> None:
    """With less pending than asyncio counts as blocked, nobody else would end it."""

    class Stuck(asyncio.Transport):
        aborted = False

        def is_closing(self) -> bool:
            return True

        def abort(self) -> None:
            self.aborted = True

    async def closing() -> tuple[bool, bool]:
        listener = Listener("otlp", grpc_protocol(), None, "Bearer", frozenset(Signal))
        with ThreadPoolExecutor(1) as pool:
            service = GrpcService(listener, bench.intake, bench.counters, pool, inline=False, message_timeout=30)
            connection, transport = GrpcConnections(listener, service).make(), Stuck()
            connection.connection_made(transport)
            now = time.monotonic()
            connection.check(now)
            early = transport.aborted
            connection.check(now + 2)
            return early, transport.aborted

    assert asyncio.run(closing()) == (False, True)


def test_connections_beyond_the_limit_are_closed() -> None:
    with receiving(grpc_protocol(max_connections=2)) as bench:
        with Wire(bench.address) as first, Wire(bench.address) as second:
            first.ping()
            second.ping()
            with Wire(bench.address) as third:
                assert third.gone() is None
            assert bench.counters.counts["connections_refused"] == 1
            assert first.call(trace_request()).status == "0"
        assert wait_until(lambda: accepted_again(bench))


def accepted_again(bench: Bench) -> bool:
    try:
        return still_serves(bench)
    except (EOFError, ConnectionError):
        return False


# ------------------------------------------------------------------------------------------------------ pings and age


def test_a_client_that_pings_too_often_is_sent_away(bench: Bench, wire: Wire) -> None:
    wire.begin()
    for _ in range(3):
        wire.ping()
    wire.http.ping(bytes(8))
    wire.flush()
    assert wire.gone() == (CALM, b"too_many_pings")


def test_pings_after_each_answer_are_free(wire: Wire) -> None:
    """Clients measure the line with them."""
    for _ in range(10):
        assert wire.call(trace_request()).status == "0"
        wire.ping()


def test_pings_may_be_allowed(bench: Bench) -> None:
    keepalive = {"enforcement_policy": {"min_time": "1ns", "permit_without_stream": True}}
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, Wire(bench.address) as wire:
        for _ in range(20):
            wire.ping()
        assert wire.call(trace_request()).status == "0"


def test_a_silent_client_is_asked_and_ended_if_it_is_gone() -> None:
    keepalive = {"server_parameters": {"time": "100ms", "timeout": "100ms"}}
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, Wire(bench.address) as wire:
        while wire.pings < 3:
            wire.hear()
        wire.answer_pings = False
        assert wire.gone() is None
        assert bench.counters.counts["slow_clients"] == 1


def test_an_old_connection_is_told_to_go_when_its_calls_have_ended(bench: Bench) -> None:
    keepalive = {"server_parameters": {"max_connection_age": "100ms"}}
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, Wire(bench.address) as wire:
        stream = wire.begin()
        while wire.goaway is None:
            wire.hear()
        assert wire.goaway == (NO_ERROR, b"")
        wire.http.state_machine.state = type(wire.http.state_machine.state).CLIENT_OPEN  # h2 would not finish the call
        wire.send(stream, message(trace_request()))
        with closing(wire.sock):
            data = b""
            while part := wire.sock.recv(65536):
                data += part
        assert data
        assert len(bench.spans) == 1


def test_an_old_connection_is_ended_after_its_grace() -> None:
    keepalive = {"server_parameters": {"max_connection_age": "50ms", "max_connection_age_grace": "100ms"}}
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, Wire(bench.address) as wire:
        wire.begin()
        assert wire.gone() == (NO_ERROR, b"")
        assert bench.wait_for_count("incomplete_requests")


# ------------------------------------------------------------------------------------------------------------ the end


def test_what_comes_after_the_goodbye_is_not_taken(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with RawLine(bench.address) as line, ThreadPoolExecutor(1) as pool:
        line.send(CALL, raw(DATA, message(trace_request()), 1, END_STREAM))
        assert bench.journal.asked.wait(DEADLINE)
        stopped = pool.submit(bench.receiver.stop, DEADLINE)
        goodbye = line.until(GOAWAY)
        assert (goodbye.payload[:4], goodbye.number) == ((1).to_bytes(4, "big"), NO_ERROR)
        line.send(raw(HEADERS, block(), 3, END_HEADERS), raw(DATA, message(trace_request()), 3, END_STREAM))
        line.send(raw(PING, bytes(8)))
        line.until(PING)
        bench.journal.may_commit.set()
        line.until(HEADERS, 1)
        assert all(frame.stream == 1 for frame in line.frames())
        stopped.result(DEADLINE)
    assert len(bench.spans) == 1


def test_calls_that_are_given_up_before_a_thread_has_them_are_not_taken(bench: Bench) -> None:
    """They come again: taking them as well would double them."""
    bench.journal.may_commit.clear()
    with Wire(bench.address) as wire:
        streams = [wire.begin() for _ in range(THREADS + 10)]
        for stream in streams:
            wire.send(stream, message(trace_request()))
        assert bench.wait_for_count("requests_received", THREADS)
        for stream in streams[THREADS:]:
            wire.http.reset_stream(stream)
        wire.ping()
        bench.journal.may_commit.set()
        assert wire.call(trace_request()).status == "0"
    assert bench.counters.counts["requests_received"] == THREADS + 1
    assert bench.wait_for_count("incomplete_requests", 10)


def test_calls_that_are_given_up_while_there_is_no_room_to_expand_them_are_not_taken() -> None:
    body = message(gzip.compress(trace_request(text="x" * (MIB - 1000))), flag=1)
    with receiving(grpc_protocol(max_recv_msg_size_mib=1)) as bench, Wire(bench.address) as wire:
        bench.journal.may_commit.clear()
        for _ in range(BODIES_AT_ONCE - 1):
            wire.send(wire.begin(("grpc-encoding", "gzip")), body)
        assert wait_until(lambda: bench.journal.waiting == BODIES_AT_ONCE - 1)
        streams = [wire.begin(("grpc-encoding", "gzip")) for _ in range(5)]
        for stream in streams:
            wire.send(stream, body)
        wire.ping()
        for stream in streams:
            wire.http.reset_stream(stream)
        wire.ping()
        bench.journal.may_commit.set()
        assert wire.call(trace_request()).status == "0"
        assert bench.wait_for_count("incomplete_requests", 5)
        assert len(bench.spans) == BODIES_AT_ONCE


def test_a_call_that_was_taken_is_never_told_to_come_again(bench: Bench) -> None:
    with Wire(bench.address, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}) as wire:
        stream = wire.begin()
        wire.send(stream, message(trace_request()))
        assert wait_until(lambda: len(bench.spans) == 1)
        wire.ping()
        bench.receiver.stop(0.05)
        assert wire.gone() == (NO_ERROR, b"")
        assert not wire.answers[stream].headers


def test_a_listener_that_comes_up_too_late_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    up = threading.Event()

    def late() -> asyncio.AbstractEventLoop:
        assert up.wait(DEADLINE)
        return asyncio.new_event_loop()

    monkeypatch.setattr(otlp_grpc, "_START_SECONDS", 0.05)
    monkeypatch.setattr(otlp_grpc, "_loop_factory", lambda: late)
    counters = Counters()
    listener = Listener("otlp", grpc_protocol(), None, "Bearer", frozenset(Signal))
    receiver = GrpcReceiver(listener, Intake(None, {}, counters), counters)  # type: ignore[arg-type]  # nothing comes
    release = threading.Timer(0.3, up.set)
    release.start()
    with pytest.raises(ConfigError, match=r"receivers\.otlp\.protocols\.grpc\.endpoint: the gRPC listener did not start"):
        receiver.start()
    release.join()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(receiver.address, timeout=DEADLINE)


def test_the_grace_of_old_connections_does_not_shorten_that_of_the_stop() -> None:
    keepalive = {"server_parameters": {"max_connection_age_grace": "20ms"}}
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, RawLine(bench.address) as line, ThreadPoolExecutor(1) as pool:
        bench.journal.may_commit.clear()
        line.send(CALL, raw(DATA, message(trace_request()), 1, END_STREAM))
        assert bench.journal.asked.wait(DEADLINE)
        stopped = pool.submit(bench.receiver.stop, DEADLINE)
        line.until(GOAWAY)
        assert not wait_until(stopped.done, timeout=0.3)
        bench.journal.may_commit.set()
        assert line.fields_of(line.until(HEADERS, 1))[":status"] == "200"
        stopped.result(DEADLINE)


def test_calls_that_outlast_the_grace_are_told_to_come_again(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with RawLine(bench.address) as line:
        line.send(CALL, raw(DATA, message(trace_request()), 1, END_STREAM))
        assert bench.journal.asked.wait(DEADLINE)
        bench.receiver.stop(0.05)
        answer = line.fields_of(line.until(HEADERS, 1))
        assert answer["grpc-status"] == "14"
        assert "shutting%20down" in answer["grpc-message"] or "shutting down" in answer["grpc-message"]
        assert "grpc-status-details-bin" in answer
        assert list(line.frames()) == []
    bench.journal.may_commit.set()

"""The HTTP listener against real clients: what it takes, what it answers, and what it survives."""

from __future__ import annotations

import gzip
import json
import logging
import signal as signals
import socket
import ssl
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import HttpProtocol, ServerTls
from otel_langfuse.sidecar.entry import RefusedError, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers import HttpReceiver
from otel_langfuse.sidecar.receivers.bodies import BODIES_AT_ONCE
from otel_langfuse.sidecar.receivers.otlp_http import THREADS
from sidecar.receiving import (
    COMPRESSIONS,
    DEADLINE,
    PROTOBUF,
    Bench,
    Certificates,
    Reply,
    json_request,
    json_span,
    log_request,
    nested_json,
    nested_protobuf,
    receiving,
    trace_request,
    wait_until,
    zstd,
)

CHUNKED = {"Content-Type": PROTOBUF, "Transfer-Encoding": "chunked"}
HEAD = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\n"
OF_PROTOBUF = b"content-type: application/x-protobuf\r\n"
OF_JSON = b"content-type: application/json\r\n"
SECRET = "the prompt that nobody may see"
JSON = {"Content-Type": "application/json"}


def protocol(**more: object) -> HttpProtocol:
    return HttpProtocol.model_validate({"endpoint": "127.0.0.1:0", **more})


@pytest.fixture
def bench() -> Iterator[Bench]:
    with receiving(protocol()) as started:
        yield started


def status_of(reply: Reply) -> Status:
    assert reply.headers["content-type"] == PROTOBUF
    return Status.FromString(reply.body)


# ----------------------------------------------------------------------------------------------------- what is taken


def test_spans_in_protobuf_are_taken_as_they_came(bench: Bench) -> None:
    body = trace_request(3)
    reply = bench.post(body)
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"", PROTOBUF)
    assert [entry.payload for entry in bench.taken(Signal.TRACES)] == [body]


def test_log_records_are_taken_at_their_path(bench: Bench) -> None:
    assert bench.post(log_request(2), path="/v1/logs").status == 200
    assert len(bench.log_records) == 2


def test_json_is_taken_and_answered_in_json(bench: Bench) -> None:
    reply = bench.post(json_request(json_span()), JSON)
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"{}", "application/json")
    assert [span.name for span in bench.spans] == ["a span"]


def test_json_log_records_are_taken(bench: Bench) -> None:
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"eventName": "e"}]}]}]}).encode()
    assert bench.post(body, JSON, path="/v1/logs").status == 200
    assert [record.event_name for record in bench.log_records] == ["e"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"])
def test_parameters_and_case_of_the_content_type_do_not_matter(bench: Bench, content_type: str) -> None:
    assert bench.post(json_request(json_span()), {"Content-Type": content_type}).status == 200


def test_an_empty_request_is_a_success(bench: Bench) -> None:
    assert bench.post(b"").status == 200
    assert bench.post(b"{}", JSON).status == 200
    assert bench.sink.entries == []


@pytest.mark.parametrize("inline", [False, True])
def test_small_and_large_requests_are_taken_inline_and_by_threads(inline: bool) -> None:
    with receiving(protocol(), inline=inline) as bench:
        assert [bench.post(trace_request(2, text="x" * size)).status for size in (10, 100_000)] == [200, 200]
        assert len(bench.spans) == 4


def test_paths_are_those_of_the_configuration() -> None:
    with receiving(protocol(traces_url_path="/otlp/t", logs_url_path="/otlp/l")) as bench:
        assert bench.post(trace_request(), path="/otlp/t").status == 200
        assert bench.post(trace_request(), path="/v1/traces").status == 404


def test_one_connection_carries_many_requests(bench: Bench) -> None:
    connection = bench.connection()
    for _ in range(20):
        connection.request("POST", "/v1/traces", trace_request(), {"Content-Type": PROTOBUF})
        response = connection.getresponse()
        assert response.status == 200
        response.read()
    connection.close()
    assert len(bench.spans) == 20


def test_pipelined_requests_are_answered_in_order(bench: Bench) -> None:
    body = trace_request()
    head = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with bench.raw() as sock:
        sock.sendall((head + body) * 3 + last)
        answers = read_all(sock)
    assert (answers.count(b"HTTP/1.1 200"), answers.count(b"HTTP/1.1 404")) == (3, 1)
    assert answers.rindex(b"HTTP/1.1 200") < answers.index(b"HTTP/1.1 404")


def test_a_chunked_body_is_taken(bench: Bench) -> None:
    connection = bench.connection()
    parts = [trace_request(1), trace_request(2)]
    connection.request("POST", "/v1/traces", iter(parts), CHUNKED, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert len(bench.spans) == 3


def test_a_sender_that_asks_first_is_told_to_go_on(bench: Bench) -> None:
    body = trace_request()
    with bench.raw() as sock:
        sock.sendall(
            HEAD + OF_PROTOBUF + b"expect: 100-continue\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 100")
        sock.sendall(body)
        assert read_all(sock).startswith(b"HTTP/1.1 200")


def is_cut_off(sock: socket.socket, piece: Callable[[int], bytes], *, pause: float = 0.0) -> bool:
    """Whether the server ended the connection while ``piece(0)``, ``piece(1)``... were sent."""
    wait = threading.Event().wait
    try:
        for number in range(5000):
            sock.sendall(piece(number))
            wait(pause)
    except ConnectionError:
        return True
    return False


def read_all(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    out = bytearray()
    try:
        while piece := sock.recv(65536):
            out += piece
    except ConnectionResetError:
        pass
    return bytes(out)


# ------------------------------------------------------------------------------------------------------- compression

TWO = trace_request(2)


def wide_frame() -> bytes:
    """A frame of zstd for which 128 MiB would have to be kept."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return compressor.compress(TWO) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TWO)),
        ("GZIP", gzip.compress(TWO)),
        ("x-gzip", gzip.compress(TWO)),
        ("deflate", zlib.compress(TWO)),
        ("zstd", zstd.compress(TWO)),
        ("zstd", zstd.compress(TWO[:10]) + b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstd.compress(b"") + zstd.compress(TWO[10:])),
        ("identity", TWO),
        ("gzip", gzip.compress(TWO[:10]) + gzip.compress(b"") + gzip.compress(TWO[10:])),
    ],
)
def test_each_known_encoding_is_decoded(bench: Bench, encoding: str, body: bytes) -> None:
    assert bench.post(body, {"Content-Encoding": encoding}).status == 200
    assert len(bench.spans) == 2


@pytest.mark.parametrize("encoding", COMPRESSIONS)
def test_many_slices_are_decoded(bench: Bench, encoding: str) -> None:
    text = "".join(f"{number * 7919 % 100_003}" for number in range(200_000))
    body = COMPRESSIONS[encoding](trace_request(1, text=text))
    assert len(body) > 200_000
    assert bench.post(body, {"Content-Encoding": encoding}).status == 200
    assert bench.spans[0].attributes[0].value.string_value == text


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", gzip.compress(TWO)[:-3], "the compressed body is cut off"),
        ("gzip", b"", "the compressed body is cut off"),
        ("gzip", TWO, "the body is said to be gzip and is not, or is damaged"),
        ("gzip", gzip.compress(TWO)[:-6] + b"\0\0\0\0\0\0", "the body is said to be gzip and is not, or is damaged"),
        ("gzip", gzip.compress(TWO) + b"and this is no gzip", "the body is said to be gzip and is not, or is damaged"),
        ("deflate", TWO, "the body is said to be deflate and is not, or is damaged"),
        (
            "deflate",
            zlib.compress(TWO) + b"x",
            "bytes follow the end of the compressed body, or it has too many members",
        ),
        ("gzip", gzip.compress(b"") * 1001, "bytes follow the end of the compressed body, or it has too many members"),
        ("zstd", zstd.compress(b"") * 1001, "bytes follow the end of the compressed body, or it has too many members"),
        ("zstd", zstd.compress(TWO)[:-3], "the compressed body is cut off"),
        ("zstd", b"", "the compressed body is cut off"),
        ("zstd", TWO, "the body is said to be zstd and is not, or is damaged"),
        ("zstd", zstd.compress(TWO) + b"rest", "the body is said to be zstd and is not, or is damaged"),
        ("zstd", wide_frame(), "the body's zstd window is larger than a body may be here; compress it at a lower level"),
        ("br", TWO, "send content-encoding gzip, zstd, deflate, identity"),
        ("gzip, gzip", TWO, "send content-encoding gzip, zstd, deflate, identity"),
    ],
)
def test_a_damaged_or_unknown_compression_is_refused(bench: Bench, encoding: str, body: bytes, message: str) -> None:
    reply = bench.post(body, {"Content-Encoding": encoding})
    assert reply.status == 400
    assert status_of(reply).message == message


def test_a_lack_of_memory_is_not_the_senders_fault() -> None:
    """Whoever sends what is damaged is told never to send it again."""
    program = """
import resource
from pathlib import Path
from otel_langfuse.sidecar.receivers.bodies import expand, zstd

compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 25})
packed = compressor.compress(b"a body") + compressor.flush()
expand(zstd.compress(b"x"), "zstd", 1 << 25)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), -1))
try:
    expand(packed, "zstd", 1 << 25)
except MemoryError as error:
    print(error)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the size is read from /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "for the window of a zstd frame\n"


@pytest.mark.parametrize("content_type", [PROTOBUF, "application/json"])
@pytest.mark.parametrize("encoding", COMPRESSIONS)
def test_a_compression_bomb_does_not_expand(encoding: str, content_type: str) -> None:
    bomb = COMPRESSIONS[encoding](bytes(400 << 20))
    with receiving(protocol(max_request_body_size="4MiB")) as bench:
        bench.post(trace_request())
        tracemalloc.start()
        try:
            reply = bench.post(bomb, {"Content-Encoding": encoding, "Content-Type": content_type})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert reply.status == 413
        assert b"the decompressed body is larger than 4194304 bytes" in reply.body
        assert peak < 32 << 20
        assert bench.counters.counts["too_large"] == 1


def test_expanded_bodies_are_bounded_together() -> None:
    """While the journal waits, as many have been expanded as there is room for, and the rest are when it goes on."""
    body = gzip.compress(trace_request(text="x" * ((1 << 20) - 1000)))
    with receiving(protocol(max_request_body_size="1MiB")) as bench, ThreadPoolExecutor(THREADS) as pool:
        bench.journal.may_commit.clear()
        answers = [pool.submit(bench.post, body, {"Content-Encoding": "gzip"}) for _ in range(THREADS)]
        assert wait_until(lambda: bench.journal.waiting == BODIES_AT_ONCE - 1)  # the last one counts twice
        assert bench.wait_for_count("http_requests", THREADS)
        assert bench.journal.waiting == BODIES_AT_ONCE - 1
        bench.journal.may_commit.set()
        assert {answer.result().status for answer in answers} == {200}
        assert len(bench.spans) == THREADS


def test_a_large_body_that_says_its_size_is_taken() -> None:
    """Its zstd window is as large as it is."""
    body = trace_request(text="".join(f"{number * 7919 % 100_003}" for number in range(2_500_000)))
    packed = zstd.compress(body, options={zstd.CompressionParameter.window_log: 27})
    assert zstd.get_frame_info(packed).decompressed_size == len(body) > 10 << 20
    with receiving(protocol()) as bench:
        assert bench.post(packed, {"Content-Encoding": "zstd"}).status == 200
        assert len(bench.spans) == 1


def test_a_frame_that_says_that_it_is_too_large_is_too_large() -> None:
    packed = zstd.compress(bytes(40 << 20), options={zstd.CompressionParameter.window_log: 27})
    with receiving(protocol()) as bench:
        assert bench.post(packed, {"Content-Encoding": "zstd"}).status == 413
        assert bench.counters.counts["too_large"] == 1


# ---------------------------------------------------------------------------------------------------- what is refused


def test_invalid_spans_are_left_out_and_named_in_the_partial_success(bench: Bench) -> None:
    reply = bench.post(trace_request(2, bad=3))
    partial = ExportTraceServiceResponse.FromString(reply.body).partial_success
    assert (reply.status, partial.rejected_spans) == (200, 3)
    assert partial.error_message.startswith("3 spans were left out")
    assert len(bench.spans) == 2


def test_invalid_spans_in_json_are_left_out_and_named_in_json(bench: Bench) -> None:
    body = json_request(json_span(), json_span(spanId="00f0"), json_span(traceId="no hexadecimal"))
    reply = bench.post(body, JSON)
    assert reply.status == 200
    assert reply.json["partialSuccess"]["rejectedSpans"] == "2"
    assert len(bench.spans) == 1


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs"])
def test_malformed_protobuf_is_a_bad_request(bench: Bench, path: str) -> None:
    reply = bench.post(b"\x0a\xff" + SECRET.encode(), path=path)
    assert reply.status == 400
    assert status_of(reply).code == 3
    assert "retry-after" not in reply.headers
    assert SECRET.encode() not in reply.body
    assert bench.counters.counts["bad_requests"] == 1


def test_malformed_json_is_a_bad_request_with_the_place(bench: Bench) -> None:
    reply = bench.post(json_request(json_span(kind=SECRET)), JSON)
    assert reply.status == 400
    assert reply.json["message"].startswith("resourceSpans[0].scopeSpans[0].spans[0].kind: expected")
    assert SECRET.encode() not in reply.body


@pytest.mark.parametrize(
    ("content_type", "body"), [(PROTOBUF, nested_protobuf(100_000)), ("application/json", nested_json(100_000))]
)
def test_a_hundred_thousand_levels_are_a_bad_request(bench: Bench, content_type: str, body: bytes) -> None:
    assert bench.post(body, {"Content-Type": content_type}).status == 400
    assert bench.post(trace_request()).status == 200


def test_an_unknown_path_is_told_the_right_ones(bench: Bench) -> None:
    reply = bench.post(trace_request(), path="/v1/metrics")
    assert reply.status == 404
    assert "traces: /v1/traces" in status_of(reply).message
    assert "logs: /v1/logs" in status_of(reply).message


def test_a_signal_that_no_pipeline_takes_has_no_path() -> None:
    with receiving(protocol(), signals=frozenset({Signal.TRACES})) as bench:
        reply = bench.post(log_request(), path="/v1/logs")
        assert reply.status == 404
        assert status_of(reply).message.endswith("this receiver takes traces: /v1/traces")


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "DELETE"])
def test_other_methods_are_told_of_post(bench: Bench, method: str) -> None:
    reply = bench.post(method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_other_content_types_are_told_of_the_right_ones(bench: Bench, content_type: str) -> None:
    reply = bench.post(trace_request(), {"Content-Type": content_type})
    assert reply.status == 415
    assert "application/x-protobuf" in reply.json["message"]
    assert bench.counters.counts["unsupported_requests"] == 1


def test_a_body_over_the_limit_is_refused_and_the_answer_arrives() -> None:
    with receiving(protocol(max_request_body_size=100_000)) as bench:
        reply = bench.post(b"\x0a" * 300_000)
        assert (reply.status, status_of(reply).code) == (413, 8)
        assert "100000 bytes" in status_of(reply).message
        connection = bench.connection()
        chunks = (b"x" * 50_000 for _ in range(6))
        connection.request("POST", "/v1/traces", chunks, CHUNKED, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        assert bench.counters.counts["too_large"] == 2


def test_a_body_without_end_is_cut_off() -> None:
    with receiving(protocol(max_request_body_size=1000)) as bench, bench.raw() as sock:
        sock.sendall(HEAD + OF_PROTOBUF + b"transfer-encoding: chunked\r\n\r\n")
        assert is_cut_off(sock, lambda _: b"10000\r\n" + b"x" * 65536 + b"\r\n")


def test_a_sender_that_asks_first_is_refused_before_it_sends() -> None:
    with receiving(protocol(max_request_body_size=1000)) as bench, bench.raw() as sock:
        sock.sendall(HEAD + OF_PROTOBUF + b"expect: 100-continue\r\ncontent-length: 100000\r\n\r\n")
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer secret-token-and-more", 401),
        ("Bearer", 401),
        ("Basic secret-token", 401),
        ("secret-token", 401),
        ("Bearer secret-token", 200),
        ("bearer  secret-token", 200),
    ],
)
def test_only_the_right_token_opens(shown: str | None, status: int) -> None:
    with receiving(protocol(), token="secret-token") as bench:
        reply = bench.post(trace_request(), {"Authorization": shown} if shown else {})
        assert reply.status == status
        assert len(bench.spans) == (1 if status == 200 else 0)
        if status == 401:
            assert reply.headers["www-authenticate"] == "Bearer"
            assert b"secret-token" not in reply.body
            assert bench.counters.counts["unauthenticated"] == 1


def test_a_token_may_stand_without_a_scheme() -> None:
    with receiving(protocol(), token="secret-token", scheme="") as bench:
        assert bench.post(trace_request(), {"Authorization": "secret-token"}).status == 200
        assert bench.post(trace_request(), {"Authorization": "Bearer secret-token"}).status == 401


# ---------------------------------------------------------------------------------------------------------- come again


def test_a_full_queue_means_429_with_a_delay(bench: Bench) -> None:
    bench.journal.error = RefusedError("full", reason="journal_full", retry_after=2.5)
    reply = bench.post(trace_request())
    assert (reply.status, reply.headers["retry-after"], status_of(reply).code) == (429, "3", 8)
    bench.sink.room = False
    assert bench.post(json_request(json_span()), JSON).headers["retry-after"] == "1"
    assert bench.counters.counts["requests_told_to_wait"] == 2


def test_a_shutdown_means_503_with_a_delay(bench: Bench) -> None:
    bench.intake.close()
    reply = bench.post(trace_request())
    assert (reply.status, reply.headers["retry-after"], status_of(reply).code) == (503, "1", 14)


def test_an_unforeseen_error_is_told_to_come_again_and_logged_once_without_content(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.journal.error = KeyError(SECRET)
    with caplog.at_level(logging.DEBUG):
        replies = [bench.post(trace_request(text=SECRET)) for _ in range(3)]
    assert {reply.status for reply in replies} == {503}
    assert {reply.headers["retry-after"] for reply in replies} == {"1"}
    lines = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert "KeyError" in lines[0].getMessage()
    assert SECRET not in caplog.text
    assert all(SECRET.encode() not in reply.body for reply in replies)
    assert bench.counters.counts["receiver_errors"] == 3


def test_too_many_bytes_at_once_are_told_to_come_again() -> None:
    body = trace_request(text="x" * 900)
    with receiving(protocol(max_request_body_size=len(body))) as bench, ThreadPoolExecutor(BODIES_AT_ONCE) as pool:
        bench.journal.may_commit.clear()
        first = [pool.submit(bench.post, body) for _ in range(BODIES_AT_ONCE)]
        assert wait_until(lambda: bench.counters.counts.get("requests_received", 0) == BODIES_AT_ONCE)
        reply = bench.post(body)
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        bench.journal.may_commit.set()
        assert {one.result(DEADLINE).status for one in first} == {200}
        assert bench.post(body).status == 200


# -------------------------------------------------------------------------------------------------- slow and many clients


def test_a_client_that_is_slow_with_its_head_is_cut_off() -> None:
    with receiving(protocol(read_timeout="200ms")) as bench, bench.raw() as sock:
        sock.sendall(b"POST /v1/traces HTTP/1.1\r\nhost:")
        assert read_all(sock) == b""
        assert bench.counters.counts["slow_clients"] == 1


def test_a_client_that_trickles_its_head_is_cut_off() -> None:
    with receiving(protocol(read_timeout="200ms")) as bench, bench.raw() as sock:
        sock.sendall(HEAD)
        assert is_cut_off(sock, lambda number: b"x-%d: y\r\n" % number, pause=0.01)
        assert bench.counters.counts["slow_clients"] == 1


def test_a_client_that_is_slow_with_its_body_is_told_to_come_again() -> None:
    with receiving(protocol(read_timeout="200ms")) as bench, bench.raw() as sock:
        sock.sendall(HEAD + OF_JSON + b"content-length: 100\r\n\r\n{")
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"did not arrive within 0.2 s" in answer
        assert bench.counters.counts["slow_clients"] == 1


@pytest.mark.parametrize("after_a_request", [False, True])
def test_an_idle_connection_is_closed(after_a_request: bool) -> None:
    with receiving(protocol(idle_timeout="300ms")) as bench, bench.raw() as sock:
        if after_a_request:
            sock.sendall(HEAD + OF_JSON + b"content-length: 2\r\n\r\n{}")
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 200" if after_a_request else b"")
        assert "slow_clients" not in bench.counters.counts


def test_a_client_that_leaves_amid_its_body_is_counted(bench: Bench) -> None:
    with bench.raw() as sock:
        sock.sendall(HEAD + OF_JSON + b"content-length: 100\r\n\r\n{")
        assert bench.wait_for_count("http_requests")
    assert bench.wait_for_count("incomplete_requests")


def test_a_client_that_does_not_read_its_answers_is_cut_off() -> None:
    with receiving(protocol(read_timeout="300ms")) as bench, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(DEADLINE)
        sock.connect(bench.address)
        request = b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
        assert is_cut_off(sock, lambda _: request * 100)
        # Either its answers piled up, or (with another parser) its requests did.
        assert wait_until(lambda: bool({"slow_clients", "connections_refused"} & set(bench.counters.counts)))


def test_a_head_without_end_is_refused(bench: Bench) -> None:
    with bench.raw() as sock:
        try:
            for number in range(100):
                sock.sendall(b"%s-%d: y\r\n" % (b"POST / HTTP/1.1\r\nx" if number == 0 else b"x" * 4096, number))
            answer = read_all(sock)
        except ConnectionError:
            answer = b"HTTP/1.1 400"  # Closed before all was sent, and the answer was lost by it.
        assert answer[9:12] in (b"400", b"431")


def test_rubbish_is_answered_each_time_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        with bench.raw() as sock:
            sock.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 400")
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1


def test_the_log_names_each_kind_of_lost_request_once(caplog: pytest.LogCaptureFixture) -> None:
    admitted = {"Authorization": "Bearer secret-token"}
    with receiving(protocol(max_request_body_size="1MiB"), token="secret-token") as bench:
        bench.journal.error = RefusedError("the journal is full", reason="journal_full")
        for _ in range(3):
            assert bench.post(trace_request(), {"Authorization": f"Bearer {SECRET}"}).status == 401
            assert bench.post(trace_request(), {**admitted, "Content-Encoding": "br"}).status == 400
            assert bench.post(trace_request(), admitted, path="/v1/metrics").status == 404
            assert bench.post(b"\x0a\xff" + SECRET.encode(), admitted).status == 400
            assert bench.post(bytes(2 << 20), admitted).status == 413
            assert bench.post(method="GET", path="/").status == 404
            assert bench.post(method="GET").status == 405
            assert bench.post(trace_request(), admitted).status == 429
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.rpartition(" ")[2] for line in lines] == [
        "unauthenticated.",
        "unsupported_requests.",
        "unsupported_requests.",
        "bad_requests.",
        "too_large.",
    ]
    assert "the token is missing or wrong" in lines[0]
    assert SECRET not in caplog.text
    assert "secret-token" not in caplog.text


def test_a_thousand_idle_connections_do_not_keep_a_request_out(bench: Bench) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(bench.raw())
        assert bench.post(trace_request()).status == 200
    assert len(bench.spans) == 1


def test_a_connection_too_many_is_told_to_come_again_and_the_others_are_served() -> None:
    with receiving(protocol(max_connections=3)) as bench, ExitStack() as stack:
        inside = bench.connection()
        stack.callback(inside.close)
        inside.connect()
        for _ in range(2):
            stack.enter_context(bench.raw())
        reply = bench.post(json_request(json_span()), JSON)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "max_connections" in reply.json["message"]
        inside.request("POST", "/v1/traces", trace_request(), {"Content-Type": PROTOBUF})
        assert inside.getresponse().status == 200
        assert bench.counters.counts["connections_refused"] == 1


def test_far_too_many_connections_are_closed_at_once() -> None:
    with receiving(protocol(max_connections=2)) as bench, ExitStack() as stack:
        sockets = [stack.enter_context(bench.raw()) for _ in range(5)]
        assert read_all(sockets[4]) == b""


def test_many_senders_at_once_lose_nothing() -> None:
    with receiving(protocol()) as bench, ThreadPoolExecutor(16) as pool:

        def send(sender: int) -> list[int]:
            connection = bench.connection()
            statuses = []
            for number in range(20):
                body = trace_request(1, text=f"{sender}/{number}")
                connection.request("POST", "/v1/traces", body, {"Content-Type": PROTOBUF})
                response = connection.getresponse()
                statuses.append(response.status)
                response.read()
            connection.close()
            return statuses

        assert {status for statuses in pool.map(send, range(16)) for status in statuses} == {200}
        texts = sorted(span.attributes[0].value.string_value for span in bench.spans)
        assert texts == sorted(f"{sender}/{number}" for sender in range(16) for number in range(20))


# ----------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


def test_tls_is_served(certificates: Certificates) -> None:
    tls = ServerTls(cert_file=certificates.cert_file, key_file=certificates.key_file)
    with receiving(protocol(tls=tls), client_tls=certificates.client()) as bench:
        assert bench.post(trace_request(2, text="x" * 200_000)).status == 200
        assert len(bench.spans) == 2


def test_plain_text_to_a_tls_listener_gets_nothing(certificates: Certificates) -> None:
    tls = ServerTls(cert_file=certificates.cert_file, key_file=certificates.key_file)
    with receiving(protocol(tls=tls)) as bench, bench.raw() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP" not in read_all(sock)


def test_a_client_without_certificate_is_kept_out(certificates: Certificates) -> None:
    tls = ServerTls(cert_file=certificates.cert_file, key_file=certificates.key_file, client_ca_file=certificates.ca_file)
    with receiving(protocol(tls=tls), client_tls=certificates.client()) as bench:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            bench.post(trace_request())
        bench.client_tls = certificates.client(with_certificate=True)
        assert bench.post(trace_request()).status == 200


def broken(tmp_path: Path, certificates: Certificates) -> dict[str, ServerTls]:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no PEM")
    return {
        "no file": ServerTls(cert_file="/nowhere/cert.pem", key_file=certificates.key_file),
        "no certificate": ServerTls(cert_file=str(rubbish), key_file=certificates.key_file),
        "no authorities": ServerTls(
            cert_file=certificates.cert_file, key_file=certificates.key_file, client_ca_file=str(rubbish)
        ),
    }


@pytest.mark.parametrize("kind", ["no file", "no certificate", "no authorities"])
def test_unusable_tls_files_are_named(tmp_path: Path, certificates: Certificates, kind: str) -> None:
    tls = broken(tmp_path, certificates)[kind]
    receiver = unstarted(protocol(tls=tls))
    with pytest.raises(ConfigError, match=r"receivers\.otlp\.protocols\.http\.tls: cannot use .*\.pem") as caught:
        receiver.start()
    assert caught.value.field == "receivers.otlp.protocols.http.tls"
    receiver.stop(0)


# ---------------------------------------------------------------------------------------------------- begin and end


def unstarted(settings: HttpProtocol) -> HttpReceiver:
    counters = Counters()
    listener = Listener("otlp", settings, None, "Bearer", frozenset(Signal))
    return HttpReceiver(listener, Intake(None, {}, counters), counters)  # type: ignore[arg-type]  # nothing comes


def test_an_address_in_use_is_named_with_the_cause(bench: Bench) -> None:
    endpoint = bench.target
    receiver = unstarted(protocol(endpoint=endpoint))
    with pytest.raises(ConfigError, match=rf"http\.endpoint: cannot listen on {endpoint}: Address already in use"):
        receiver.start()
    receiver.stop(0)
    assert bench.post(trace_request()).status == 200


def test_an_unknown_host_is_named() -> None:
    receiver = unstarted(protocol(endpoint="no-such-host.invalid:4318"))
    with pytest.raises(ConfigError, match=r"cannot listen on no-such-host\.invalid:4318"):
        receiver.start()
    receiver.stop(0)


def test_a_name_is_listened_on() -> None:
    with receiving(protocol(endpoint="localhost:0")) as bench:
        assert bench.address[0] == "localhost"
        assert bench.post(trace_request()).status == 200


def test_a_request_in_progress_ends_before_the_stop_does(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with ThreadPoolExecutor(2) as pool:
        reply = pool.submit(bench.post, trace_request())
        assert bench.journal.asked.wait(DEADLINE)
        stopped = pool.submit(bench.receiver.stop, 10.0)
        assert wait_until(lambda: not accepts(bench))
        assert not stopped.done()
        bench.journal.may_commit.set()
        assert reply.result(DEADLINE).status == 200
        stopped.result(DEADLINE)
    assert len(bench.spans) == 1


def accepts(bench: Bench) -> bool:
    try:
        socket.create_connection(bench.address, timeout=1).close()
    except OSError:
        return False
    return True


def test_a_request_that_outlasts_the_grace_is_told_to_come_again(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(bench.post, trace_request())
        assert bench.journal.asked.wait(DEADLINE)
        bench.receiver.stop(0.1)
        assert reply.result(DEADLINE).status == 503
        bench.journal.may_commit.set()


@pytest.mark.parametrize("begun", [b"", b"POST /v1/tr"])
def test_connections_without_a_request_do_not_hold_up_the_stop(bench: Bench, begun: bytes) -> None:
    with bench.raw() as sock:
        sock.sendall(begun)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(bench.receiver.stop, 60.0).result(DEADLINE)
        assert read_all(sock) == b""


def test_stop_may_come_twice_and_before_the_start(bench: Bench) -> None:
    bench.receiver.stop(1)
    bench.receiver.stop(1)
    unstarted(protocol()).stop(1)


def test_neither_logging_nor_signals_are_touched() -> None:
    def state() -> tuple[object, ...]:
        root = logging.getLogger()
        uvicorn = logging.getLogger("uvicorn")
        return root.level, list(root.handlers), uvicorn.level, list(uvicorn.handlers), signals.getsignal(signals.SIGTERM)

    before = state()
    with receiving(protocol()):
        assert state() == before


def test_a_log_record_holds_no_request(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        bench.post(trace_request(text=SECRET), {"Authorization": f"Bearer {SECRET}"})
        bench.post(SECRET.encode())
    assert SECRET not in caplog.text


# -------------------------------------------------------------------------------------------------------- real exporters


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
def test_the_sdks_exporters_are_understood(bench: Bench, compression: Compression) -> None:
    url = f"http://{bench.target}"
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{url}/v1/traces", compression=compression)))
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(endpoint=f"{url}/v1/logs", compression=compression)))
    with tracers.get_tracer("t").start_as_current_span("from the SDK"):
        logs.get_logger("l").emit(event_name="an event")
    tracers.shutdown()
    logs.shutdown()
    assert [span.name for span in bench.spans] == ["from the SDK"]
    assert [record.event_name for record in bench.log_records] == ["an event"]


def test_the_partial_success_of_logs_is_empty(bench: Bench) -> None:
    reply = bench.post(log_request(), path="/v1/logs")
    assert not ExportLogsServiceResponse.FromString(reply.body).HasField("partial_success")


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_vanishes_while_its_request_is_taken_does_no_harm(bench: Bench, reset: bool) -> None:
    bench.journal.may_commit.clear()
    body = trace_request()
    with bench.raw() as sock:
        sock.sendall(
            b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n"
            % len(body)
            + body
        )
        assert bench.journal.asked.wait(DEADLINE)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bench.journal.may_commit.set()
    assert wait_until(lambda: len(bench.sink.entries) == 1)
    assert bench.post(trace_request()).status == 200

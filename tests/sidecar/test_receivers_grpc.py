"""The gRPC listener against real clients: what it takes, what it answers, and what it survives."""

from __future__ import annotations

import gzip
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import GrpcProtocol, ServerTls
from otel_langfuse.sidecar.entry import RefusedError, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers import GrpcReceiver
from otel_langfuse.sidecar.receivers.otlp_grpc import THREADS
from sidecar.receiving import (
    DEADLINE,
    Bench,
    Certificates,
    grpc_protocol,
    log_request,
    nested_protobuf,
    receiving,
    trace_request,
    wait_until,
)

SECRET = "the prompt that nobody may see"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
MIB = 1 << 20


@contextmanager
def channel_to(bench: Bench, credentials: grpc.ChannelCredentials | None = None) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = grpc.insecure_channel(bench.target, options)
    else:
        channel = grpc.secure_channel(bench.target, credentials, options)
    with channel:
        yield channel


def export(bench: Bench, body: bytes, method: str = TRACES, **more: Any) -> bytes:
    with channel_to(bench) as channel:
        answer = channel.unary_unary(method)(body, timeout=DEADLINE, **more)
        assert isinstance(answer, bytes)
        return answer


def refusal(bench: Bench, body: bytes, method: str = TRACES, **more: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        export(bench, body, method, **more)
    return caught.value


def details_of(error: Any) -> Status | None:
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            return Status.FromString(value)
    return None


# ----------------------------------------------------------------------------------------------------- what is taken


def test_spans_are_taken_as_they_came(bench: Bench) -> None:
    body = trace_request(3)
    assert export(bench, body) == b""
    assert [entry.payload for entry in bench.taken(Signal.TRACES)] == [body]
    assert bench.counters.counts["grpc_requests"] == 1


def test_log_records_are_taken(bench: Bench) -> None:
    answer = export(bench, log_request(2), LOGS)
    assert not ExportLogsServiceResponse.FromString(answer).HasField("partial_success")
    assert len(bench.log_records) == 2


def test_an_empty_request_is_a_success(bench: Bench) -> None:
    assert export(bench, b"") == b""
    assert bench.sink.entries == []


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [0, 300_000])
def test_each_compression_is_taken(bench: Bench, compression: grpc.Compression, size: int) -> None:
    body = trace_request(2, text="x" * size)
    export(bench, body, compression=compression)
    assert [entry.payload for entry in bench.taken(Signal.TRACES)] == [body]


def test_invalid_spans_are_left_out_and_named_in_the_partial_success(bench: Bench) -> None:
    partial = ExportTraceServiceResponse.FromString(export(bench, trace_request(2, bad=3))).partial_success
    assert partial.rejected_spans == 3
    assert partial.error_message.startswith("3 spans were left out")
    assert len(bench.spans) == 2


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_the_sdks_exporters_are_understood(bench: Bench, compression: grpc.Compression) -> None:
    tracers = TracerProvider()
    spans = OTLPSpanExporter(endpoint=bench.target, insecure=True, compression=compression)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    logs = LoggerProvider()
    records = OTLPLogExporter(endpoint=bench.target, insecure=True, compression=compression)
    logs.add_log_record_processor(SimpleLogRecordProcessor(records))
    with tracers.get_tracer("t").start_as_current_span("from the SDK"):
        logs.get_logger("l").emit(event_name="an event")
    tracers.shutdown()
    logs.shutdown()
    assert [span.name for span in bench.spans] == ["from the SDK"]
    assert [record.event_name for record in bench.log_records] == ["an event"]


def test_many_senders_at_once_lose_nothing(bench: Bench) -> None:
    with channel_to(bench) as channel, ThreadPoolExecutor(16) as pool:
        call = channel.unary_unary(TRACES)

        def send(number: int) -> bytes:
            answer = call(trace_request(1, text=f"{number}"), timeout=DEADLINE)
            assert isinstance(answer, bytes)
            return answer

        assert set(pool.map(send, range(320))) == {b""}
    assert sorted(int(span.attributes[0].value.string_value) for span in bench.spans) == list(range(320))


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("method", [METRICS, TRACES.replace("Export", "Import"), "/no.Service/Export"])
def test_other_methods_are_unimplemented(bench: Bench, method: str) -> None:
    assert refusal(bench, b"", method).code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_signal_that_no_pipeline_takes_is_unimplemented() -> None:
    with receiving(grpc_protocol(), signals=frozenset({Signal.TRACES})) as bench:
        assert refusal(bench, log_request(), LOGS).code() is grpc.StatusCode.UNIMPLEMENTED
        assert export(bench, trace_request()) == b""


@pytest.mark.parametrize("method", [TRACES, LOGS])
def test_malformed_protobuf_is_an_invalid_argument(bench: Bench, method: str) -> None:
    error = refusal(bench, b"\x0a\xff" + SECRET.encode(), method)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error) is None
    assert SECRET not in error.details()
    assert bench.counters.counts["bad_requests"] == 1


def test_a_call_without_a_message_is_an_invalid_argument(bench: Bench) -> None:
    with channel_to(bench) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(TRACES)(iter(()), timeout=DEADLINE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bench.sink.entries == []


@pytest.mark.parametrize("start", [b"\x1f\x8b", b"\x78\x9c"])
def test_bytes_that_only_look_compressed_are_an_invalid_argument(bench: Bench, start: bytes) -> None:
    assert refusal(bench, start + b"rest").code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_hundred_thousand_levels_are_an_invalid_argument(bench: Bench) -> None:
    assert refusal(bench, nested_protobuf(100_000)).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert export(bench, trace_request()) == b""


def test_a_message_over_the_limit_is_refused_for_good() -> None:
    with receiving(grpc_protocol(max_recv_msg_size_mib=1)) as bench:
        error = refusal(bench, bytes(MIB + 1))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(error) is None
        assert error.details() == "the message is larger than 1048576 bytes; send less in one request"
        assert bench.counters.counts["too_large"] == 1
        assert export(bench, trace_request(text="x" * (MIB - 1000))) == b""


@pytest.mark.parametrize("compression", ["Gzip", "Deflate"])
def test_a_compression_bomb_does_not_expand(compression: str) -> None:
    """The sender is a process of its own, so that this one's peak is the receiver's."""
    sender = f"""
import grpc, sys
channel = grpc.insecure_channel(sys.argv[1], [("grpc.max_send_message_length", -1)])
try:
    channel.unary_unary({TRACES!r})(bytes(250 << 20), compression=grpc.Compression.{compression}, timeout=60)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""
    with receiving(grpc_protocol(max_recv_msg_size_mib=2)) as bench:
        export(bench, trace_request())
        before = peak_memory()
        answer = subprocess.run(
            [sys.executable, "-c", sender, bench.target], capture_output=True, text=True, timeout=90, check=True
        )
        assert answer.stdout.startswith("RESOURCE_EXHAUSTED the decompressed body is larger than 2097152 bytes")
        assert peak_memory() - before < 50 * MIB
        assert bench.counters.counts["too_large"] == 1


def peak_memory() -> int:
    """Bytes that this process has held at the most since the last call."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak is read from /proc")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) * 1024


def test_a_compressed_message_just_within_the_limit_is_taken() -> None:
    with receiving(grpc_protocol(max_recv_msg_size_mib=1)) as bench:
        body = trace_request(text="x" * (MIB - 1000))
        export(bench, body, compression=grpc.Compression.Gzip)
        assert [entry.payload for entry in bench.taken(Signal.TRACES)] == [body]


@pytest.mark.parametrize(
    ("shown", "opens"),
    [
        (None, False),
        ("Bearer wrong", False),
        ("Basic secret-token", False),
        ("Bearer secret-token", True),
        ("bearer secret-token", True),
    ],
)
def test_only_the_right_token_opens(shown: str | None, opens: bool) -> None:
    metadata = (("authorization", shown),) if shown else ()
    with receiving(grpc_protocol(), token="secret-token") as bench:
        if opens:
            assert export(bench, trace_request(), metadata=metadata) == b""
            return
        error = refusal(bench, trace_request(), metadata=metadata)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "secret-token" not in error.details()
        assert bench.spans == []
        assert bench.counters.counts["unauthenticated"] == 1


# ---------------------------------------------------------------------------------------------------------- come again


def test_a_full_queue_is_resource_exhausted_with_a_delay(bench: Bench) -> None:
    bench.journal.error = RefusedError("full", reason="journal_full", retry_after=2.5)
    error = refusal(bench, trace_request())
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    status = details_of(error)
    assert status is not None
    assert (status.code, status.message) == (8, "full")
    assert retry_delay(status) == 2.5
    assert bench.counters.counts["requests_told_to_wait"] == 1


def retry_delay(status: Status) -> float:
    (detail,) = status.details
    assert isinstance(detail, AnyMessage)
    info = RetryInfo()
    assert detail.Unpack(info)
    return info.retry_delay.seconds + info.retry_delay.nanos / 1e9


def test_a_shutdown_is_unavailable_with_a_delay(bench: Bench) -> None:
    bench.intake.close()
    error = refusal(bench, trace_request())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    status = details_of(error)
    assert status is not None
    assert retry_delay(status) == 1.0


def test_the_sdks_exporter_comes_again_after_the_delay(bench: Bench) -> None:
    bench.journal.error = RefusedError("full", reason="queue_full", retry_after=0.05)
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=bench.target, insecure=True)))
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(tracers.get_tracer("t").start_span("kept by the sender").end)
        assert bench.wait_for_count("requests_told_to_wait")
        bench.journal.error = None
        sent.result(DEADLINE)
    tracers.shutdown()
    assert [span.name for span in bench.spans] == ["kept by the sender"]


def test_an_unforeseen_error_is_unavailable_and_logged_once_without_content(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.journal.error = KeyError(SECRET)
    with caplog.at_level(logging.DEBUG):
        errors = [refusal(bench, trace_request(text=SECRET)) for _ in range(3)]
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert all(details_of(error) is not None for error in errors)
    lines = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert "KeyError" in lines[0].getMessage()
    assert SECRET not in caplog.text
    assert all(SECRET not in error.details() for error in errors)


# -------------------------------------------------------------------------------------------------- slow and many clients


def test_calls_that_never_send_their_message_do_not_keep_others_out() -> None:
    with receiving(grpc_protocol(), message_timeout=0.3) as bench, ExitStack() as stack:
        never = threading.Event()
        stack.callback(never.set)
        channel = stack.enter_context(channel_to(bench))

        def silent() -> Iterator[bytes]:
            never.wait(DEADLINE)
            yield b""

        calls = [channel.stream_unary(TRACES).future(silent()) for _ in range(THREADS)]
        assert bench.wait_for_count("grpc_requests", THREADS)
        assert export(bench, trace_request()) == b""
        assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
        assert bench.wait_for_count("slow_clients", THREADS)


def test_a_thousand_idle_connections_do_not_keep_a_request_out(bench: Bench) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(bench.raw())
        assert export(bench, trace_request()) == b""


def test_calls_beyond_the_stream_limit_wait_and_are_taken() -> None:
    with receiving(grpc_protocol(max_concurrent_streams=2)) as bench, channel_to(bench) as channel:
        channel.unary_unary(TRACES)(trace_request(), timeout=DEADLINE)  # Now the sender knows the limit.
        bench.journal.may_commit.clear()
        calls = [channel.unary_unary(TRACES).future(trace_request(), timeout=DEADLINE) for _ in range(6)]
        assert bench.wait_for_count("requests_received", 3)
        assert bench.counters.counts["grpc_requests"] == 3
        bench.journal.may_commit.set()
        assert [call.result(DEADLINE) for call in calls] == [b""] * 6


def test_a_sender_that_gives_up_does_no_harm(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with channel_to(bench) as channel:
        call = channel.unary_unary(TRACES).future(trace_request())
        assert bench.journal.asked.wait(DEADLINE)
        call.cancel()
    bench.journal.may_commit.set()
    assert wait_until(lambda: len(bench.sink.entries) == 1)
    assert export(bench, trace_request()) == b""


def test_rubbish_on_the_connection_does_no_harm(bench: Bench) -> None:
    with bench.raw() as sock:
        sock.sendall(gzip.compress(bytes(100_000)) * 100)
    assert export(bench, trace_request()) == b""


def test_an_idle_connection_is_told_to_go() -> None:
    keepalive = {"server_parameters": {"max_connection_idle": "200ms"}}
    empty_settings, go_away = b"\0\0\0\x04\0\0\0\0\0", 7
    with receiving(grpc_protocol(keepalive=keepalive)) as bench, bench.raw() as sock, sock.makefile("rb") as stream:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        while True:
            head = stream.read(9)
            stream.read(int.from_bytes(head[:3], "big"))
            if head[3] == go_away:
                break


# ----------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


def credentials_of(certificates: Certificates, *, with_certificate: bool = False) -> grpc.ChannelCredentials:
    roots = Path(certificates.ca_file).read_bytes()
    if not with_certificate:
        return grpc.ssl_channel_credentials(roots)
    own = certificates.ca.issue_cert("client.example")
    return grpc.ssl_channel_credentials(roots, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())


def call_over_tls(bench: Bench, credentials: grpc.ChannelCredentials) -> bytes:
    with channel_to(bench, credentials) as channel:
        answer = channel.unary_unary(TRACES)(trace_request(), timeout=5)
        assert isinstance(answer, bytes)
        return answer


def test_tls_is_served(certificates: Certificates) -> None:
    tls = ServerTls(cert_file=certificates.cert_file, key_file=certificates.key_file)
    with receiving(grpc_protocol(tls=tls)) as bench:
        assert call_over_tls(bench, credentials_of(certificates)) == b""
        assert refusal(bench, trace_request()).code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_without_certificate_is_kept_out(certificates: Certificates) -> None:
    tls = ServerTls(cert_file=certificates.cert_file, key_file=certificates.key_file, client_ca_file=certificates.ca_file)
    with receiving(grpc_protocol(tls=tls)) as bench:
        with pytest.raises(grpc.RpcError):
            call_over_tls(bench, credentials_of(certificates))
        assert call_over_tls(bench, credentials_of(certificates, with_certificate=True)) == b""
        assert len(bench.spans) == 1


def test_a_connection_made_while_the_listener_leaves_is_not_served(certificates: Certificates) -> None:
    tls = ServerTls(cert_file=certificates.cert_file, key_file=certificates.key_file)
    with receiving(grpc_protocol(tls=tls)) as bench, channel_to(bench, credentials_of(certificates)) as channel:
        bench.journal.may_commit.clear()
        call = channel.unary_unary(TRACES).future(trace_request(), timeout=DEADLINE)
        assert bench.journal.asked.wait(DEADLINE)
        with bench.raw() as sock, ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(bench.receiver.stop, DEADLINE)
            assert wait_until(lambda: not accepts(bench))
            try:
                with certificates.client().wrap_socket(sock, server_hostname="127.0.0.1") as late:
                    assert late.recv(1) == b""
            except OSError:
                pass  # It ended before the handshake did.
            bench.journal.may_commit.set()
            assert call.result(DEADLINE) == b""
            stopped.result(DEADLINE)


@pytest.mark.parametrize("key", ["cert_file", "key_file", "client_ca_file"])
def test_unusable_tls_files_are_named(tmp_path: Path, certificates: Certificates, key: str) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no PEM")
    files = {"cert_file": certificates.cert_file, "key_file": certificates.key_file, key: str(rubbish)}
    receiver = unstarted(grpc_protocol(tls=files))
    with pytest.raises(ConfigError, match=r"receivers\.otlp\.protocols\.grpc\.tls: cannot use .*rubbish\.pem"):
        receiver.start()
    receiver.stop(0)


# ---------------------------------------------------------------------------------------------------- begin and end


def unstarted(settings: GrpcProtocol) -> GrpcReceiver:
    counters = Counters()
    listener = Listener("otlp", settings, None, "Bearer", frozenset(Signal))
    return GrpcReceiver(listener, Intake(None, {}, counters), counters)  # type: ignore[arg-type]  # nothing comes


def test_an_address_in_use_is_named_with_the_cause(bench: Bench) -> None:
    endpoint = bench.target
    receiver = unstarted(grpc_protocol(endpoint=endpoint))
    with pytest.raises(ConfigError, match=rf"grpc\.endpoint: cannot listen on {endpoint}: Address already in use") as caught:
        receiver.start()
    assert (caught.value.field, caught.value.source) == ("receivers.otlp.protocols.grpc.endpoint", endpoint)
    receiver.stop(0)
    assert export(bench, trace_request()) == b""


def test_an_unknown_host_is_named() -> None:
    receiver = unstarted(grpc_protocol(endpoint="no-such-host.invalid:4317"))
    with pytest.raises(ConfigError, match=r"cannot listen on no-such-host\.invalid:4317"):
        receiver.start()
    receiver.stop(0)


def test_a_request_in_progress_ends_before_the_stop_does(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with channel_to(bench) as channel, ThreadPoolExecutor(1) as pool:
        call = channel.unary_unary(TRACES).future(trace_request(), timeout=DEADLINE)
        assert bench.journal.asked.wait(DEADLINE)
        stopped = pool.submit(bench.receiver.stop, 10.0)
        assert wait_until(lambda: not accepts(bench))
        assert not stopped.done()
        bench.journal.may_commit.set()
        assert call.result(DEADLINE) == b""
        stopped.result(DEADLINE)
    assert len(bench.spans) == 1


def accepts(bench: Bench) -> bool:
    try:
        socket.create_connection(bench.address, timeout=1).close()
    except OSError:
        return False
    return True


def test_a_request_that_outlasts_the_grace_is_cancelled(bench: Bench) -> None:
    bench.journal.may_commit.clear()
    with channel_to(bench) as channel:
        call = channel.unary_unary(TRACES).future(trace_request(), timeout=DEADLINE)
        assert bench.journal.asked.wait(DEADLINE)
        bench.receiver.stop(0.1)
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        bench.journal.may_commit.set()


def test_stop_may_come_twice_and_before_the_start(bench: Bench) -> None:
    bench.receiver.stop(1)
    bench.receiver.stop(1)
    unstarted(grpc_protocol()).stop(1)


def test_the_sidecar_needs_no_grpc_library() -> None:
    code = "import sys, otel_langfuse.sidecar.app; print([m for m in sys.modules if m.partition('.')[0] in ('grpc', 'h2')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"

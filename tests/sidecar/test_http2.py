"""The gRPC client against HTTP/2 servers that do as a script says: windows, frames, resets, and servers that go away."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_langfuse.sidecar.config.schema import ClientTls
from otel_langfuse.sidecar.destinations.grpc_sender import GrpcSender
from otel_langfuse.sidecar.destinations.verdicts import Target, Verdict
from otel_langfuse.sidecar.entry import Signal
from otel_langfuse.sidecar.http2.header_blocks import header_block

OK = [(":status", "200"), ("content-type", "application/grpc")]


class Call:
    """A request as a server sees it, and what it may do with it."""

    def __init__(self, line: Line, stream: int, headers: list[tuple[str, str]]) -> None:
        self.line, self.stream, self.headers = line, stream, dict(headers)
        self.body = b""

    @property
    def message(self) -> bytes:
        flag, size = struct.unpack_from(">BI", self.body)
        assert len(self.body) == 5 + size
        return gzip.decompress(self.body[5:]) if flag else self.body[5:]

    def answer(self, message: bytes = b"", *, flag: int = 0, headers: Any = ()) -> None:
        http, body = self.line.http, struct.pack(">BI", flag, len(message)) + message
        http.send_headers(self.stream, [*OK, *headers])
        for at in range(0, len(body), 16_384):
            http.send_data(self.stream, body[at : at + 16_384])
        http.send_headers(self.stream, [("grpc-status", "0")], end_stream=True)


class Line:
    """One connection to a scripted server."""

    def __init__(self, server: Scripted, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False)
        self.http = h2.connection.H2Connection(config)
        self.http.local_settings = h2.settings.Settings(client=False, initial_values=server.settings)
        self.http.max_inbound_frame_size = self.http.local_settings.max_frame_size
        self.largest = 0
        self.pongs: list[bytes] = []
        self._calls: dict[int, Call] = {}

    def raw(self, kind: int, payload: bytes, stream: int = 0, flags: int = 0) -> None:
        """A frame that h2 would not send, after what it has to say."""
        self.flush()
        self.sock.sendall(struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload)

    def flush(self) -> None:
        self.sock.sendall(self.http.data_to_send())

    def run(self) -> None:
        with self.sock:
            try:
                self.http.initiate_connection()
                self.flush()
                while data := self.sock.recv(65536):
                    for event in self.http.receive_data(data):
                        self._on(event)
                    self.flush()
            except OSError:
                pass

    def _on(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            call = self._calls[event.stream_id] = Call(self, event.stream_id, event.headers)
            self.server.begun(call)
        elif isinstance(event, h2.events.DataReceived):
            self.largest = max(self.largest, event.flow_controlled_length)
            self._calls[event.stream_id].body += event.data
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.server.act(self._calls[event.stream_id])
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs.append(event.ping_data)


class Scripted:
    """An HTTP/2 server; each call is for the next act of the script, the rest are answered well."""

    def __init__(self, settings: dict[Any, int] | None = None) -> None:
        self.settings = settings or {}
        self.script: list[Callable[[Call], None]] = []
        self.at_once: list[Callable[[Call], None]] = []
        self.calls: list[Call] = []
        self.lines: list[Line] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.lines.append(Line(self, sock))
            self._threads.append(threading.Thread(target=self.lines[-1].run))
            self._threads[-1].start()

    def begun(self, call: Call) -> None:
        if self.at_once:
            self.at_once.pop(0)(call)

    def act(self, call: Call) -> None:
        self.calls.append(call)
        (self.script.pop(0) if self.script else Call.answer)(call)

    def stop(self) -> None:
        for sock in (self._listener, *(line.sock for line in self.lines)):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def scripted(**settings: int) -> Iterator[Scripted]:
    server = Scripted({getattr(h2.settings.SettingCodes, name): value for name, value in settings.items()})
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as made:
        yield made


@contextmanager
def sending(port: int, *, compressed: bool = False, **headers: str) -> Iterator[GrpcSender]:
    target = Target("otlp_grpc/x", f"127.0.0.1:{port}")
    made = GrpcSender(
        target, f"http://127.0.0.1:{port}", tls=ClientTls(), headers=headers, compressed=compressed, timeout=10
    )  # fmt: skip
    try:
        yield made
    finally:
        made.close()


def sent(sender: GrpcSender, payload: bytes = b"x" * 100, timeout: float = 10) -> Verdict:
    return sender.send(Signal.TRACES, payload, 5, timeout)


# ------------------------------------------------------------------------------------------------------------ sending


@pytest.mark.parametrize("window", [1, 7, 1000, 65_535])
def test_a_small_window_is_respected(window: int) -> None:
    payload = bytes(range(256)) * (2 if window < 100 else 1000)
    with scripted(INITIAL_WINDOW_SIZE=window) as server, sending(server.port) as sender:
        for _ in range(2):
            assert sent(sender, payload).action == "delivered"
        assert [call.message == payload for call in server.calls] == [True, True]  # h2 refuses what exceeds its window
        assert len(server.lines) == 1


@pytest.mark.parametrize("size", [16_384, 100_000])
def test_frames_are_as_large_as_the_server_takes(size: int) -> None:
    with scripted(MAX_FRAME_SIZE=size, INITIAL_WINDOW_SIZE=1 << 20) as server, sending(server.port) as sender:
        assert sent(sender, b"x" * 60_000).action == "delivered"
        assert server.lines[0].largest == min(size, 60_005)


def test_what_the_server_is_told(server: Scripted) -> None:
    with sending(server.port, compressed=True, **{"X-Team": "a", "extra-bin": "\x00\xff"}) as sender:
        assert sent(sender, b"text" * 100, timeout=7).action == "delivered"
    call = server.calls[0]
    assert call.message == b"text" * 100
    told = call.headers
    assert (told[":path"], told[":method"], told[":scheme"]) == (
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "POST", "http",
    )  # fmt: skip
    assert (told["te"], told["content-type"], told["grpc-encoding"]) == ("trailers", "application/grpc", "gzip")
    assert (told["grpc-timeout"], told["grpc-accept-encoding"]) == ("7000m", "identity")
    assert (told["x-team"], told["extra-bin"]) == ("a", "AP8")


def test_headers_beyond_a_frame_are_continued(server: Scripted) -> None:
    with sending(server.port, long="v" * 40_000) as sender:
        assert sent(sender).action == "delivered"
    assert server.calls[0].headers["long"] == "v" * 40_000


def test_a_server_without_header_table_is_spoken_to() -> None:
    with scripted(HEADER_TABLE_SIZE=0) as server, sending(server.port) as sender:
        assert [sent(sender).action for _ in range(2)] == ["delivered", "delivered"]


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("packed", [False, True])
def test_a_partial_success_is_read(server: Scripted, packed: bool) -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 2
    response.partial_success.error_message = "too old"
    body = response.SerializeToString()
    headers = [("grpc-encoding", "gzip")] if packed else []
    server.script = [lambda call: call.answer(gzip.compress(body) if packed else body, flag=int(packed), headers=headers)]
    with sending(server.port) as sender:
        verdict = sent(sender)
    assert (verdict.action, verdict.rejected) == ("delivered", 2)
    assert "too old" in verdict.message


def test_answers_of_any_size_are_bounded_and_windows_given_back(server: Scripted) -> None:
    bomb = zlib.compress(b"\0" * (1 << 24), 9, 31)

    def long(call: Call) -> None:
        call.answer(b"\x0a" * 30_000)

    server.script = [long, long, long, long, lambda call: call.answer(bomb, flag=1, headers=[("grpc-encoding", "gzip")])]
    with sending(server.port) as sender:
        assert {sent(sender).action for _ in range(6)} == {"delivered"}
    assert len(server.lines) == 1


def test_an_error_without_body_is_read_from_its_headers(server: Scripted) -> None:
    ending = [*OK, ("grpc-status", "16"), ("grpc-message", "who%20are%20you%3F")]
    server.script = [lambda call: call.line.http.send_headers(call.stream, ending, end_stream=True)]
    with sending(server.port) as sender:
        verdict = sent(sender)
        assert (verdict.action, verdict.reason, verdict.status) == ("permanent", "unauthorized", "UNAUTHENTICATED")
        assert "who are you?" in verdict.message
        assert sent(sender).action == "delivered"
    assert len(server.lines) == 1


@pytest.mark.parametrize(
    ("status", "code", "action", "ambiguous"),
    [
        ("401", "UNAUTHENTICATED", "permanent", False), ("404", "UNIMPLEMENTED", "permanent", False),
        ("429", "UNAVAILABLE", "retry", False), ("503", "UNAVAILABLE", "retry", False),
        ("502", "UNAVAILABLE", "retry", True), ("418", "UNKNOWN", "permanent", False),
        ("200", "UNKNOWN", "permanent", False),
    ],
)  # fmt: skip
def test_what_is_no_grpc_is_judged_by_its_http_status(
    server: Scripted, status: str, code: str, action: str, ambiguous: bool
) -> None:
    headers = [(":status", status), ("content-type", "text/html")]
    server.script = [lambda call: call.line.http.send_headers(call.stream, headers, end_stream=True)]
    with sending(server.port) as sender:
        verdict = sent(sender)
    assert (verdict.status, verdict.action, verdict.ambiguous) == (code, action, ambiguous)


def test_an_answer_that_comes_early_ends_the_upload(server: Scripted) -> None:
    ending = [*OK, ("grpc-status", "8"), ("grpc-message", "message larger than max")]
    server.at_once = [lambda call: call.line.http.send_headers(call.stream, ending, end_stream=True)]
    with sending(server.port) as sender:
        assert sent(sender, b"x" * 1_000_000).action == "split"


# ------------------------------------------------------------------------------------------------ what became of a call


@pytest.mark.parametrize(
    ("code", "again", "ambiguous"), [(7, True, False), (8, False, True), (11, False, False), (2, False, True)]
)
def test_a_reset_stream_is_sent_again_only_if_it_was_refused(server: Scripted, code: int, again: bool, ambiguous: bool) -> None:
    server.script = [lambda call: call.line.http.reset_stream(call.stream, code)]
    with sending(server.port) as sender:
        verdict = sent(sender)
    assert len(server.calls) == (2 if again else 1)
    assert verdict.action == ("delivered" if again else "retry")
    assert verdict.ambiguous is ambiguous


def test_what_is_refused_twice_waits(server: Scripted) -> None:
    server.script = [lambda call: call.line.http.reset_stream(call.stream, 7)] * 2
    with sending(server.port) as sender:
        verdict = sent(sender)
    assert (verdict.action, verdict.ambiguous, len(server.calls)) == ("retry", False, 2)


def test_a_server_that_leaves_without_taking_notice_is_asked_again_elsewhere(server: Scripted) -> None:
    server.script = [lambda call: call.line.raw(7, struct.pack(">II", 0, 0))]
    with sending(server.port) as sender:
        assert sent(sender).action == "delivered"
    assert (len(server.calls), len(server.lines)) == (2, 2)


def test_a_server_that_leaves_finishes_what_it_took_on(server: Scripted) -> None:
    def leave(call: Call) -> None:
        call.line.raw(7, struct.pack(">II", 0x7FFFFFFF, 0))
        call.line.raw(6, b"12345678")
        call.line.raw(7, struct.pack(">II", call.stream, 0))
        call.answer()

    server.script = [leave]
    with sending(server.port) as sender:
        assert sent(sender).action == "delivered"
        assert (len(server.calls), len(server.lines)) == (1, 1)
        assert sent(sender).action == "delivered"
    assert (len(server.calls), len(server.lines)) == (2, 2)


def test_a_server_that_left_between_calls_is_noticed_before_the_next(server: Scripted) -> None:
    left = threading.Semaphore(0)

    def leave_after(call: Call) -> None:
        call.answer()
        call.line.flush()
        call.line.sock.shutdown(socket.SHUT_RDWR)
        left.release()

    server.script = [leave_after] * 3
    with sending(server.port) as sender:
        for _ in range(3):
            verdict = sent(sender)
            assert (verdict.action, verdict.ambiguous) == ("delivered", False)
            assert left.acquire(timeout=5)
    assert len(server.lines) == 3


def test_a_connection_that_breaks_under_a_call_is_an_unknown_outcome(server: Scripted) -> None:
    server.script = [lambda call: call.line.sock.shutdown(socket.SHUT_RDWR)]
    with sending(server.port) as sender:
        verdict = sent(sender)
        assert (verdict.action, verdict.ambiguous, len(server.calls)) == ("retry", True, 1)
        assert sent(sender).action == "delivered"


def test_no_answer_in_time_is_an_unknown_outcome_and_ends_the_connection(server: Scripted) -> None:
    server.script = [lambda call: None]
    with sending(server.port) as sender:
        verdict = sent(sender, timeout=0.3)
        assert (verdict.status, verdict.ambiguous) == ("DEADLINE_EXCEEDED", True)
        assert sent(sender).action == "delivered"
    assert len(server.lines) == 2


def test_a_window_that_never_opens_ends_with_the_deadline() -> None:
    with scripted(INITIAL_WINDOW_SIZE=0) as server, sending(server.port) as sender:
        assert sent(sender, timeout=0.3).status == "DEADLINE_EXCEEDED"


def test_pings_are_answered(server: Scripted) -> None:
    def ping(call: Call) -> None:
        call.line.http.ping(b"abcdefgh")
        call.answer()

    server.script = [ping]
    with sending(server.port) as sender:
        assert [sent(sender).action for _ in range(2)] == ["delivered"] * 2
    assert server.lines[0].pongs == [b"abcdefgh"]


@pytest.mark.parametrize(
    "frames",
    [
        [(1, b"\xff\xff\xff\xff\xff\xff", 1, 4)],
        [(5, b"\0\0\0\2", 1, 4)],
        [(0, b"\xff", 1, 8)],
        [(9, b"", 1, 4)],
        [(1, b"\x88", 1, 0), (6, b"abcdefgh", 0, 0)],
        [(1, b"\x88", 1, 0), (9, b"", 1, 0)],
        [(1, b"\x88" * 16_384, 1, 0)] + [(9, b"\x88" * 16_384, 1, 0)] * 4,
        [(4, b"odd", 0, 0)],
        [(8, b"", 0, 0)],
        [(0, b"\0" * 16_385, 1, 0)],
    ],
)
def test_what_no_server_may_send_ends_the_connection(server: Scripted, frames: list[tuple[int, bytes, int, int]]) -> None:
    def answer(call: Call) -> None:
        for kind, payload, stream, flags in frames:
            call.line.raw(kind, payload, stream, flags)

    server.script = [answer]
    with sending(server.port) as sender:
        verdict = sent(sender)
        assert (verdict.action, verdict.ambiguous) == ("retry", True)
        assert "Transport closed" in verdict.message
        assert sent(sender).action == "delivered"
    assert len(server.lines) == 2


def test_a_header_block_may_end_with_an_empty_frame(server: Scripted) -> None:
    fields = ((":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0"))

    def answer(call: Call) -> None:
        call.line.raw(1, header_block(fields), 1, 1)
        call.line.raw(9, b"", 1, 4)

    server.script = [answer]
    with sending(server.port) as sender:
        assert sent(sender).action == "delivered"


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46"])
def test_a_port_that_speaks_something_else_is_a_known_outcome(words: bytes) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        sending(listener.getsockname()[1]) as sender,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        going = pool.submit(sent, sender)
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(words)
            verdict = going.result(10)
    assert (verdict.action, verdict.ambiguous) == ("retry", False)
    assert ("https://" if words[0] == 0x15 else "otlp_http") in verdict.message


def test_closing_ends_a_call_that_is_under_way(server: Scripted) -> None:
    begun = threading.Event()
    server.script = [lambda call: begun.set()]
    with sending(server.port) as sender, futures.ThreadPoolExecutor(1) as pool:
        going = pool.submit(sent, sender)
        assert begun.wait(10)
        sender.close()
        assert going.result(5).ambiguous
        assert sent(sender).action == "delivered"


def test_nothing_secret_shows(server: Scripted) -> None:
    server.script = [lambda call: call.line.http.reset_stream(call.stream, 2)]
    with sending(server.port, authorization="Bearer s3cret") as sender:
        assert "s3cret" not in repr(sender) + repr(sent(sender, b"prompt"))


# ---------------------------------------------------------------------------------------------------------- the proxy


@pytest.mark.parametrize("status", [b"200", b"407"])
def test_a_proxy_is_asked_to_connect(server: Scripted, monkeypatch: pytest.MonkeyPatch, status: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, futures.ThreadPoolExecutor(3) as pool:
        monkeypatch.setenv("http_proxy", f"http://user:pa%40ss@127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "elsewhere")

        def through() -> bytes:
            accepted, _ = listener.accept()
            with accepted, socket.create_connection(("127.0.0.1", server.port)) as upstream:
                asked = accepted.recv(65536)
                accepted.sendall(b"HTTP/1.1 " + status + b" x\r\nVia: test\r\n\r\n")
                if status == b"200":
                    back = pool.submit(pump, upstream, accepted)
                    pump(accepted, upstream)
                    back.result(5)
            return asked

        going = pool.submit(through)
        with sending(server.port) as sender:
            verdict = sent(sender)
        asked = going.result(10)
    assert asked.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpwYUBzcw==" in asked
    assert (verdict.action, verdict.ambiguous) == ("delivered" if status == b"200" else "retry", False)
    assert ("407" in verdict.message) is (status == b"407")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with sending(server.port) as sender:
        assert sent(sender).action == "delivered"


def pump(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


# ------------------------------------------------------------------------------------------------- gRPC's own servers


class Echo(grpc.GenericRpcHandler):
    """Takes any method and keeps what came."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def service(self, details: Any) -> Any:
        def take(payload: bytes, context: grpc.ServicerContext) -> bytes:
            self.received.append(payload)
            return b""

        return grpc.unary_unary_rpc_method_handler(take)


@contextmanager
def grpc_server(port: int = 0) -> Iterator[tuple[Echo, int]]:
    echo = Echo()
    made = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    made.add_generic_rpc_handlers((echo,))
    bound = made.add_insecure_port(f"127.0.0.1:{port}")
    made.start()
    try:
        yield echo, bound
    finally:
        made.stop(0).wait(5)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_large_message_arrives_as_it_was(compressed: bool) -> None:
    payload = b"".join(number.to_bytes(4, "big") for number in range(5 << 20))
    with grpc_server() as (echo, port), sending(port, compressed=compressed) as sender:
        assert sent(sender, payload, timeout=30).action == "delivered"
        assert echo.received == [payload]


def test_a_server_that_is_started_anew_between_calls_costs_nothing() -> None:
    with grpc_server() as (_, port):
        pass
    with sending(port) as sender:
        with grpc_server(port):
            assert sent(sender).action == "delivered"
        with grpc_server(port) as (echo, _):
            verdict = sent(sender, b"again")
            assert (verdict.action, verdict.ambiguous) == ("delivered", False)
            assert echo.received == [b"again"]


def test_four_threads_send_at_a_time() -> None:
    payloads = [bytes([number]) * (number * 1000 + 1) for number in range(80)]
    with grpc_server() as (echo, port), sending(port, compressed=True) as sender:
        with futures.ThreadPoolExecutor(4) as pool:
            assert {verdict.action for verdict in pool.map(lambda payload: sent(sender, payload), payloads)} == {"delivered"}
        assert sorted(echo.received) == sorted(payloads)

"""What the receivers' tests share: an intake with a journal and a destination in memory, requests, and a started receiver."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.counters import Counters
from otel_langfuse.sidecar.config.plan import Listener
from otel_langfuse.sidecar.config.schema import GrpcProtocol, HttpProtocol
from otel_langfuse.sidecar.entry import Entry, Recovered, Signal
from otel_langfuse.sidecar.intake import Intake
from otel_langfuse.sidecar.receivers import GrpcReceiver, HttpReceiver

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

BOTH = frozenset({Signal.TRACES, Signal.LOGS})
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PROTOBUF = "application/x-protobuf"
DEADLINE = 20.0
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress, "deflate": zlib.compress}


class MemoryJournal:
    """Holds entries; can be told to refuse, to fail, or to keep its callers waiting."""

    durable = False

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.error: Exception | None = None
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.asked = threading.Event()
        self.waiting = 0
        self._lock = threading.Lock()

    def append(self, signal: Signal, payload: bytes, items: int, owed: Sequence[str]) -> Entry:
        self.asked.set()
        with self._lock:
            self.waiting += 1
        assert self.may_commit.wait(DEADLINE)
        with self._lock:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        with self._lock:
            entry = Entry(len(self.entries), signal, items, len(payload), time.time(), payload)
            self.entries.append(entry)
        return entry

    def payload(self, entry: Entry) -> bytes | None:
        return entry.payload

    def attempt(self, entries: Sequence[Entry], destination: str) -> None: ...
    def done(self, entry: Entry, destination: str) -> None: ...
    def attempt_request(self, request_id: int) -> None: ...
    def request_done(self, request_id: int) -> None: ...
    def close(self) -> None: ...

    def put_request(
        self, destination: str, body: bytes, *, compressed: bool, spans: int, keys: Mapping[int, Sequence[tuple[bytes, bytes]]]
    ) -> int:
        raise NotImplementedError

    def replace_request(self, request_id: int, parts: Sequence[tuple[bytes, bool, int]]) -> Sequence[int]:
        raise NotImplementedError

    def promise(self, destination: str, key: tuple[bytes, bytes], start_ns: int) -> None: ...
    def fulfil(self, destination: str, keys: Iterable[tuple[bytes, bytes]]) -> None: ...

    def recover(self) -> Recovered:
        return Recovered()

    def status(self) -> dict[str, Any]:
        return {}


class Sink:
    """A destination that has room, or has not."""

    name = "sink"
    signals = BOTH

    def __init__(self) -> None:
        self.room = True
        self.entries: list[Entry] = []

    def has_room(self, size: int) -> bool:
        return self.room

    def offer(self, entry: Entry, *, attempted: bool = False) -> None:
        self.entries.append(entry)

    def refuse(self, entry: Entry, reason: str, remedy: str) -> None: ...
    def start(self) -> None: ...

    def flush(self, timeout: float) -> bool:
        return True

    def shutdown(self, timeout: float) -> bool:
        return True

    def status(self) -> dict[str, Any]:
        return {}


@dataclass
class Bench:
    """A started receiver and what stands behind it."""

    receiver: HttpReceiver | GrpcReceiver
    journal: MemoryJournal
    sink: Sink
    intake: Intake
    counters: Counters
    client_tls: ssl.SSLContext | None = field(default=None)

    @property
    def address(self) -> tuple[str, int]:
        return self.receiver.address

    @property
    def target(self) -> str:
        return "{}:{}".format(*self.address)

    @property
    def spans(self) -> list[Any]:
        """Every span that was taken."""
        requests = [ExportTraceServiceRequest.FromString(entry.payload or b"") for entry in self.taken(Signal.TRACES)]
        return [s for r in requests for group in r.resource_spans for scoped in group.scope_spans for s in scoped.spans]

    @property
    def log_records(self) -> list[Any]:
        """Every log record that was taken."""
        requests = [ExportLogsServiceRequest.FromString(entry.payload or b"") for entry in self.taken(Signal.LOGS)]
        return [s for r in requests for group in r.resource_logs for scoped in group.scope_logs for s in scoped.log_records]

    def taken(self, signal: Signal) -> list[Entry]:
        return [entry for entry in self.sink.entries if entry.signal is signal]

    def wait_for_count(self, name: str, n: int = 1) -> bool:
        return wait_until(lambda: self.counters.counts.get(name, 0) >= n)

    def connection(self) -> http.client.HTTPConnection:
        if self.client_tls is not None:
            return http.client.HTTPSConnection(*self.address, timeout=DEADLINE, context=self.client_tls)
        return http.client.HTTPConnection(*self.address, timeout=DEADLINE)

    def post(
        self, body: bytes = b"", headers: Mapping[str, str] | None = None, *, path: str = "/v1/traces", method: str = "POST"
    ) -> Reply:
        connection = self.connection()
        try:
            connection.request(method, path, body, {"Content-Type": PROTOBUF, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def grpc_protocol(**more: object) -> GrpcProtocol:
    """A listener's settings, on a free port."""
    return GrpcProtocol.model_validate({"endpoint": "127.0.0.1:0", **more})


def wait_until(true: Callable[[], bool], timeout: float = DEADLINE) -> bool:
    """Whether ``true()`` became true in time."""
    pause = threading.Event()
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            return False
        pause.wait(0.005)
    return True


@contextmanager
def receiving(
    protocol: HttpProtocol | GrpcProtocol,
    *,
    token: str | None = None,
    scheme: str = "Bearer",
    signals: frozenset[Signal] = BOTH,
    client_tls: ssl.SSLContext | None = None,
    **options: Any,
) -> Iterator[Bench]:
    """A receiver on a free port of 127.0.0.1, stopped at the end."""
    journal, sink, counters = MemoryJournal(), Sink(), Counters()
    intake = Intake(journal, {(signal, "otlp"): [sink] for signal in signals}, counters)
    listener = Listener("otlp", protocol, token, scheme, signals)
    receiver: HttpReceiver | GrpcReceiver
    if isinstance(protocol, HttpProtocol):
        receiver = HttpReceiver(listener, intake, counters, **options)
    else:
        receiver = GrpcReceiver(listener, intake, counters, **options)
    receiver.start()
    try:
        yield Bench(receiver, journal, sink, intake, counters, client_tls)
    finally:
        journal.may_commit.set()
        receiver.stop(5.0)


def trace_request(n: int = 1, *, text: str = "", bad: int = 0) -> bytes:
    """A request with ``n`` good spans, and ``bad`` ones whose span id is too short."""
    request = ExportTraceServiceRequest()
    scoped = request.resource_spans.add().scope_spans.add()
    for number in range(n + bad):
        span = scoped.spans.add(name=f"span {number}", trace_id=bytes.fromhex(TRACE_ID))
        span.span_id = (number + 1).to_bytes(8 if number < n else 7, "big")
        if text:
            span.attributes.add(key="text").value.string_value = text
    return request.SerializeToString()


def log_request(n: int = 1) -> bytes:
    request = ExportLogsServiceRequest()
    scoped = request.resource_logs.add().scope_logs.add()
    for number in range(n):
        scoped.log_records.add(event_name=f"event {number}")
    return request.SerializeToString()


def json_request(*spans: dict[str, Any]) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()


def json_span(**more: Any) -> dict[str, Any]:
    return {"traceId": TRACE_ID, "spanId": "00f067aa0ba902b7", "name": "a span", **more}


def nested_protobuf(depth: int) -> bytes:
    """A request whose only attribute is ``depth`` arrays inside each other, written from the inside out."""
    heads: list[bytes] = []
    size = 0
    for _ in range(depth):
        for tag in (0x0A, 0x2A):  # ArrayValue.values, AnyValue.array_value
            head = bytes((tag,)) + _varint(size)
            heads.append(head)
            size += len(head)
    attribute = _field(1, b"k") + _field(2, b"".join(reversed(heads)))
    return _field(1, _field(2, _field(2, _field(9, attribute))))


def _field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def nested_json(depth: int) -> bytes:
    value = b'{"arrayValue":{"values":[' * depth + b'{"stringValue":"x"}' + b"]}}" * depth
    span = b'{"traceId":"%s","spanId":"00f067aa0ba902b7","attributes":[{"key":"k","value":%s}]}' % (TRACE_ID.encode(), value)
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + span + b"]}]}]}"


@dataclass(frozen=True)
class Certificates:
    """Files of a server's certificate and of the authorities, and contexts of clients."""

    cert_file: str
    key_file: str
    ca_file: str
    ca: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        ca = trustme.CA()
        server = ca.issue_cert("127.0.0.1", "localhost")
        server.private_key_pem.write_to_path(folder / "key.pem")
        for position, blob in enumerate(server.cert_chain_pems):
            blob.write_to_path(folder / "cert.pem", append=position > 0)
        ca.cert_pem.write_to_path(folder / "ca.pem")
        return cls(str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem"), ca)

    def client(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if with_certificate:
            self.ca.issue_cert("client.example").configure_cert(context)
        return context

"""OTLP destinations against real servers: what is sent, what is sent again, what is given up, and what is said of it."""

from __future__ import annotations

import gzip
import itertools
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_langfuse.counters import Counters
from otel_langfuse.errors import ConfigError
from otel_langfuse.sidecar.config.plan import OtlpEnd
from otel_langfuse.sidecar.config.schema import DebugExporter, OtlpGrpcExporter, OtlpHttpExporter, Queue, Retry
from otel_langfuse.sidecar.destinations import destination_of
from otel_langfuse.sidecar.destinations.otlp import OtlpDestination
from otel_langfuse.sidecar.destinations.status_details import retry_delay, status_message
from otel_langfuse.sidecar.destinations.verdicts import Verdict
from otel_langfuse.sidecar.entry import Destination, Entry, Recovered, RefusedError, Signal
from otel_langfuse.sidecar.journal import SqliteJournal
from otel_langfuse.testing import FakeClock, FakeLangfuse, OtlpSink, Reply, accept_then_reset, hang, reset

FAST = {"initial_interval": "10ms", "max_interval": "20ms"}
Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class HeldJournal:
    """Keeps entries in memory and notes what it is told; ``durable`` only in name."""

    def __init__(self, durable: bool = False) -> None:
        self.durable = durable
        self.full = False
        self.told: list[tuple[str, int]] = []
        self.owed: dict[int, set[str]] = {}
        self.entries: dict[int, Entry] = {}
        self._payloads: dict[int, bytes] = {}
        self._changed = threading.Condition()

    def append(self, signal: Signal, payload: bytes, items: int, owed: Sequence[str]) -> Entry:
        with self._changed:
            if self.full:
                raise RefusedError("full", reason="journal_full")
            entry = Entry(len(self.entries) + 1, signal, items, len(payload), 1_700_000_000.0)
            self.entries[entry.id] = entry
            self._payloads[entry.id] = payload
            self.owed[entry.id] = set(owed)
            return entry

    def payload(self, entry: Entry) -> bytes | None:
        return self._payloads.get(entry.id)

    def lose(self, entry: Entry) -> None:
        del self._payloads[entry.id]

    def attempt(self, entries: Sequence[Entry], destination: str) -> None:
        if self.full:
            raise RefusedError("full", reason="disk_full")
        self.told.extend(("attempt", entry.id) for entry in entries)

    def done(self, entry: Entry, destination: str) -> None:
        with self._changed:
            self.told.append(("done", entry.id))
            self.owed[entry.id].discard(destination)
            self._changed.notify_all()

    def wait_done(self, entry: Entry, timeout: float) -> bool:
        """Whether an entry is settled with everybody within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.owed[entry.id], timeout)

    def put_request(self, *_: Any, **__: Any) -> int:
        raise NotImplementedError

    def replace_request(self, *_: Any) -> Sequence[int]:
        raise NotImplementedError

    def attempt_request(self, request_id: int) -> None:
        raise NotImplementedError

    def request_done(self, request_id: int) -> None:
        raise NotImplementedError

    def promise(self, *_: Any) -> None: ...
    def fulfil(self, *_: Any) -> None: ...

    def recover(self) -> Recovered:
        return Recovered()

    def status(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def traces(*numbers: int, size: int = 0) -> bytes:
    """A request with a span for each number, in one trace, under two resources."""
    request = ExportTraceServiceRequest()
    for position, number in enumerate(numbers):
        if position in (0, len(numbers) // 2):
            group = request.resource_spans.add()
            group.resource.attributes.add(key="service.name").value.string_value = f"service {position}"
            scoped = group.scope_spans.add()
            scoped.scope.name = "app"
        span = scoped.spans.add(name=f"span {number}", trace_id=bytes(range(16)), span_id=number.to_bytes(8, "big"))
        if size:
            span.attributes.add(key="filler").value.string_value = "x" * size
    return request.SerializeToString()


def names_in(payload: bytes) -> list[str]:
    """The names of a request's spans."""
    request = ExportTraceServiceRequest.FromString(payload)
    return [span.name for group in request.resource_spans for scoped in group.scope_spans for span in scoped.spans]


def logs(*texts: str) -> bytes:
    request = ExportLogsServiceRequest()
    scoped = request.resource_logs.add().scope_logs.add()
    for text in texts:
        scoped.log_records.add(trace_id=bytes(range(16))).body.string_value = text
    return request.SerializeToString()


class Make:
    """Builds destinations, with one journal behind them, and ends them after the test."""

    def __init__(self) -> None:
        self.journal = HeldJournal()
        self.made: list[Destination] = []

    def http(self, url: str, *, name: str = "otlp_http/tempo", signals: str = "traces logs", **options: Any) -> Destination:
        config = {k: options.pop(k) for k in list(options) if k in OtlpHttpExporter.model_fields}
        config.setdefault("retry_on_failure", FAST)
        if url:
            config["endpoint"] = url
        return self._keep(name, OtlpHttpExporter.model_validate(config), signals, options)

    def grpc(
        self, endpoint: str, *, name: str = "otlp_grpc/tempo", signals: str = "traces logs", **options: Any
    ) -> Destination:
        config = {k: options.pop(k) for k in list(options) if k in OtlpGrpcExporter.model_fields}
        config.setdefault("retry_on_failure", FAST)
        return self._keep(name, OtlpGrpcExporter.model_validate(config | {"endpoint": endpoint}), signals, options)

    def debug(self, verbosity: str) -> Destination:
        return self._keep("debug", DebugExporter.model_validate({"verbosity": verbosity}), "traces logs", {})

    def _keep(self, name: str, exporter: Any, signals: str, options: dict[str, Any]) -> Destination:
        end = OtlpEnd(name, exporter, {Signal(signal): frozenset({"otlp"}) for signal in signals.split()})
        start = options.pop("start", True)
        destination = destination_of(end, self.journal, **options)
        self.made.append(destination)
        if start:
            destination.start()
        return destination

    def put(
        self, destination: Destination, payload: bytes, *, attempted: bool = False, signal: Signal = Signal.TRACES
    ) -> Entry:
        kind = ExportTraceServiceRequest if signal is Signal.TRACES else ExportLogsServiceRequest
        request: Any = kind.FromString(payload) if signal is Signal.LOGS or payload[:1] == b"\n" else None
        items = 1
        if request is not None and signal is Signal.TRACES:
            items = sum(len(s.spans) for g in request.resource_spans for s in g.scope_spans)
        elif request is not None:
            items = sum(len(s.log_records) for g in request.resource_logs for s in g.scope_logs)
        entry = self.journal.append(signal, payload, items, [destination.name])
        destination.offer(entry, attempted=attempted)
        return entry


@pytest.fixture
def make() -> Iterator[Make]:
    maker = Make()
    yield maker
    for destination in maker.made:
        destination.shutdown(0)


@pytest.fixture
def tempo() -> Iterator[FakeLangfuse]:
    """A scripted OTLP backend: the stand-in for Langfuse checks less when the path is another."""
    with FakeLangfuse(path="/v1/traces") as server:
        yield server


class GrpcBackend:
    """A gRPC server that takes any method and does what the script says, then answers empty."""

    def __init__(self, *, credentials: Any = None, options: Sequence[tuple[str, int]] = (), port: int = 0) -> None:
        self.script: list[Behaviour] = []
        self.received: list[tuple[str, bytes, dict[str, Any]]] = []
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=list(options))
        self._server.add_generic_rpc_handlers((_Any(self),))
        add = self._server.add_secure_port if credentials else self._server.add_insecure_port
        self.port = add(f"127.0.0.1:{port}", *([credentials] if credentials else []))
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def take(self, method: str, payload: bytes, context: grpc.ServicerContext) -> bytes:
        with self.changed:
            behaviour = self.script.pop(0) if self.script else None
            self.received.append((method, payload, dict(context.invocation_metadata())))
            self.changed.notify_all()
        return behaviour(payload, context) if behaviour else b""

    def wait_for(self, n: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.received) >= n, 10)

    def stop(self) -> None:
        self.stopping.set()
        self._server.stop(0).wait(5)


class _Any(grpc.GenericRpcHandler):
    def __init__(self, backend: GrpcBackend) -> None:
        self._backend = backend

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda payload, ctx: self._backend.take(details.method, payload, ctx))


@pytest.fixture
def backend() -> Iterator[GrpcBackend]:
    server = GrpcBackend()
    yield server
    server.stop()


def aborting(code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> Behaviour:
    def act(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata(trailers)
        context.abort(code, details)
        raise AssertionError

    return act


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def counted(destination: Destination, name: str) -> int:
    return int(destination.status()["counters"].get(name, 0))


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether something becomes so within ten seconds."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(1000))


def pass_time(clock: FakeClock, until: Callable[[], bool], most: int = 500) -> float:
    """Moves the clock from wait to wait until something is so; returns the seconds that passed."""
    begun = clock()
    for _ in range(most):
        if until():
            return clock() - begun
        try:
            clock.advance(clock.next_wait(0.2))
        except TimeoutError:
            continue
    raise AssertionError("it never came")


# ------------------------------------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_bytes_pass_through_untouched_over_http(make: Make, compression: str) -> None:
    payload, records = traces(1, 2, 3) + b"\xfa\x3e\x03abc", logs("hello")  # with a field that nobody knows
    with OtlpSink() as sink:
        destination = make.http(sink.url + "/", compression=compression, headers={"X-Scope-OrgID": "team"})
        make.put(destination, payload)
        make.put(destination, records, signal=Signal.LOGS)
        assert destination.flush(10)
        by_path = {request.path: request for request in sink.requests}
    assert by_path["/v1/traces"].payload == payload
    assert by_path["/v1/logs"].payload == records
    headers = by_path["/v1/traces"].headers
    assert headers["content-type"] == "application/x-protobuf"
    assert headers.get("content-encoding") == ("gzip" if compression == "gzip" else None)
    assert headers["x-scope-orgid"] == "team"
    assert headers["user-agent"].startswith("otel-langfuse")
    assert destination.status()["sent"] == 4


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_bytes_pass_through_untouched_over_grpc(make: Make, backend: GrpcBackend, compression: str) -> None:
    payload, records = traces(1, 2, 3), logs("hello")
    destination = make.grpc(f"http://{backend.address}", compression=compression, headers={"X-Scope-OrgID": "team"})
    make.put(destination, payload)
    make.put(destination, records, signal=Signal.LOGS)
    assert destination.flush(10)
    found = {method: (body, metadata) for method, body, metadata in backend.received}
    body, metadata = found["/opentelemetry.proto.collector.trace.v1.TraceService/Export"]
    assert body == payload
    assert metadata["x-scope-orgid"] == "team"
    assert "otel-langfuse" in metadata["user-agent"]
    assert found["/opentelemetry.proto.collector.logs.v1.LogsService/Export"][0] == records
    assert destination.status()["sent"] == 4


def test_connections_are_kept(make: Make) -> None:
    with OtlpSink() as sink:
        destination = make.http(sink.url)
        for number in range(1, 30):
            make.put(destination, traces(number))
            assert destination.flush(10)
        assert len(sink.requests) == 29
        assert len({request.client for request in sink.requests}) <= 4


def test_a_large_message_goes_over_grpc(make: Make) -> None:
    server = GrpcBackend(options=[("grpc.max_receive_message_length", -1)])
    try:
        destination = make.grpc(server.address, tls={"insecure": True})
        make.put(destination, traces(*range(1, 7), size=1 << 20))
        assert destination.flush(10)
        assert len(server.received[0][1]) > 6 << 20
    finally:
        server.stop()


# ---------------------------------------------------------------------------------------------- entries that go together


def put_together(make: Make, destination: Destination, *payloads: bytes) -> list[Entry]:
    """Has entries wait for a destination that was not started, and starts it."""
    entries = [make.put(destination, payload) for payload in payloads]
    destination.start()
    return entries


def test_entries_that_wait_together_go_in_one_request(make: Make) -> None:
    payloads = [traces(number, number + 1) for number in range(1, 30, 2)]
    with OtlpSink() as sink:
        destination = make.http(sink.url, start=False)
        entries = put_together(make, destination, *payloads)
        assert destination.flush(10)
        (request,) = sink.requests
    assert request.payload == b"".join(payloads)
    assert destination.status()["sent"] == 30
    assert counted(destination, "requests") == 1
    assert make.journal.told == [("done", entry.id) for entry in entries]


def test_spans_and_log_records_do_not_mix_and_order_is_kept(make: Make) -> None:
    with OtlpSink() as sink:
        destination = make.http(sink.url, start=False, sending_queue={"num_consumers": 1})
        make.put(destination, traces(1))
        make.put(destination, traces(2))
        make.put(destination, logs("a"), signal=Signal.LOGS)
        put_together(make, destination, traces(3))
        assert destination.flush(10)
        found = [(request.path, request.payload) for request in sink.requests]
    assert found == [("/v1/traces", traces(1) + traces(2)), ("/v1/logs", logs("a")), ("/v1/traces", traces(3))]


def test_a_request_holds_no_more_than_grpc_servers_take(make: Make, backend: GrpcBackend) -> None:
    destination = make.grpc(f"http://{backend.address}", start=False, compression="none")
    put_together(make, destination, *(traces(number, size=900_000) for number in range(1, 8)))
    assert destination.flush(10)
    assert [len(names_in(body)) for _, body, _ in sorted(backend.received, key=lambda call: -len(call[1]))] == [2, 2, 2, 1]
    assert destination.status()["dropped"] == {}


def test_after_a_request_the_next_entries_gather_for_a_moment(make: Make, tempo: FakeLangfuse) -> None:
    clock = FakeClock()
    destination = make.http(tempo.url, clock=clock, wait=clock.wait)
    make.put(destination, traces(1))
    assert tempo.wait_for_requests(1)  # What comes after a pause does not wait.
    make.put(destination, traces(2))
    make.put(destination, traces(3))
    assert clock.next_wait() == pytest.approx(0.02)
    assert len(tempo.requests) == 1
    clock.advance(0.02)
    assert tempo.wait_for_requests(2)
    assert destination.flush(10)
    assert [names_in(gzip.decompress(request.body)) for request in tempo.requests] == [["span 1"], ["span 2", "span 3"]]


def test_what_cannot_go_together_does_not_wait_for_each_other(make: Make, tempo: FakeLangfuse) -> None:
    clock = FakeClock()
    destination = make.http(tempo.url, start=False, clock=clock, wait=clock.wait)
    for number in range(10):
        make.put(destination, traces(number + 1))
        make.put(destination, logs("a record"), signal=Signal.LOGS)
    destination.start()
    assert tempo.wait_for_requests(20)  # although the clock stands still
    assert destination.flush(10)


def test_the_policy_applies_to_each_and_what_it_cannot_read_costs_no_other(make: Make, tempo: FakeLangfuse) -> None:
    destination = make.http(tempo.url, start=False, content="drop")
    put_together(make, destination, traces(1), b"gen_ai: no protobuf", traces(2))
    assert destination.flush(10)
    assert len(tempo.requests) == 1
    assert [span.name for span in tempo.spans] == ["span 1", "span 2"]
    assert destination.status()["dropped"] == {"unreadable": 1}
    assert not any(make.journal.owed.values())


def test_a_partial_success_counts_once_for_all(make: Make, tempo: FakeLangfuse) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 3
    tempo.script([Reply(200, {"content-type": "application/x-protobuf"}, answer.SerializeToString())])
    destination = make.http(tempo.url, start=False)
    put_together(make, destination, traces(1, 2), traces(3, 4), traces(5))
    assert destination.flush(10)
    assert destination.status()["sent"] == 2
    assert destination.status()["dropped"] == {"rejected_by_destination": 3}
    assert len(tempo.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 413])
def test_one_bad_entry_costs_no_other(make: Make, status: int) -> None:
    class Picky(FakeLangfuse):
        def _rules(self, request: Any, export: Any) -> Reply:
            bad = any(s.name == "span 3" for g in export.resource_spans for c in g.scope_spans for s in c.spans)
            return Reply(status) if bad else super()._rules(request, export)

    with Picky(path="/v1/traces") as server:
        destination = make.http(server.url, start=False)
        put_together(make, destination, *(traces(number) for number in range(1, 6)))
        assert destination.flush(10)
        assert sorted(span.name for span in server.spans) == ["span 1", "span 2", "span 4", "span 5"]
    assert sum(destination.status()["dropped"].values()) == 1
    assert destination.status()["sent"] == 4
    assert counted(destination, "ambiguous_resend") == 0


def test_a_backend_with_a_small_limit_is_not_asked_beyond_it_again_and_again(make: Make, tempo: FakeLangfuse) -> None:
    tempo.limit_bytes(5000)
    destination = make.http(tempo.url, start=False, compression="none")
    put_together(make, destination, *(traces(number, size=1000) for number in range(1, 41)))
    assert destination.flush(10)
    for number in range(41, 81):
        make.put(destination, traces(number, size=1000))
    assert destination.flush(10)
    assert sorted(span.span_id[-1] for span in tempo.spans) == list(range(1, 81))
    assert 1 <= counted(destination, "split_requests") <= 5
    assert not destination.status()["dropped"]


@pytest.mark.parametrize("behaviour", [hang(), accept_then_reset()])
def test_what_got_no_answer_together_goes_again_alone_and_counts(make: Make, tempo: FakeLangfuse, behaviour: Any) -> None:
    tempo.script([behaviour])
    destination = make.http(tempo.url, start=False, timeout="300ms")
    put_together(make, destination, traces(1, 2), traces(3))
    assert destination.flush(10)
    assert [len(names_in(gzip.decompress(request.body))) for request in tempo.requests[:1]] == [3]
    assert sorted(names_in(gzip.decompress(request.body)) for request in tempo.requests[1:]) == [
        ["span 1", "span 2"],
        ["span 3"],
    ]
    assert counted(destination, "ambiguous_resend") == 3
    assert destination.status()["sent"] == 3


class ScriptedSender:
    """Stores or refuses as it is told, then stores; ``stored`` has the names of the spans of each send."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self._verdicts = list(verdicts)
        self._lock = threading.Lock()
        self.stored: list[str] = []

    def send(self, signal: Signal, payload: bytes, items: int, timeout: float) -> Verdict:
        names = names_in(payload)
        assert len(names) == items
        with self._lock:
            verdict = self._verdicts.pop(0) if self._verdicts else Verdict("delivered")
            if verdict.action == "delivered":
                self.stored += names
            return verdict

    def close(self) -> None: ...


OUTCOMES = st.sampled_from([
    Verdict("delivered"), Verdict("delivered"), Verdict("retry", "expired"), Verdict("retry", "expired", ambiguous=True),
    Verdict("split", "too_large"), Verdict("permanent", "rejected"), Verdict("retry", "expired", after=3.0),
])  # fmt: skip


@given(st.lists(OUTCOMES, max_size=12), st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 3), st.booleans())
def test_each_span_is_delivered_once_or_dropped_once(
    verdicts: list[Verdict], sizes: list[int], consumers: int, early: bool
) -> None:
    clock = FakeClock()

    def wait(condition: threading.Condition, timeout: float | None) -> bool:
        if timeout is not None and timeout < 100:
            clock.advance(timeout)
            timeout = 0
        return condition.wait(timeout)

    sender, journal, counters = ScriptedSender(verdicts), HeldJournal(), Counters()
    queue, retry = Queue(num_consumers=consumers), Retry(max_elapsed_time=0)
    destination = OtlpDestination(
        "otlp", frozenset({Signal.TRACES}), sender, journal, queue=queue, retry=retry, counters=counters, clock=clock, wait=wait
    )
    if early:
        destination.start()
    numbers = itertools.count(1)
    for size in sizes:
        payload = traces(*itertools.islice(numbers, size))
        destination.offer(journal.append(Signal.TRACES, payload, size, ["otlp"]))
    destination.start()
    try:
        assert destination.flush(1e6)
    finally:
        destination.shutdown(0)
    assert len(set(sender.stored)) == len(sender.stored) == counters.counts.get("sent", 0)
    assert len(sender.stored) + sum(counters.drops.values()) == sum(sizes)
    assert not any(journal.owed.values())
    assert destination.status()["queue_bytes"] == 0


# ------------------------------------------------------------------------------------------------------------ journal


def test_a_durable_journal_hears_of_the_first_send_and_of_the_end(make: Make, tempo: FakeLangfuse) -> None:
    make.journal.durable = True
    tempo.script([Reply(503), Reply(503)])
    destination = make.http(tempo.url)
    entry = make.put(destination, traces(1))
    assert destination.flush(10)
    assert make.journal.told == [("attempt", entry.id), ("done", entry.id)]
    assert counted(destination, "retries") == 2


def test_a_journal_in_memory_hears_of_the_end_only(make: Make, tempo: FakeLangfuse) -> None:
    entry = make.put(destination := make.http(tempo.url), traces(1))
    assert destination.flush(10)
    assert make.journal.told == [("done", entry.id)]


def test_what_may_have_been_sent_before_a_crash_counts_as_ambiguous(make: Make, tempo: FakeLangfuse) -> None:
    make.journal.durable = True
    destination = make.http(tempo.url, start=False)
    entry = make.put(destination, traces(1, 2), attempted=True)
    destination.start()
    assert destination.flush(10)
    assert counted(destination, "ambiguous_resend") == 2
    assert make.journal.told == [("done", entry.id)]


def test_a_payload_that_the_journal_lost_is_settled_and_not_counted_twice(make: Make, tempo: FakeLangfuse) -> None:
    destination = make.http(tempo.url, start=False)
    entry = make.put(destination, traces(1))
    make.journal.lose(entry)
    destination.start()
    assert destination.flush(10)
    assert make.journal.told == [("done", entry.id)]
    assert not destination.status()["dropped"]
    assert not tempo.requests


def test_a_full_disk_does_not_stop_what_would_empty_it(make: Make, tempo: FakeLangfuse) -> None:
    make.journal.durable = True
    destination = make.http(tempo.url)
    entry = make.journal.append(Signal.TRACES, traces(1), 1, [destination.name])
    make.journal.full = True
    destination.offer(entry)
    assert destination.flush(10)
    assert destination.status()["sent"] == 1
    assert counted(destination, "attempts_not_noted") == 1


# -------------------------------------------------------------------------------------------------- retries, outcomes


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_sent_again_byte_for_byte(make: Make, tempo: FakeLangfuse, status: int) -> None:
    tempo.script([Reply(status), Reply(status)])
    destination = make.http(tempo.url, content="truncate: 5")
    make.put(destination, traces(1, 2))
    assert destination.flush(10)
    assert len(tempo.requests) == 3
    assert len({request.body for request in tempo.requests}) == 1
    known = status in (429, 500, 503)
    assert counted(destination, "ambiguous_resend") == (0 if known else 4)
    assert destination.status()["sent"] == 2


@pytest.mark.parametrize("behaviour", [hang(), reset(), accept_then_reset()])
def test_no_answer_after_sending_is_an_unknown_outcome(make: Make, tempo: FakeLangfuse, behaviour: Any) -> None:
    tempo.script([behaviour])
    destination = make.http(tempo.url, timeout="300ms")
    make.put(destination, traces(1, 2))
    assert destination.flush(10)
    assert counted(destination, "ambiguous_resend") == 2
    assert tempo.requests[0].body == tempo.requests[1].body


def test_a_refused_connection_is_a_known_outcome(make: Make) -> None:
    clock = FakeClock()
    destination = make.http(f"http://127.0.0.1:{closed_port()}", clock=clock, wait=clock.wait)
    make.put(destination, traces(1))
    pass_time(clock, lambda: counted(destination, "retries") > 2)
    assert counted(destination, "ambiguous_resend") == 0
    assert "check host and port" in destination.status()["last_error"]["message"]


def test_a_request_that_has_failed_for_too_long_is_given_up(make: Make, tempo: FakeLangfuse) -> None:
    clock, never = FakeClock(), threading.Event()
    tempo.fail_until(never)
    retry = {"initial_interval": "1s", "max_elapsed_time": "60s", "randomization_factor": 0}
    destination = make.http(tempo.url, retry_on_failure=retry, clock=clock, wait=clock.wait)
    make.put(destination, traces(1, 2))
    waited = pass_time(clock, lambda: bool(destination.status()["dropped"]))
    assert destination.status()["dropped"] == {"expired": 2}
    assert 60 < waited < 95
    assert destination.flush(10)


def test_zero_means_that_nothing_is_ever_given_up(make: Make, tempo: FakeLangfuse) -> None:
    clock, up = FakeClock(), threading.Event()
    tempo.fail_until(up)
    retry = {"max_elapsed_time": "0"}
    destination = make.http(tempo.url, retry_on_failure=retry, clock=clock, wait=clock.wait)
    make.put(destination, traces(1))
    begun = clock()
    pass_time(clock, lambda: clock() - begun > 4 * 3600, most=2000)
    up.set()
    pass_time(clock, lambda: destination.status()["sent"] == 1)
    assert not destination.status()["dropped"]


def test_without_retries_a_failure_is_a_loss_with_its_reason(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([Reply(503)])
    destination = make.http(tempo.url, retry_on_failure={"enabled": False})
    make.put(destination, traces(1, 2))
    assert destination.flush(10)
    assert destination.status()["dropped"] == {"not_retried": 2}


def test_without_retries_a_failure_costs_no_other_entry(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([Reply(503)])
    destination = make.http(tempo.url, start=False, retry_on_failure={"enabled": False}, sending_queue={"num_consumers": 1})
    put_together(make, destination, traces(1, 2), traces(3), traces(4))
    assert destination.flush(10)
    assert destination.status()["dropped"] == {"not_retried": 2}
    assert destination.status()["sent"] == 2


def test_an_outage_of_a_minute_loses_nothing_and_is_not_hammered(make: Make, tempo: FakeLangfuse) -> None:
    clock, up = FakeClock(), threading.Event()
    tempo.fail_until(up)
    destination = make.http(tempo.url, retry_on_failure={}, clock=clock, wait=clock.wait)
    for number in range(1, 41):
        make.put(destination, traces(number))
    begun = clock()
    pass_time(clock, lambda: clock() - begun >= 60)
    # At most one for each consumer at the beginning, then one at a time, ever slower.
    assert 3 <= len(tempo.requests) <= 20
    up.set()
    pass_time(clock, lambda: destination.status()["sent"] == 40)
    assert sorted(span.name for span in tempo.spans) == sorted(f"span {number}" for number in range(1, 41))
    assert not destination.status()["dropped"]
    assert counted(destination, "ambiguous_resend") == 0


def test_a_backend_in_trouble_is_asked_by_one_request_at_a_time(make: Make, tempo: FakeLangfuse) -> None:
    clock, answer = FakeClock(), threading.Event()
    tempo.script([Reply(503), Reply(200, after=answer)])
    destination = make.http(tempo.url, clock=clock, wait=clock.wait)
    make.put(destination, traces(1))
    assert eventually(lambda: destination.status()["failures"] == 1)
    for number in range(2, 10):
        make.put(destination, traces(number))
    pass_time(clock, lambda: len(tempo.requests) == 2)
    clock.advance(10)
    assert not tempo.wait_for_requests(3, 0.3)
    assert destination.status()["in_flight"] == 1
    answer.set()
    assert destination.flush(10)
    assert destination.status()["sent"] == 9


def test_a_flapping_backend_gets_everything_once(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([Reply(503) if number % 3 else Reply() for number in range(60)])
    destination = make.http(tempo.url)
    for number in range(1, 31):
        make.put(destination, traces(number))
    assert destination.flush(20)
    assert sorted(span.span_id for span in tempo.spans) == [number.to_bytes(8, "big") for number in range(1, 31)]


def test_retry_after_is_obeyed_for_everything_and_capped(make: Make, tempo: FakeLangfuse) -> None:
    clock = FakeClock()
    tempo.script([Reply(429, {"retry-after": "40"}), Reply(429, {"retry-after": "100000"})])
    destination = make.http(
        tempo.url, clock=clock, wait=clock.wait, sending_queue={"num_consumers": 1}, retry_on_failure={"initial_interval": "1s"}
    )
    make.put(destination, traces(1))
    assert tempo.wait_for_requests(1)
    assert clock.next_wait() == pytest.approx(40)
    make.put(destination, traces(2))
    clock.advance(39)
    assert clock.next_wait() == pytest.approx(1)
    assert len(tempo.requests) == 1
    clock.advance(1)
    assert tempo.wait_for_requests(2)
    assert clock.next_wait() == pytest.approx(120)
    pass_time(clock, lambda: destination.status()["sent"] == 2)


def test_a_request_that_keeps_failing_lets_the_others_pass(make: Make, tempo: FakeLangfuse) -> None:
    class Picky(FakeLangfuse):
        def _rules(self, request: Any, export: Any) -> Reply:
            bad = any(s.name == "span 1" for g in export.resource_spans for c in g.scope_spans for s in c.spans)
            return Reply(503) if bad else super()._rules(request, export)

    with Picky(path="/v1/traces") as server:
        destination = make.http(server.url)
        for number in range(1, 21):
            make.put(destination, traces(number))
        assert eventually(lambda: destination.status()["sent"] == 19)
        assert {span.name for span in server.spans} == {f"span {number}" for number in range(2, 21)}
        assert destination.status()["queue_items"] == 1
        assert not destination.flush(0)


def test_a_dead_destination_delays_no_other(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([hang() for _ in range(50)])
    dead = make.http(tempo.url, name="otlp_http/dead", timeout="60s")
    with OtlpSink() as sink:
        alive = make.http(sink.url, name="otlp_http/alive")
        for number in range(1, 21):
            entry = make.journal.append(Signal.TRACES, traces(number), 1, [dead.name, alive.name])
            dead.offer(entry)
            alive.offer(entry)
        assert alive.flush(10)
        assert len(sink.spans) == 20
    assert dead.status()["sent"] == 0
    assert dead.status()["queue_items"] == 20
    assert all(owed == {"otlp_http/dead"} for owed in make.journal.owed.values())


# ---------------------------------------------------------------------------------------------------------- permanent


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (400, "rejected", "does not accept these traces"),
        (401, "unauthorized", "check the exporter's headers"),
        (403, "forbidden", "check the exporter's headers"),
        (404, "not_found", "remove this exporter from the traces pipeline"),
        (405, "rejected", "takes no POST"),
        (415, "rejected", "compression: none"),
        (418, "rejected", "was refused"),
        (501, "unimplemented", "remove this exporter"),
    ],
)
def test_what_cannot_pass_is_dropped_with_its_remedy(
    make: Make, tempo: FakeLangfuse, status: int, reason: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    tempo.script([Reply(status)])
    destination = make.http(tempo.url)
    entry = make.put(destination, traces(1, 2))
    assert destination.flush(10)
    found = destination.status()
    assert found["dropped"] == {reason: 2}
    assert words in found["last_error"]["message"]
    assert f"answered {status} for 2 spans" in found["last_error"]["message"]
    assert "otlp_http/tempo" in caplog.text
    assert make.journal.told == [("done", entry.id)]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(make: Make, tempo: FakeLangfuse, status: int) -> None:
    with OtlpSink() as elsewhere:
        tempo.script([Reply(status, {"location": f"{elsewhere.url}/v1/traces?token=x"})])
        destination = make.http(tempo.url)
        make.put(destination, traces(1))
        assert destination.flush(10)
        assert destination.status()["dropped"] == {"redirect": 1}
        message = destination.status()["last_error"]["message"]
        assert f"to {elsewhere.url}/v1/traces" in message
        assert "token" not in message
        assert not elsewhere.requests


def test_a_web_page_is_no_success(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([Reply(200, {"content-type": "text/html"}, b"<html>log in</html>")])
    destination = make.http(tempo.url)
    make.put(destination, traces(1))
    assert destination.flush(10)
    assert destination.status()["dropped"] == {"not_otlp": 1}


@pytest.mark.parametrize("form", ["protobuf", "json"])
def test_a_partial_success_is_read_and_nothing_is_sent_again(make: Make, tempo: FakeLangfuse, form: str) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "trace too old" + "\nand on" * 100
    body = answer.SerializeToString()
    if form == "json":
        body = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "trace too old"}}'
    tempo.script([Reply(200, {"content-type": f"application/{'json' if form == 'json' else 'x-protobuf'}"}, body)])
    destination = make.http(tempo.url)
    make.put(destination, traces(1, 2, 3))
    assert destination.flush(10)
    found = destination.status()
    assert found["sent"] == 1
    assert found["dropped"] == {"rejected_by_destination": 2}
    assert "trace too old" in found["last_error"]["message"]
    assert len(found["last_error"]["message"]) < 400
    assert "\n" not in found["last_error"]["message"]
    assert len(tempo.requests) == 1


class Overtaking(logging.Handler):
    """Shuts a destination down at the moment when it speaks of an answer."""

    def __init__(self, destination: Destination) -> None:
        super().__init__()
        self._destination = destination

    def emit(self, record: logging.LogRecord) -> None:
        ending = threading.Thread(target=self._destination.shutdown, args=(0,))
        ending.start()
        ending.join(10)


def test_a_success_that_shutdown_overtakes_is_not_repeated_after_a_restart(make: Make, tempo: FakeLangfuse) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.error_message = "some spans are old"
    tempo.script([Reply(200, {"content-type": "application/x-protobuf"}, answer.SerializeToString())])
    make.journal.durable = True
    destination = make.http(tempo.url)
    overtaking = Overtaking(destination)
    logger = logging.getLogger("otel_langfuse.sidecar.destinations.otlp")
    logger.addHandler(overtaking)
    try:
        entry = make.put(destination, traces(1))
        assert make.journal.wait_done(entry, 10)
    finally:
        logger.removeHandler(overtaking)
    assert counted(destination, "left_in_journal") == 1
    assert len(tempo.requests) == 1


# ---------------------------------------------------------------------------------------------------------- too large


def test_what_is_too_large_goes_in_halves_and_a_single_span_is_dropped(make: Make, tempo: FakeLangfuse) -> None:
    tempo.limit_bytes(2500)
    destination = make.http(tempo.url, compression="none")
    huge = ExportTraceServiceRequest.FromString(traces(9, size=5000))
    payload = traces(*range(1, 8), size=1000) + huge.SerializeToString()
    entry = make.put(destination, payload)
    assert destination.flush(10)
    assert sorted(span.span_id[-1] for span in tempo.spans) == [1, 2, 3, 4, 5, 6, 7]
    services = {(s.span_id[-1], g.resource.attributes[0].value.string_value)
                for e in tempo.exports for g in e.resource_spans for c in g.scope_spans for s in c.spans}  # fmt: skip
    assert services == {(n, "service 0" if n < 4 else "service 3") for n in range(1, 8)}
    assert destination.status()["dropped"] == {"too_large": 1}
    assert destination.status()["sent"] == 7
    assert make.journal.told == [("done", entry.id)]


def test_grpc_messages_beyond_the_limit_are_split(make: Make) -> None:
    server = GrpcBackend(options=[("grpc.max_receive_message_length", 3000)])
    try:
        destination = make.grpc(f"http://{server.address}", compression="none")
        make.put(destination, traces(*range(1, 9), size=1000))
        make.put(destination, traces(9, size=5000))
        assert destination.flush(10)
        names = [name for _, body, _ in server.received for name in names_in(body)]
        assert sorted(names) == [f"span {number}" for number in range(1, 9)]
        assert destination.status()["dropped"] == {"too_large": 1}
    finally:
        server.stop()


def test_halves_that_fail_are_sent_again_with_equal_bytes(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([Reply(413), Reply(503), Reply(503)])
    destination = make.http(tempo.url, sending_queue={"num_consumers": 1})
    make.put(destination, traces(1, 2, 3))
    assert destination.flush(10)
    bodies = [request.body for request in tempo.requests]
    assert len(bodies) == 5
    assert len(set(bodies)) == 3
    assert sorted(span.name for span in tempo.spans) == ["span 1", "span 2", "span 3"]


# --------------------------------------------------------------------------------------------------------------- grpc


@pytest.mark.parametrize(
    ("code", "details", "reason", "words"),
    [
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "unknown service",
            "unimplemented",
            "it takes no logs here; if it takes no logs, remove this",
        ),
        (grpc.StatusCode.UNAUTHENTICATED, "bad token", "unauthorized", "check the exporter's headers"),
        (grpc.StatusCode.PERMISSION_DENIED, "no", "forbidden", "check the exporter's headers"),
        (grpc.StatusCode.INVALID_ARGUMENT, "what?", "rejected", "does not accept these logs"),
        (grpc.StatusCode.INTERNAL, "oops", "rejected", "(oops)"),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "Decompressor is not installed for grpc-encoding gzip",
            "rejected",
            "compression: none",
        ),
    ],
)
def test_grpc_codes_that_cannot_pass(
    make: Make, backend: GrpcBackend, code: grpc.StatusCode, details: str, reason: str, words: str
) -> None:
    backend.script = [aborting(code, details)]
    destination = make.grpc(f"http://{backend.address}")
    make.put(destination, logs("a", "b"), signal=Signal.LOGS)
    assert destination.flush(10)
    assert destination.status()["dropped"] == {reason: 2}
    assert words in destination.status()["last_error"]["message"]
    assert f"answered {code.name} for 2 log records" in destination.status()["last_error"]["message"]


@pytest.mark.parametrize(
    ("code", "ambiguous"),
    [
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.ABORTED, False),
        (grpc.StatusCode.OUT_OF_RANGE, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, False),
        (grpc.StatusCode.CANCELLED, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, True),
        (grpc.StatusCode.DATA_LOSS, True),
    ],
)
def test_grpc_codes_that_may_pass(make: Make, backend: GrpcBackend, code: grpc.StatusCode, ambiguous: bool) -> None:
    backend.script = [aborting(code, "not now")]
    destination = make.grpc(f"http://{backend.address}", sampling={"percentage": 100}, content="truncate: 9")
    make.put(destination, traces(1, 2))
    assert destination.flush(10)
    assert destination.status()["sent"] == 2
    assert counted(destination, "ambiguous_resend") == (2 if ambiguous else 0)
    assert backend.received[0][1] == backend.received[1][1]


def test_retry_info_is_obeyed(make: Make, backend: GrpcBackend) -> None:
    clock = FakeClock()
    delay = Duration(seconds=7, nanos=500_000_000).SerializeToString()
    info = AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x0a" + bytes([len(delay)]) + delay)
    detail = info.SerializeToString()
    status = b"\x08\x08\x12\x04slow\x1a" + bytes([len(detail)]) + detail
    assert (retry_delay(status), status_message(status)) == (7.5, "slow")
    backend.script = [aborting(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow", (("grpc-status-details-bin", status),))]
    destination = make.grpc(f"http://{backend.address}", clock=clock, wait=clock.wait)
    make.put(destination, traces(1))
    assert backend.wait_for(1)
    assert clock.next_wait() == pytest.approx(7.5)
    pass_time(clock, lambda: destination.status()["sent"] == 1)


@given(st.binary(max_size=200))
def test_no_status_details_are_too_strange_to_be_read(data: bytes) -> None:
    assert isinstance(status_message(data), str)
    delay = retry_delay(data)
    assert delay is None or delay >= 0


def test_a_slow_grpc_backend_is_an_unknown_outcome(make: Make, backend: GrpcBackend) -> None:
    def slow(_: bytes, __: grpc.ServicerContext) -> bytes:
        backend.stopping.wait(10)
        return b""

    backend.script = [slow]
    destination = make.grpc(f"http://{backend.address}", timeout="400ms")
    make.put(destination, traces(1, 2))
    assert destination.flush(10)
    assert counted(destination, "ambiguous_resend") == 2
    assert destination.status()["sent"] == 2


def test_grpc_to_nobody_is_a_known_outcome(make: Make) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mute = make.grpc(f"http://127.0.0.1:{silent.getsockname()[1]}", name="otlp_grpc/mute", timeout="500ms")
        gone = make.grpc(f"http://127.0.0.1:{closed_port()}", name="otlp_grpc/gone")
        for destination in (mute, gone):
            make.put(destination, traces(1))
        assert eventually(lambda: bool(counted(mute, "retries") and counted(gone, "retries")))
        for destination in (mute, gone):
            assert counted(destination, "ambiguous_resend") == 0
            assert "no connection to 127.0.0.1" in destination.status()["last_error"]["message"]


def test_a_grpc_server_that_ends_midway_is_an_unknown_outcome_and_its_successor_gets_the_rest(make: Make) -> None:
    first = GrpcBackend()

    def vanish(_: bytes, __: grpc.ServicerContext) -> bytes:
        threading.Thread(target=first.stop).start()
        first.stopping.wait(10)
        threading.Event().wait(0.5)
        return b""

    first.script = [vanish]
    destination = make.grpc(f"http://{first.address}", timeout="2s")
    make.put(destination, traces(1, 2))
    assert eventually(lambda: counted(destination, "ambiguous_resend") == 2)
    second = GrpcBackend(port=first.port)
    try:
        assert destination.flush(20)
        assert destination.status()["sent"] == 2
        assert second.received[0][1] == first.received[0][1]
        assert counted(destination, "ambiguous_resend") == 2
    finally:
        second.stop()


def test_a_grpc_connection_that_answers_no_more_is_replaced(make: Make) -> None:
    """A host that vanished closes nothing: a proxy that passes bytes on, then swallows them, stands in for it."""
    server = GrpcBackend()
    proxy = Swallowing(server.port)
    try:
        destination = make.grpc(f"http://127.0.0.1:{proxy.port}", timeout="300ms", sending_queue={"num_consumers": 1})
        make.put(destination, traces(1))
        assert destination.flush(10)
        proxy.swallow.set()
        make.put(destination, traces(2))
        assert eventually(lambda: counted(destination, "ambiguous_resend") >= 1)
        proxy.swallow.clear()  # for new connections; the old one stays mute
        assert destination.flush(20)
        assert destination.status()["sent"] == 2
    finally:
        proxy.stop()
        server.stop()


class Swallowing:
    """A TCP proxy; connections that lived while ``swallow`` was set pass nothing on any more."""

    def __init__(self, target: int) -> None:
        self.swallow = threading.Event()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._target))
            mute = threading.Event()
            self._sockets += [client, upstream]
            for pair in ((client, upstream), (upstream, client)):
                self._threads.append(threading.Thread(target=self._pass, args=(*pair, mute)))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket, mute: threading.Event) -> None:
        try:
            while data := source.recv(65536):
                if self.swallow.is_set():
                    mute.set()
                if not mute.is_set():
                    sink.sendall(data)
        except OSError:
            pass

    def stop(self) -> None:
        for sock in (self._listener, *self._sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        for thread in self._threads:
            thread.join(5)


# ---------------------------------------------------------------------------------------------------- TLS and secrets


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def pem(path: Path, *blobs: trustme.Blob) -> str:
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return str(path)


def test_https_with_an_own_authority_a_client_certificate_and_another_name(
    make: Make, authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("tempo.internal").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    client = authority.issue_cert("sidecar")
    tls = {
        "ca_file": pem(tmp_path / "ca.pem", authority.cert_pem),
        "cert_file": pem(tmp_path / "cert.pem", *client.cert_chain_pems),
        "key_file": pem(tmp_path / "key.pem", client.private_key_pem),
        "server_name_override": "tempo.internal",
    }
    with FakeLangfuse(path="/v1/traces", tls=context) as server:
        destination = make.http(server.url, tls=tls)
        make.put(destination, traces(1))
        assert destination.flush(10)
        assert destination.status()["sent"] == 1
        stranger = make.http(server.url, name="otlp_http/stranger", tls={}, retry_on_failure={"enabled": False})
        make.put(stranger, traces(2))
        assert stranger.flush(10)
        assert stranger.status()["dropped"] == {"not_retried": 1}
        assert "tls.ca_file" in stranger.status()["last_error"]["message"]


def test_grpc_with_an_own_authority_a_client_certificate_and_another_name(
    make: Make, authority: trustme.CA, tmp_path: Path
) -> None:
    server_cert, client = authority.issue_cert("tempo.internal"), authority.issue_cert("sidecar")
    chain = b"".join(blob.bytes() for blob in server_cert.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(server_cert.private_key_pem.bytes(), chain)], authority.cert_pem.bytes(), require_client_auth=True
    )
    server = GrpcBackend(credentials=credentials)
    try:
        tls = {
            "ca_file": pem(tmp_path / "ca.pem", authority.cert_pem),
            "cert_file": pem(tmp_path / "cert.pem", *client.cert_chain_pems),
            "key_file": pem(tmp_path / "key.pem", client.private_key_pem),
            "server_name_override": "tempo.internal",
        }
        for number, endpoint in enumerate((server.address, f"https://{server.address}")):
            destination = make.grpc(endpoint, name=f"otlp_grpc/{number}", tls=tls)
            make.put(destination, traces(1))
            assert destination.flush(10)
            assert destination.status()["sent"] == 1
        plain = make.grpc(f"http://{server.address}", name="otlp_grpc/plain", retry_on_failure={"enabled": False})
        make.put(plain, traces(2))
        assert plain.flush(10)
        assert "https://" in plain.status()["last_error"]["message"]
    finally:
        server.stop()


def test_tls_to_a_server_without_says_what_to_write(make: Make, backend: GrpcBackend) -> None:
    destination = make.grpc(backend.address, retry_on_failure={"enabled": False})
    make.put(destination, traces(1))
    assert destination.flush(10)
    assert "write http://" in destination.status()["last_error"]["message"]


def test_a_missing_file_is_named_and_waited_for(make: Make, backend: GrpcBackend, tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    for number, destination in enumerate(
        (
            make.grpc(f"https://{backend.address}", tls={"ca_file": missing}, retry_on_failure={"enabled": False}),
            make.http("https://127.0.0.1:1", tls={"ca_file": missing}, retry_on_failure={"enabled": False}),
        )
    ):
        make.put(destination, traces(number + 1))
        assert destination.flush(10)
        assert missing in destination.status()["last_error"]["message"]


def test_secrets_show_nowhere(make: Make, tempo: FakeLangfuse, backend: GrpcBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "otel_langfuse")
    secret = "very-secret-token"
    headers = {"authorization": f"Bearer {secret}"}
    partial = ExportTraceServiceResponse()
    partial.partial_success.error_message = f"who is {secret}?"
    tempo.script([
        Reply(503), Reply(401), Reply(200, {"content-type": "application/x-protobuf"}, partial.SerializeToString()), reset()
    ])  # fmt: skip
    backend.script = [aborting(grpc.StatusCode.UNAUTHENTICATED, f"token {secret} is unknown")]
    over_http = make.http(tempo.url, headers=headers)
    over_grpc = make.grpc(f"http://{backend.address}", headers=headers)
    make.put(over_grpc, traces(1))
    for number in range(3):
        make.put(over_http, traces(number + 1))
        assert over_http.flush(10)
    assert over_grpc.flush(10)
    assert tempo.requests[0].headers["authorization"] == f"Bearer {secret}"
    assert backend.received[0][2]["authorization"] == f"Bearer {secret}"
    assert "[secret]" in over_grpc.status()["last_error"]["message"]
    shown = caplog.text + repr(over_http.status()) + repr(over_grpc.status()) + repr(over_http) + repr(over_grpc)
    shown += repr(vars(over_http)) + repr(vars(over_grpc))
    assert secret not in shown


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda make: make.http("http://h", headers={"bad name": "x"}), "headers"),
        (lambda make: make.http("http://h", headers={"x": "two\nlines-secret"}), "headers"),
        (lambda make: make.grpc("h:1", headers={"grpc-timeout": "secret"}), "cannot be used over gRPC"),
        (lambda make: make.grpc("h:1", headers={"x": "sécret"}), "plain ASCII"),
        (lambda make: make.http("", traces_endpoint="http://h/v1/traces"), "neither endpoint nor logs_endpoint"),
    ],
)
def test_what_could_never_be_sent_is_refused_at_once(make: Make, build: Callable[[Make], Destination], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(make)
    assert "secret" not in str(caught.value)
    assert "cret" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ queue, policy


def test_the_queue_is_bounded_in_bytes_of_entries(make: Make, tempo: FakeLangfuse) -> None:
    destination = make.http(tempo.url, start=False, sending_queue={"queue_size": 100}, wall_clock=lambda: 1_700_000_042.0)
    assert destination.has_room(100)
    assert not destination.has_room(101)
    entry = make.put(destination, payload := traces(1))
    assert destination.has_room(100 - len(payload))
    assert not destination.has_room(101 - len(payload))
    found = destination.status()
    assert (found["queue_bytes"], found["queue_items"], found["oldest_seconds"]) == (len(payload), 1, 42.0)
    destination.refuse(entry, "queue_full", "Raise it.")
    assert destination.status()["dropped"] == {"queue_full": 1}
    destination.start()
    assert destination.flush(10)
    assert destination.status()["queue_bytes"] == 0
    assert destination.has_room(100)


def test_sampling_leaves_out_traces_and_counts_them(make: Make, tempo: FakeLangfuse) -> None:
    destination = make.http(tempo.url, sampling={"percentage": 0})
    entry = make.put(destination, traces(1, 2))
    assert destination.flush(10)
    assert counted(destination, "not_sampled") == 2
    assert not destination.status()["dropped"]
    assert not tempo.requests
    assert make.journal.told == [("done", entry.id)]


def test_what_is_left_out_is_counted_once_however_often_the_rest_is_sent(make: Make, tempo: FakeLangfuse) -> None:
    request = ExportTraceServiceRequest.FromString(traces(1, 2))
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"\xff" * 16
    request.resource_spans[1].scope_spans[0].spans[0].trace_id = b"\x01" * 16
    tempo.script([Reply(503), Reply(503)])
    destination = make.http(tempo.url, sampling={"percentage": 50})
    make.put(destination, request.SerializeToString())
    assert destination.flush(10)
    assert counted(destination, "not_sampled") == 1
    assert destination.status()["sent"] == 1
    assert [span.name for span in tempo.spans] == ["span 2"]


def test_what_the_policy_cannot_read_does_not_go_out(make: Make, tempo: FakeLangfuse) -> None:
    destination = make.http(tempo.url, content="drop")
    make.put(destination, b"\xff gen_ai.input.messages")
    assert destination.flush(10)
    assert destination.status()["dropped"] == {"unreadable": 1}
    assert not tempo.requests


# ----------------------------------------------------------------------------------------------------------- shutdown


@pytest.mark.parametrize("durable", [True, False])
def test_shutdown_drains_and_says_what_is_left(make: Make, tempo: FakeLangfuse, durable: bool) -> None:
    make.journal.durable = durable
    never = threading.Event()
    destination = make.http(tempo.url)
    make.put(destination, traces(1))
    assert destination.flush(10)
    tempo.fail_until(never)
    entry = make.put(destination, traces(2, 3))
    assert not destination.shutdown(0.3)
    found = destination.status()
    assert found["sent"] == 1
    assert found["queue_items"] == 0
    assert found["dropped"] == ({} if durable else {"shutdown": 2})
    assert found["counters"].get("left_in_journal", 0) == (2 if durable else 0)
    assert make.journal.owed[entry.id] == ({destination.name} if durable else set())
    assert not destination.shutdown(1)
    assert not destination.has_room(1)
    destination.offer(make.journal.append(Signal.TRACES, traces(4), 1, [destination.name]))
    assert destination.status()["queue_items"] == 0


def test_shutdown_sends_what_waits_without_delay(make: Make, tempo: FakeLangfuse) -> None:
    tempo.script([Reply(503)])
    destination = make.http(tempo.url, retry_on_failure={"initial_interval": "300s", "max_interval": "300s"})
    make.put(destination, traces(1))
    assert eventually(lambda: destination.status()["failures"] == 1)
    assert destination.shutdown(10)
    assert destination.status()["sent"] == 1


def test_shutdown_gives_up_when_no_attempt_can_be_made_in_time(make: Make, tempo: FakeLangfuse) -> None:
    clock = FakeClock()
    tempo.script([Reply(429, {"retry-after": "60"})])
    destination = make.http(tempo.url, clock=clock, wait=clock.wait)
    make.put(destination, traces(1))
    assert clock.next_wait() == pytest.approx(60)
    assert not destination.shutdown(30)  # on a clock that stands still
    assert destination.status()["dropped"] == {"shutdown": 1}


def test_shutdown_ends_as_soon_as_the_last_request_cannot_be_repeated_in_time(make: Make, tempo: FakeLangfuse) -> None:
    answer = threading.Event()
    tempo.script([Reply(429, {"retry-after": "100"}, after=answer)])
    destination = make.http(tempo.url)
    make.put(destination, traces(1))
    assert tempo.wait_for_requests(1)
    ending = threading.Thread(target=destination.shutdown, args=(60,))
    ending.start()
    assert eventually(lambda: not destination.has_room(1))
    answer.set()
    ending.join(10)
    assert not ending.is_alive()
    assert destination.status()["dropped"] == {"shutdown": 1}


def test_a_request_in_flight_at_the_deadline_is_owed_again(make: Make, tempo: FakeLangfuse) -> None:
    make.journal.durable = True
    tempo.script([hang()])
    destination = make.http(tempo.url, timeout="30s")
    entry = make.put(destination, traces(1))
    assert tempo.wait_for_requests(1)
    assert not destination.shutdown(0.1)
    assert make.journal.told == [("attempt", entry.id)]
    assert counted(destination, "left_in_journal") == 1


def test_what_a_journal_on_disk_kept_goes_out_after_a_restart(make: Make, tempo: FakeLangfuse, tmp_path: Path) -> None:
    def opened() -> SqliteJournal:
        return SqliteJournal(tmp_path, max_bytes=1 << 20, max_age=3600, fsync=False, counters=Counters())

    up = threading.Event()
    tempo.fail_until(up)
    before = opened()
    make.journal = before  # type: ignore[assignment]
    first = make.http(tempo.url, sending_queue={"num_consumers": 1})
    first.offer(before.append(Signal.TRACES, traces(1), 1, [first.name]))
    assert eventually(lambda: first.status()["failures"] > 0)
    first.offer(before.append(Signal.TRACES, traces(2), 1, [first.name]))
    assert not first.shutdown(0.1)
    assert counted(first, "left_in_journal") == 2
    before.close()
    up.set()
    tried = {request.body for request in tempo.requests}
    after = opened()
    make.journal = after  # type: ignore[assignment]
    second = make.http(tempo.url)
    kept = after.recover().entries[second.name]
    for entry, attempted in kept:
        second.offer(entry, attempted=attempted)
    assert second.flush(10)
    assert second.status()["sent"] == 2
    assert counted(second, "ambiguous_resend") == sum(attempted for _, attempted in kept) == len(tried)
    assert tried <= {request.body for request in tempo.requests[-2:]}
    assert eventually(lambda: after.status()["entries"] == 0)
    assert second.shutdown(1)
    after.close()


def test_the_rest_of_a_split_entry_is_kept_without_what_was_delivered(make: Make, tempo: FakeLangfuse) -> None:
    make.journal.durable = True
    tempo.script([Reply(413), Reply(200), Reply(503), Reply(503)])
    destination = make.http(
        tempo.url, sending_queue={"num_consumers": 1}, retry_on_failure={"initial_interval": "60s", "max_interval": "60s"}
    )
    entry = make.put(destination, traces(1, 2, 3, 4))
    assert eventually(lambda: destination.status()["failures"] == 1)
    tempo.fail_until(threading.Event())
    assert not destination.shutdown(0.3)
    assert not make.journal.owed[entry.id]
    (rest,) = [number for number, owed in make.journal.owed.items() if owed]
    assert names_in(make.journal.payload(make.journal.entries[rest]) or b"") == ["span 3", "span 4"]
    assert counted(destination, "left_in_journal") == 2
    assert destination.status()["sent"] == 2


# -------------------------------------------------------------------------------------------------------------- debug


@pytest.mark.parametrize("verbosity", ["basic", "normal", "detailed"])
def test_debug_writes_a_line_for_each_request_and_never_a_value(
    make: Make, caplog: pytest.LogCaptureFixture, verbosity: str
) -> None:
    caplog.set_level(logging.INFO, "otel_langfuse")
    request = ExportTraceServiceRequest.FromString(traces(1, 2))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.name = "a name\nwith a break"
    span.attributes.add(key="gen_ai.input.messages").value.string_value = "the prompt"
    destination = make.debug(verbosity)
    make.put(destination, request.SerializeToString())
    make.put(destination, logs("the record's body"), signal=Signal.LOGS)
    assert destination.flush(10)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("debug")]
    assert len(lines) == 2
    assert lines[0].startswith(f"debug: traces, 2 spans, {request.ByteSize()} bytes")
    assert ("a name?with a break" in lines[0]) == (verbosity != "basic")
    assert ("gen_ai.input.messages" in lines[0]) == (verbosity == "detailed")
    assert (bytes(range(16)).hex() in lines[0]) == (verbosity == "detailed")
    assert "1 log record" in lines[1]
    assert not [word for word in ("the prompt", "the record's body", "service 0", "\n") if word in "".join(lines)]


def test_debug_lines_are_bounded(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "otel_langfuse")
    destination = make.debug("detailed")
    make.put(destination, traces(*range(1, 2000)))
    assert destination.flush(10)
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("debug")]
    assert line.endswith("and 1935 more")
    assert len(line) < 64 * 400


def test_gzip_bodies_are_the_same_for_the_same_payload(make: Make, tempo: FakeLangfuse) -> None:
    destination = make.http(tempo.url)
    for _ in itertools.repeat(None, 2):
        make.put(destination, traces(1, 2))
        assert destination.flush(10)
    first, second = (request.body for request in tempo.requests)
    assert first == second
    assert gzip.decompress(first) == traces(1, 2)

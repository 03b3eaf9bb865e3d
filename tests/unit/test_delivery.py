"""The queue and its thread: against a fake Langfuse over real sockets, and under a clock that tests move."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_langfuse.counters import Counters
from otel_langfuse.langfuse.answers import Endpoint
from otel_langfuse.langfuse.delivery import Delivery
from otel_langfuse.langfuse.transport import Answer, HttpTransport, TransportError
from otel_langfuse.langfuse.wire import EncodedSpan, encode_resource, encode_scope, encode_span
from otel_langfuse.testing import (
    FakeClock,
    FakeLangfuse,
    Reply,
    ScriptedTransport,
    accept_then_reset,
    hang,
    reset,
    slow_body,
)

PUBLIC, SECRET = "pk-lf-public", "sk-lf-secret"
RESOURCE, SCOPE = encode_resource({"service.name": "shop"}), encode_scope("openai", "1")
REFUSED = TransportError("refused", "the connection was refused")
UNKNOWN = TransportError("reset", "the connection broke", sent=True)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def make_span(name: str = "chat", text: str = "hello") -> EncodedSpan:
    trace_id, span_id = os.urandom(16), os.urandom(8)
    span = encode_span(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=b"",
        name=name,
        kind=1,
        start_ns=1,
        end_ns=2,
        attributes={"langfuse.observation.input": text},
        status_code=0,
        status_message="",
    )
    return EncodedSpan(trace_id, span_id, RESOURCE, SCOPE, span)


def make_spans(n: int) -> list[EncodedSpan]:
    return [make_span(str(index)) for index in range(n)]


def names(body: bytes) -> list[str]:
    message = ExportTraceServiceRequest.FromString(gzip.decompress(body))
    return [s.name for group in message.resource_spans for scoped in group.scope_spans for s in scoped.spans]


def hardly() -> float:
    """Jitter that shortens every wait to a twentieth, for tests in real time."""
    return -0.9


Make = Callable[..., Delivery]


@pytest.fixture
def make() -> Iterator[Make]:
    """Builds deliveries; each is shut down without waiting when the test ends."""
    made: list[Delivery] = []

    def build(transport: object, **options: object) -> Delivery:
        settings: dict[str, object] = {"counters": Counters(), "random": lambda: 1.0} | options
        made.append(Delivery(transport, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for delivery in made:
        delivery.shutdown(0)


@pytest.fixture
def server() -> Iterator[FakeLangfuse]:
    with FakeLangfuse(public_key=PUBLIC, secret_key=SECRET) as fake:
        yield fake


@pytest.fixture
def http(server: FakeLangfuse) -> Iterator[HttpTransport]:
    transport = HttpTransport(server.traces_url, public_key=PUBLIC, secret_key=SECRET)
    yield transport
    transport.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def timed(clock: FakeClock, **options: object) -> dict[str, object]:
    return {"clock": clock, "wait": clock.wait, "flush_at": 1, **options}


def settled(delivery: Delivery) -> bool:
    """Whether everything left; for deliveries whose clock does not move meanwhile."""
    return delivery.force_flush(10)


# Over HTTP: each answer, as the server gives it.


def test_delivers_each_span_once(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, flush_at=10)
    spans = make_spans(25)
    delivery.offer(spans[:7])
    delivery.offer(spans[7:])
    assert delivery.force_flush(10)
    assert [span.name for span in server.spans] == [str(index) for index in range(25)]
    counts = counters.counts
    assert (counts["sent"], counts["requests"]) == (25, 3)
    assert counts["bytes_sent"] == sum(len(request.body) for request in server.requests)
    assert counters.drops == {}
    status = delivery.status()
    assert (status["queue_bytes"], status["queued_spans"], status["last_error"]) == (0, 0, None)
    assert status["last_success_at"] == pytest.approx(time.time(), abs=60)


def test_spans_go_by_themselves_after_the_interval(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    make(http, flush_interval=0.01).offer(make_spans(2))
    assert server.wait_for(2)
    assert len(server.requests) == 1


@pytest.mark.parametrize("compress", [True, False])
def test_bodies_may_go_uncompressed(server: FakeLangfuse, http: HttpTransport, make: Make, compress: bool) -> None:
    delivery = make(http, compress=compress)
    delivery.offer(make_spans(1))
    assert delivery.force_flush(10)
    assert (server.requests[0].headers.get("content-encoding") == "gzip") == compress
    assert len(server.spans) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(302, {"location": "https://login.test/?session=1"}), "redirect"),
        (Reply(401), "unauthorized"),
        (Reply(403), "forbidden"),
        (Reply(404), "not_found"),
        (Reply(405), "rejected"),
        (Reply(200, {"content-type": "text/html"}, b"<html>Sign in</html>"), "not_langfuse"),
    ],
)
def test_permanent_failure_costs_one_request_and_one_log_line(
    server: FakeLangfuse,
    http: HttpTransport,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
    reason: str,
) -> None:
    """The queue goes on: what is wrong for one request may be right for the next, after a redeploy."""
    counters = Counters()
    delivery = make(http, counters=counters, flush_at=2, endpoint=Endpoint("langfuse.test"))
    server.script([reply, reply])
    with caplog.at_level(logging.WARNING):
        delivery.offer(make_spans(6))
        assert delivery.force_flush(10)
    assert counters.drops == {reason: 4}
    assert counters.counts["sent"] == 2
    assert "retries" not in counters.counts
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("otel_langfuse")]
    assert f"langfuse.test answered {reply.status} for 2 spans" in line
    error = delivery.status()["last_error"]
    assert (error["status"], error["message"] in line) == (reply.status, True)


def test_bad_keys_are_answered_by_the_server_itself(server: FakeLangfuse, make: Make) -> None:
    transport = HttpTransport(server.traces_url, public_key=SECRET, secret_key=PUBLIC)
    counters = Counters()
    endpoint = Endpoint.of(server.traces_url, public_key=SECRET, secret_key=PUBLIC)
    delivery = make(transport, counters=counters, endpoint=endpoint)
    delivery.offer(make_spans(1))
    assert delivery.force_flush(10)
    transport.close()
    assert counters.drops == {"unauthorized": 1}
    assert "swapped" in delivery.status()["last_error"]["message"]


def test_one_bad_span_does_not_cost_its_batch(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters)
    server.reject_if(lambda span: span.name == "5")
    delivery.offer(make_spans(12))
    assert delivery.force_flush(10)
    assert sorted(int(span.name) for span in server.spans) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert counters.drops == {"rejected": 1}
    assert counters.counts["sent"] == 11
    assert counters.counts["split_requests"] >= 1


def test_too_large_a_request_is_split_and_too_large_a_span_cut(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, compress=False)
    server.limit_bytes(6000)
    delivery.offer([make_span("small"), make_span("large", "x" * 20_000), make_span("other", "y" * 4000)])
    assert delivery.force_flush(10)
    found = {span.name: span.attributes[0].value.string_value for span in server.spans}
    assert found["small"] == "hello"
    assert found["other"] == "y" * 4000
    assert found["large"].startswith("xxx")
    assert found["large"].endswith(" bytes]")
    assert len(server.spans) == 3
    assert (counters.counts["sent"], counters.counts["cut_spans"], counters.drops) == (3, 2, {})


def test_a_span_that_stays_too_large_is_dropped(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, compress=False)
    server.limit_bytes(10)
    delivery.offer([make_span("large", "x" * 20_000)])
    assert delivery.force_flush(10)
    assert counters.drops == {"too_large": 1}


@pytest.mark.parametrize(
    ("behaviour", "known"),
    [
        (Reply(500), True),
        (Reply(503), True),
        (Reply(429, {"retry-after": "0"}), True),
        (Reply(408, {"retry-after": "0"}), False),
        (Reply(502), False),
        (reset(), False),
        (hang(), False),
    ],
)
def test_the_same_bytes_go_again(server: FakeLangfuse, http: HttpTransport, make: Make, behaviour: Reply, known: bool) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, timeout=0.3, random=hardly)
    server.script([behaviour])
    delivery.offer(make_spans(3))
    assert delivery.force_flush(10)
    first, second = server.requests
    assert first.body == second.body
    assert len(server.spans) == 3
    assert counters.counts.get("ambiguous_resend", 0) == (0 if known else 3)
    assert (counters.counts["retries"], counters.counts["sent"], counters.drops) == (1, 3, {})


def test_stored_and_then_reset_is_counted_as_ambiguous(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    """Langfuse merges equal rows, so the second copy does no harm in the end; that it exists is counted."""
    counters = Counters()
    delivery = make(http, counters=counters, random=hardly)
    server.script([accept_then_reset()])
    delivery.offer(make_spans(2))
    assert delivery.force_flush(10)
    assert len(server.spans) == 4
    assert (counters.counts["ambiguous_resend"], counters.counts["sent"]) == (2, 2)


def test_slow_body_after_success_is_no_reason_to_send_again(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, timeout=0.3)
    server.script([slow_body()])
    delivery.offer(make_spans(1))
    assert delivery.force_flush(10)
    assert (len(server.spans), counters.counts["sent"], counters.counts["requests"]) == (1, 1, 1)


def test_an_outage_costs_nothing_that_the_queue_holds(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, flush_at=5, random=hardly)
    over = threading.Event()
    server.fail_until(over)
    delivery.offer(make_spans(30))
    assert server.wait_for_requests(2)
    over.set()
    assert delivery.force_flush(30)
    assert sorted(int(span.name) for span in server.spans) == list(range(30))
    assert (counters.counts["sent"], counters.drops) == (30, {})


# Under a clock: when things happen.


def test_waits_grow_and_have_a_bound(make: Make, clock: FakeClock) -> None:
    transport = ScriptedTransport([Answer(503)] * 8)
    delivery = make(transport, **timed(clock))
    delivery.offer(make_spans(1))
    waits = []
    for attempt in range(1, 9):
        assert transport.wait_for(attempt)
        waits.append(clock.next_wait())
        clock.advance(waits[-1])
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert transport.wait_for(9)
    assert settled(delivery)
    assert len(set(transport.bodies)) == 1


def test_waits_are_jittered(make: Make, clock: FakeClock) -> None:
    delivery = make(ScriptedTransport([REFUSED]), **timed(clock, random=lambda: 0.0))
    delivery.offer(make_spans(1))
    assert clock.next_wait() == 0.25


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", 7.0),
        (format_datetime(datetime.fromtimestamp(5000, UTC) + timedelta(seconds=30), usegmt=True), 30.0),
        ("86400", 120.0),
    ],
)
def test_retry_after_is_obeyed_up_to_a_bound(make: Make, clock: FakeClock, value: str, wait: float) -> None:
    transport = ScriptedTransport([Answer(429, {"retry-after": value})])
    delivery = make(transport, **timed(clock, wall_clock=lambda: 5000.0))
    delivery.offer(make_spans(1))
    assert clock.next_wait() == wait
    delivery.offer(make_spans(1))
    clock.advance(wait - 0.25)
    assert clock.next_wait() == 0.25
    assert len(transport.bodies) == 1
    clock.advance(0.25)
    assert transport.wait_for(3)


def test_others_pass_a_request_that_keeps_failing(make: Make, clock: FakeClock) -> None:
    """A batch that the server cannot digest must not hold up the rest."""

    def post(body: bytes) -> Answer:
        return Answer(500 if names(body) == ["poison"] else 200)

    counters = Counters()
    transport = ScriptedTransport([post] * 10)
    delivery = make(transport, **timed(clock, counters=counters))
    delivery.offer([make_span("poison")])
    assert clock.next_wait() == 0.5
    delivery.offer([make_span("a"), make_span("b")])
    clock.advance(0.5)
    assert transport.wait_for(2)
    assert clock.next_wait() == 1.0
    clock.advance(1.0)
    assert transport.wait_for(4)
    assert [names(body) for body in transport.bodies[:4]] == [["poison"], ["poison"], ["a"], ["b"]]
    assert counters.drops == {}


def test_a_request_is_given_up_after_max_age(make: Make, clock: FakeClock) -> None:
    counters = Counters()
    transport = ScriptedTransport([Answer(503)] * 2)
    delivery = make(transport, **timed(clock, counters=counters, max_age=100))
    delivery.offer(make_spans(1))
    clock.next_wait()
    clock.advance(101)
    assert settled(delivery)
    assert counters.drops == {"expired": 1}


def test_an_unknown_outcome_is_not_ambiguous_for_ever(make: Make, clock: FakeClock) -> None:
    """Each resend is judged by what the attempt before it was."""
    counters = Counters()
    transport = ScriptedTransport([UNKNOWN, Answer(503)])
    delivery = make(transport, **timed(clock, counters=counters))
    delivery.offer(make_spans(1))
    for attempt in (1, 2):
        assert transport.wait_for(attempt)
        clock.advance(clock.next_wait())
    assert settled(delivery)
    assert (counters.counts["retries"], counters.counts["ambiguous_resend"]) == (2, 1)


def test_one_log_line_a_minute_about_an_outage(make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport([Answer(503)] * 9)
    delivery = make(transport, **timed(clock))
    with caplog.at_level(logging.WARNING):
        delivery.offer([make_span(text="the secret prompt")])
        for attempt in range(1, 10):
            assert transport.wait_for(attempt)
            clock.advance(clock.next_wait())
        assert settled(delivery)
    assert len(caplog.records) == 2
    assert "secret prompt" not in caplog.text


def test_batches_are_sealed_by_bytes(make: Make) -> None:
    transport = ScriptedTransport()
    delivery = make(transport, request_bytes=2500)
    delivery.offer([make_span(str(index), "x" * 1000) for index in range(5)] + [make_span("big", "x" * 9000)])
    assert settled(delivery)
    assert [names(body) for body in transport.bodies] == [["0", "1"], ["2", "3"], ["4"], ["big"]]


def test_full_queue_drops_the_newest(make: Make, clock: FakeClock) -> None:
    """The bound covers the open batch and sealed bytes, in flight ones too, and frees up as requests leave."""
    counters = Counters()
    gate = threading.Event()
    transport = ScriptedTransport([lambda _: Answer(200) if gate.wait(10) else Answer(500)])
    spans = [make_span(str(index)) for index in range(8)]
    size = spans[0].size
    delivery = make(transport, counters=counters, compress=False, flush_at=2, queue_bytes=5 * size)
    delivery.offer(spans)
    held = delivery.status()
    assert held["queue_bytes"] <= 5 * size + 200
    assert held["queued_spans"] + counters.drops["queue_full"] == 8
    assert counters.drops["queue_full"] >= 3
    gate.set()
    assert settled(delivery)
    assert counters.counts["sent"] == held["queued_spans"]
    assert delivery.status()["queue_bytes"] == 0
    delivery.offer(make_spans(1))
    assert settled(delivery)
    assert counters.counts["sent"] == held["queued_spans"] + 1


def test_offer_never_raises(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    delivery = make(ScriptedTransport(), counters=counters, flush_at=1)
    delivery.offer([EncodedSpan(b"", b"", None, b"", b"x")])  # type: ignore[arg-type]
    delivery.offer(make_spans(1))
    assert settled(delivery)
    assert (counters.drops, counters.counts["sent"]) == ({"internal_error": 1}, 1)
    assert "could not encode 1 spans" in caplog.text


def test_a_transport_that_breaks_its_promise_costs_one_request(make: Make) -> None:
    def broken(_: bytes) -> Answer:
        raise RuntimeError

    counters = Counters()
    delivery = make(ScriptedTransport([broken]), counters=counters, flush_at=1)
    delivery.offer(make_spans(2))
    assert settled(delivery)
    assert (counters.drops, counters.counts["sent"]) == ({"internal_error": 1}, 1)


# Flush and shutdown.


def test_flush_keeps_its_deadline(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    delivery = make(http)
    server.script([hang()])
    delivery.offer(make_spans(1))
    start = time.monotonic()
    assert not delivery.force_flush(0.2)
    assert time.monotonic() - start < 3


def test_flush_waits_only_for_what_came_before(make: Make) -> None:
    gate, flushed = threading.Event(), threading.Event()

    def second(_: bytes) -> Answer:
        gate.wait(10)
        return Answer(200)

    delivery = make(ScriptedTransport([Answer(200), second]), flush_at=1)
    delivery.offer(make_spans(1))
    assert delivery.force_flush(10)
    delivery.offer(make_spans(1))
    thread = threading.Thread(target=lambda: delivery.force_flush(10) and flushed.set())
    thread.start()
    assert not flushed.is_set()
    gate.set()
    assert flushed.wait(10)
    thread.join()


def test_flush_of_nothing(make: Make) -> None:
    """Before any span no thread is started, neither by flush nor by shutdown."""
    before = threading.active_count()
    delivery = make(ScriptedTransport())
    assert delivery.force_flush(0)
    assert delivery.shutdown(0)
    assert delivery.shutdown(0)
    assert threading.active_count() == before


def test_shutdown_drains_and_ends_the_thread(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    delivery = make(http, flush_at=3, name="ends")
    delivery.offer(make_spans(10))
    assert delivery.shutdown(10)
    assert len(server.spans) == 10
    assert not [thread for thread in threading.enumerate() if thread.name == "otel-langfuse-ends"]


def test_spans_after_shutdown_are_counted(make: Make) -> None:
    counters = Counters()
    delivery = make(ScriptedTransport(), counters=counters)
    assert delivery.shutdown(1)
    delivery.offer(make_spans(3))
    assert counters.drops == {"shutdown": 3}
    assert delivery.status()["queued_spans"] == 0
    assert delivery.force_flush(1)


def test_shutdown_against_a_hanging_endpoint(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    counters = Counters()
    delivery = make(http, counters=counters, flush_at=2)
    server.script([hang()])
    delivery.offer(make_spans(5))
    assert server.wait_for_requests(1)
    start = time.monotonic()
    assert not delivery.shutdown(0.3)
    assert time.monotonic() - start < 3
    assert counters.drops == {"shutdown": 5}
    assert not delivery.shutdown(5)
    assert counters.drops == {"shutdown": 5}


def test_shutdown_against_a_dead_endpoint(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    transport = HttpTransport(f"http://127.0.0.1:{port}/", public_key=PUBLIC, secret_key=SECRET)
    counters = Counters()
    delivery = make(transport, counters=counters)
    delivery.offer(make_spans(4))
    start = time.monotonic()
    assert not delivery.shutdown(0.6)
    assert time.monotonic() - start < 3
    assert counters.drops == {"shutdown": 4}
    assert counters.counts["requests"] >= 1
    transport.close()


def test_shutdown_ends_a_wait_with_one_more_attempt(make: Make, clock: FakeClock) -> None:
    transport = ScriptedTransport([REFUSED])
    delivery = make(transport, **timed(clock))
    delivery.offer(make_spans(1))
    clock.next_wait()
    assert delivery.shutdown(5)
    assert len(transport.bodies) == 2


def test_shutdown_does_not_wait_for_what_cannot_come(make: Make, clock: FakeClock) -> None:
    """The server said that it takes nothing for a minute, so five seconds need not be spent."""
    counters = Counters()
    transport = ScriptedTransport([Answer(429, {"retry-after": "60"})])
    delivery = make(transport, **timed(clock, counters=counters))
    delivery.offer(make_spans(2))
    clock.next_wait()
    assert not delivery.shutdown(5)
    assert counters.drops == {"shutdown": 2}
    assert clock() == 1000.0


def test_the_last_request_gets_the_time_that_is_left(make: Make, clock: FakeClock) -> None:
    transport = ScriptedTransport()
    delivery = make(transport, **timed(clock, flush_at=10))
    delivery.offer(make_spans(1))
    assert delivery.shutdown(2)
    assert transport.timeouts == [2]


def test_shutdown_sends_itself_when_no_thread_can_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is when the interpreter is going down."""

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread at interpreter shutdown"
        raise RuntimeError(message)

    transport = ScriptedTransport()
    delivery = make(transport)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        delivery.offer(make_spans(2))
        assert delivery.shutdown(5)
    assert [len(names(body)) for body in transport.bodies] == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_of_a_fork_starts_from_nothing(server: FakeLangfuse, http: HttpTransport, make: Make) -> None:
    """The parent's spans come from the parent, once; the child delivers its own with a thread of its own."""
    counters = Counters()
    delivery = make(http, counters=counters, flush_interval=3600)
    delivery.offer(make_spans(1))
    assert delivery.force_flush(10)
    delivery.offer([make_span("parent")])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            empty = delivery.status()["queued_spans"] == 0 and not counters.counts
            delivery.offer([make_span("child")])
            ok = delivery.shutdown(10) and counters.counts["sent"] == 1
            status = 0 if empty and ok else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert delivery.force_flush(10)
    assert [span.name for span in server.spans] == ["0", "child", "parent"]
    assert counters.counts["sent"] == 2


def test_many_threads_may_offer(make: Make) -> None:
    counters = Counters()
    delivery = make(ScriptedTransport(), counters=counters, flush_at=7)
    threads = [threading.Thread(target=delivery.offer, args=(make_spans(50),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert delivery.force_flush(10)
    assert (counters.counts["sent"], counters.drops) == (400, {})
    assert delivery.status()["queue_bytes"] == 0

"""The stand-ins that this package ships: they refuse what the real ones refuse, and leave nothing open."""

from __future__ import annotations

import gzip
import http.client
import threading
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_langfuse.testing import FakeClock, FakeLangfuse, OtlpSink, Reply, ScriptedTransport

PATH = "/api/public/otel/v1/traces"
PROTOBUF = {"content-type": "application/x-protobuf"}


def payload(*names: str, parents: dict[str, str] | None = None, ids: bool = True) -> bytes:
    """A request with spans whose ids are their names."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for start, name in enumerate(names):
        parent = (parents or {}).get(name, "").encode()
        span = spans.add(name=name, start_time_unix_nano=start, parent_span_id=parent)
        if ids:
            span.trace_id, span.span_id = b"t" * 16, name.encode()
    return request.SerializeToString()


def call(
    url: str, body: bytes, headers: dict[str, str] = PROTOBUF, *, path: str = PATH, method: str = "POST"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("body", "headers", "path", "method", "status"),
    [
        (payload("a"), PROTOBUF, PATH, "POST", 200),
        (gzip.compress(payload("a")), PROTOBUF | {"content-encoding": "gzip"}, PATH, "POST", 200),
        (b"", PROTOBUF, PATH, "POST", 200),
        (b"", PROTOBUF, PATH, "GET", 405),
        (payload("a"), PROTOBUF, "/v1/traces", "POST", 404),
        (payload("a"), {"content-type": "application/protobuf"}, PATH, "POST", 400),
        (payload("a"), PROTOBUF | {"content-encoding": "gzip"}, PATH, "POST", 400),
        (gzip.compress(payload("a")), PROTOBUF | {"content-encoding": "deflate"}, PATH, "POST", 400),
        (b"\xff\xff", PROTOBUF, PATH, "POST", 400),
        (payload("a", "b", ids=False), PROTOBUF, PATH, "POST", 400),
        (payload("a"), PROTOBUF | {"x-langfuse-ingestion-version": "5"}, PATH, "POST", 400),
        (payload("a"), PROTOBUF | {"x-langfuse-ingestion-version": "-1"}, PATH, "POST", 200),
    ],
    ids=[
        "plain",
        "gzip",
        "empty",
        "method",
        "path",
        "type",
        "no-gzip",
        "encoding",
        "garbage",
        "no-ids",
        "version-5",
        "version-1",
    ],
)
def test_fake_langfuse_refuses_as_langfuse_does(
    body: bytes, headers: dict[str, str], path: str, method: str, status: int
) -> None:
    with FakeLangfuse() as fake:
        assert call(fake.url, body, headers, path=path, method=method)[0] == status
        assert len(fake.spans) == (1 if status == 200 and body else 0)


def test_fake_langfuse_asks_for_its_keys() -> None:
    with FakeLangfuse(public_key="pk", secret_key="sk") as fake:
        assert call(fake.url, payload("a"))[0] == 401
        assert call(fake.url, payload("a"), PROTOBUF | {"authorization": "Basic cGs6c2s="})[0] == 200


def test_script_comes_before_rules_and_then_all_is_well() -> None:
    with FakeLangfuse() as fake:
        over = threading.Event()
        fake.fail_until(over)
        fake.limit_bytes(len(payload("a")))
        fake.reject_if(lambda span: span.name == "bad")
        fake.script([Reply(201, {"x-y": "z"}, b"made")])
        assert call(fake.url, payload("a")) == (201, b"made")
        assert call(fake.url, payload("b"))[0] == 503
        over.set()
        assert call(fake.url, payload("b", "c"))[0] == 413
        fake.limit_bytes(None)
        assert call(fake.url, payload("b", "bad"))[0] == 400
        assert call(fake.url, payload("b"))[0] == 200
        assert [span.name for span in fake.spans] == ["a", "b"]
        assert len(fake.requests) == 5
        assert fake.wait_for(2)
        assert not fake.wait_for(3, timeout=0)


def test_reply_may_wait_for_an_event() -> None:
    with FakeLangfuse() as fake:
        go = threading.Event()
        fake.script([Reply(after=go)])
        thread = threading.Thread(target=call, args=(fake.url, payload("a")))
        thread.start()
        assert fake.wait_for_requests(1)
        assert fake.spans == []
        go.set()
        assert fake.wait_for(1)
        thread.join()


def test_trees_are_what_langfuse_would_show() -> None:
    """Equal rows merge, orphans are roots, children are in order of start."""
    with FakeLangfuse() as fake:
        body = payload("root", "one", "two", "orphan", parents={"one": "root", "two": "root", "orphan": "gone"})
        call(fake.url, body)
        call(fake.url, body)
        (roots,) = fake.trees().values()
    assert [(root.name, [child.name for child in root.children]) for root in roots] == [
        ("root", ["one", "two"]),
        ("orphan", []),
    ]


def test_sink_takes_traces_and_logs_on_any_path() -> None:
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add(event_name="x")
    with OtlpSink() as sink:
        status, body = call(sink.url, payload("a"), path="/otlp/v1/traces")
        assert (status, ExportTraceServiceResponse.FromString(body)) == (200, ExportTraceServiceResponse())
        zipped = gzip.compress(logs.SerializeToString())
        assert call(sink.url, zipped, PROTOBUF | {"content-encoding": "gzip"}, path="/v1/logs")[0] == 200
        assert call(sink.url, b"", path="/v1/metrics")[0] == 404
        assert call(sink.url, b"\xff", path="/v1/traces")[0] == 400
        assert sink.wait_for(1)
        assert [span.name for span in sink.spans] == ["a"]
        assert [record.event_name for record in sink.log_records] == ["x"]
        assert len(sink.requests) == 4


def test_clock_moves_only_when_told() -> None:
    clock = FakeClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(2.5)
    assert clock() == 7.5


def test_clock_ends_waits() -> None:
    clock, condition, woken = FakeClock(), threading.Condition(), threading.Event()

    def wait() -> None:
        with condition:
            until = clock() + 3
            while (left := until - clock()) > 0:
                clock.wait(condition, left)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert clock.next_wait() == 3
    clock.advance(1)
    assert clock.next_wait() == 2
    assert not woken.is_set()
    clock.advance(2)
    assert woken.wait(10)
    thread.join()


def test_clock_says_when_nothing_waits() -> None:
    with pytest.raises(TimeoutError, match="nothing waits"):
        FakeClock().next_wait(real_timeout=0)


def test_scripted_transport_ends_with_success() -> None:
    transport = ScriptedTransport()
    assert transport.post(b"x", compressed=False, timeout=1).status == 200
    assert (transport.bodies, transport.timeouts, transport.wait_for(2, timeout=0)) == ([b"x"], [1], False)
